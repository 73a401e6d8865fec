"""Greedy tokens from vLLM, in a process of its own: ``vllm_greedy.py PROMPTS.json TOKENS.json NUM_TOKENS``.

The first file holds prompts in tokens by model folder. The second gets for each the completions in tokens and
the size of the key-value cache in tokens. The models share the process one after the other: most of an
engine's start is importing vLLM.
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
    results = {
        model: _greedy(model, model_prompts, int(num_tokens)) for model, model_prompts in prompts.items()
    }
    Path(tokens_file).write_text(json.dumps(results))


def _greedy(model: str, prompts: list[list[int]], num_tokens: int) -> tuple[list[list[int]], int]:
    engine = LLM(model, dtype="float32", max_model_len=256, max_num_seqs=8, enforce_eager=True, seed=0)
    sampling = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    cache = engine.llm_engine.vllm_config.cache_config
    assert cache.num_gpu_blocks is not None
    cache_tokens = cache.num_gpu_blocks * cache.block_size
    del engine
    cleanup_dist_env_and_memory()
    return tokens, cache_tokens


if __name__ == "__main__":
    main(*sys.argv[1:])
