"""``vllm.LLM`` alone on tokenized prompts: ``bare_vllm.py WORK.json RESULT.json``.

``WORK.json`` holds ``engine`` (arguments of ``vllm.LLM``) and ``prompts``, a JSONL file with ``key``,
``prompt_token_ids`` and ``sampling`` (arguments of ``SamplingParams``) in each row.
"""

import json
import sys
import time
from pathlib import Path

from vllm import LLM, RequestOutput, SamplingParams
from vllm.inputs import TokensPrompt
from vllm.outputs import PoolingRequestOutput


def main(work_file: str, result_file: str) -> None:
    work = json.loads(Path(work_file).read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in Path(work["prompts"]).read_text(encoding="utf-8").splitlines()]
    started = time.monotonic()
    engine = LLM(**work["engine"])
    ready = time.monotonic()
    finished = _record_finishes(engine)
    prompts = [TokensPrompt(prompt_token_ids=row["prompt_token_ids"]) for row in rows]
    outputs = engine.generate(prompts, [SamplingParams(**row["sampling"]) for row in rows], use_tqdm=False)
    done = time.monotonic()
    completions: list[dict[str, object]] = []
    for row, output in zip(rows, outputs, strict=True):
        completion = output.outputs[0]
        completions.append(
            {
                "key": row["key"],
                "text": completion.text,
                "tokens": len(completion.token_ids),
                "finished_s": finished[output.request_id],
            }
        )
    result = {"engine_start_s": ready - started, "generation_s": done - ready, "rows": completions}
    Path(result_file).write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")


def _record_finishes(engine: LLM) -> dict[str, float]:
    """Times at which the requests finish, taken in the engine's own loop; filled while it runs."""
    finished: dict[str, float] = {}
    step = engine.llm_engine.step

    def timed_step() -> list[RequestOutput | PoolingRequestOutput]:
        outputs = step()
        now = time.monotonic()
        finished.update((output.request_id, now) for output in outputs if output.finished)
        return outputs

    engine.llm_engine.step = timed_step
    return finished


if __name__ == "__main__":
    main(*sys.argv[1:])
