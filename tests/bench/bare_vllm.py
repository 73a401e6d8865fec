"""``vllm.LLM`` alone on tokenized prompts: ``bare_vllm.py WORK.json RESULT.json``.

``WORK.json`` holds ``engine`` (arguments of ``vllm.LLM``) and ``prompts``, a JSONL file with ``key``,
``prompt_token_ids`` and ``sampling`` (arguments of ``SamplingParams``) in each row.
"""

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt


def main(work_file: str, result_file: str) -> None:
    work = json.loads(Path(work_file).read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in Path(work["prompts"]).read_text(encoding="utf-8").splitlines()]
    engine = LLM(**work["engine"])
    prompts = [TokensPrompt(prompt_token_ids=row["prompt_token_ids"]) for row in rows]
    outputs = engine.generate(prompts, [SamplingParams(**row["sampling"]) for row in rows], use_tqdm=False)
    completions = [
        {"key": row["key"], "text": output.outputs[0].text} for row, output in zip(rows, outputs, strict=True)
    ]
    Path(result_file).write_text(json.dumps({"rows": completions}, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
