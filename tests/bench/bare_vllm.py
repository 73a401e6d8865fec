"""One side of the benchmark: ``vllm.LLM`` alone on prompts in tokens, ``bare_vllm.py WORK.json RESULT.json``.

``WORK.json`` holds ``engine`` (arguments of ``vllm.LLM``) and ``prompts``, a JSONL file whose lines hold
``key``, ``prompt_token_ids`` and ``sampling`` (arguments of ``SamplingParams``).
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams


def main(work_file: str, result_file: str) -> None:
    work = json.loads(Path(work_file).read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in Path(work["prompts"]).read_text(encoding="utf-8").splitlines()]
    started = time.monotonic()
    engine = LLM(**work["engine"])
    ready = time.monotonic()
    finished = _record_finishes(engine)
    prompts: list[Any] = [{"prompt_token_ids": row["prompt_token_ids"]} for row in rows]
    outputs = engine.generate(prompts, [SamplingParams(**row["sampling"]) for row in rows], use_tqdm=False)
    done = time.monotonic()
    result: dict[str, Any] = {"engine_start_s": ready - started, "generation_s": done - ready, "rows": []}
    for row, output in zip(rows, outputs, strict=True):
        completion = output.outputs[0]
        counts = {"tokens": len(completion.token_ids), "finished_s": finished[output.request_id]}
        result["rows"].append({"key": row["key"], "text": completion.text} | counts)
    Path(result_file).write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")


def _record_finishes(engine: LLM) -> dict[str, float]:
    """Notes when each request finishes, in the engine's own loop."""
    finished: dict[str, float] = {}
    step = engine.llm_engine.step

    def timed_step() -> Any:
        outputs = step()
        now = time.monotonic()
        finished.update((output.request_id, now) for output in outputs if output.finished)
        return outputs

    engine.llm_engine.step = timed_step
    return finished


if __name__ == "__main__":
    main(*sys.argv[1:])
