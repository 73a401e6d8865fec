"""Greedy tokens from vLLM, in a process of its own: ``vllm_greedy.py PROMPTS.json TOKENS.json NUM_TOKENS``.

The first file holds prompts in tokens by model folder, the second gets completions in tokens in the same
shape. The models share the process one after the other: most of an engine's start is importing vLLM.
"""

import json
import os
import sys
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = (
    "0"  # no engine process: nothing is imported twice or left behind
)

from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory


def main(prompts_file: str, tokens_file: str, num_tokens: str) -> None:
    prompts: dict[str, list[list[int]]] = json.loads(Path(prompts_file).read_text())
    tokens = {
        model: _greedy(model, model_prompts, int(num_tokens)) for model, model_prompts in prompts.items()
    }
    Path(tokens_file).write_text(json.dumps(tokens))


def _greedy(model: str, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    engine = LLM(model, dtype="float32", max_model_len=256, max_num_seqs=8, enforce_eager=True, seed=0)
    sampling = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    del engine
    cleanup_dist_env_and_memory()
    return tokens


if __name__ == "__main__":
    main(*sys.argv[1:])
