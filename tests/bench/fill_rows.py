"""The job's stream of rows through an engine, alone: ``fill_rows.py WORK.json RESULT.json``.

``WORK.json`` holds ``requests`` (a JSONL file, a ``Request`` in each row), ``variant``, ``engine`` (an
``EngineConfig``), ``device`` and ``sampling``.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from safe_r1.config import EngineConfig
from safe_r1.inference.batch import generate
from safe_r1.inference.requests import EngineResult, Request, Sampling, in_batches
from safe_r1.models.checkpoints import prepare
from safe_r1.models.registry import get_variant
from safe_r1.resources import connect, disconnect


def main(work_file: str, result_file: str) -> None:
    work = json.loads(Path(work_file).read_text(encoding="utf-8"))
    lines = Path(work["requests"]).read_text(encoding="utf-8").splitlines()
    requests = [Request(**json.loads(line)) for line in lines]
    engine = EngineConfig.model_validate(work["engine"])
    variant, _ = prepare(get_variant(work["variant"]), engine.trust_remote_code)
    rows: list[EngineResult] = []

    def write(finished: Sequence[EngineResult]) -> None:
        rows.extend(finished)

    connect()
    stream = generate(
        in_batches(requests),
        variant,
        engine,
        work["device"],
        Sampling(**work["sampling"]),
        lambda result: result,
        write,
    )
    for counts in stream:
        if counts.failed:
            raise RuntimeError(f"{counts.failed} of {counts.rows} rows failed")
    disconnect()
    Path(result_file).write_text(json.dumps({"rows": rows}, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
