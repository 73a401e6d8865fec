"""Near-duplicate removal by this project, one side of the corpus benchmark.

``corpus_ours.py PROMPTS FOLDER LANGUAGE``.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from safe_r1.corpus.dedup import Sketches, find_clusters, keep_best
from safe_r1.corpus.recipe import DedupConfig
from safe_r1.corpus.sketches import NUM_PERM, sketch
from safe_r1.resources import connect
from tests.bench.conditions import read_conditions

_ROWS_PER_TASK = 2_000


def main(prompts: str, folder: str, language: str) -> None:
    config = DedupConfig()
    connect(min_cpus=1)
    started = time.monotonic()
    rows = [json.loads(line) for line in Path(prompts).read_text("utf-8").splitlines()]
    table = pa.table({"id": [row["id"] for row in rows], "prompt": [row["prompt"] for row in rows]})
    blocks = [table.slice(start, _ROWS_PER_TASK) for start in range(0, len(rows), _ROWS_PER_TASK)]

    def sketch_batch(batch: pa.Table) -> pa.Table:
        return sketch(batch["prompt"].to_pylist(), config).append_column("id", batch["id"])

    data = ray.data.from_arrow(blocks).map_batches(sketch_batch, batch_format="pyarrow", batch_size=None)
    blocks_of_sketches: Any = data.to_arrow_refs()
    sketches = pa.concat_tables(ray.get(blocks_of_sketches)).sort_by("id")
    signatures = np.frombuffer(b"".join(sketches["signature"].to_pylist()), np.uint8).reshape(-1, NUM_PERM)
    columns = Sketches(
        sketches["exact"].to_numpy(), sketches["template"].to_numpy(), signatures, config.threshold
    )
    near = find_clusters(columns, lambda band: sketches[f"band_{band:02d}"].to_numpy(), config).near
    kept = np.unique(keep_best(columns, near, ()))
    seconds = time.monotonic() - started
    result = {
        "seconds": seconds,
        "kept": sketches["id"].to_numpy()[kept].tolist(),
        "language": language,
        "conditions": ray.get(ray.remote(read_conditions).remote()),
    }
    (Path(folder) / "result.json").write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
