"""The tiny checkpoints give the same tokens in vLLM as in transformers: tests on them hold for both."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from safe_r1.config import EngineConfig
from safe_r1.inference.kv_cache import kv_capacity
from safe_r1.models.registry import get_variant
from tests.tiny_models import ARCHITECTURES

NUM_TOKENS = 16
QUESTIONS = (
    "1+1=?",
    "请先仔细思考，再给出最终答案：这句话是否存在风险？",
    "Let me think about this question step by step.",
)


class VllmRun(NamedTuple):
    """What vLLM gives for a model: completions in tokens, and the size of its key-value cache of one GiB."""

    tokens: list[list[int]]
    cache_tokens: int


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folders(tiny_qwen2: Path, tiny_llama: Path, tiny_deepseek_v3: Path) -> dict[str, Path]:
    return dict(zip(ARCHITECTURES, (tiny_qwen2, tiny_llama, tiny_deepseek_v3), strict=True))


@pytest.fixture(scope="module")
def vllm_runs(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, VllmRun]:
    """What vLLM gives for the three models."""
    scratch = tmp_path_factory.mktemp("vllm-greedy")
    (scratch / "prompts.json").write_text(
        json.dumps({str(folder): _prompts(folder) for folder in folders.values()})
    )
    script = Path(__file__).with_name("vllm_greedy.py")
    command = [sys.executable, script, scratch / "prompts.json", scratch / "tokens.json", str(NUM_TOKENS)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=570, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    results = json.loads((scratch / "tokens.json").read_text())
    return {arch: VllmRun(*results[str(folder)]) for arch, folder in folders.items()}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_vllm_and_transformers_agree(
    arch: str, folders: dict[str, Path], vllm_runs: dict[str, VllmRun]
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folders[arch])
    for prompt, tokens in zip(_prompts(folders[arch]), vllm_runs[arch].tokens, strict=True):
        out = model.generate(
            torch.tensor([prompt]), do_sample=False, min_new_tokens=NUM_TOKENS, max_new_tokens=NUM_TOKENS
        )
        assert tokens == out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_planned_key_value_cache_is_that_of_vllm(
    arch: str, folders: dict[str, Path], vllm_runs: dict[str, VllmRun]
) -> None:
    engine = EngineConfig(cpu_kv_cache_gib=1, max_model_len=256)
    capacity = kv_capacity(get_variant(str(folders[arch])), engine, "cpu")
    assert capacity is not None
    # Whole blocks of 128 tokens.
    assert 0 <= capacity.num_tokens - vllm_runs[arch].cache_tokens < 128


def _prompts(folder: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    dialogues = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [
        tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        for turns in dialogues
    ]
