"""The tiny checkpoints give the same tokens in vLLM as in transformers: tests on them hold for both."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny_models import ARCHITECTURES

NUM_TOKENS = 16
QUESTIONS = (
    "1+1=?",
    "请先仔细思考，再给出最终答案：这句话是否存在风险？",
    "Let me think about this question step by step.",
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folders(tiny_qwen2: Path, tiny_llama: Path, tiny_deepseek_v3: Path) -> dict[str, Path]:
    return dict(zip(ARCHITECTURES, (tiny_qwen2, tiny_llama, tiny_deepseek_v3), strict=True))


@pytest.fixture(scope="module")
def vllm_tokens(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[list[int]]]:
    """Greedy completions of the three models in vLLM."""
    scratch = tmp_path_factory.mktemp("vllm-greedy")
    (scratch / "prompts.json").write_text(
        json.dumps({str(folder): _prompts(folder) for folder in folders.values()})
    )
    script = Path(__file__).with_name("vllm_greedy.py")
    command = [sys.executable, script, scratch / "prompts.json", scratch / "tokens.json", str(NUM_TOKENS)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=570, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    tokens = json.loads((scratch / "tokens.json").read_text())
    return {arch: tokens[str(folder)] for arch, folder in folders.items()}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_vllm_and_transformers_agree(
    arch: str, folders: dict[str, Path], vllm_tokens: dict[str, list[list[int]]]
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folders[arch])
    for prompt, tokens in zip(_prompts(folders[arch]), vllm_tokens[arch], strict=True):
        out = model.generate(
            torch.tensor([prompt]), do_sample=False, min_new_tokens=NUM_TOKENS, max_new_tokens=NUM_TOKENS
        )
        assert tokens == out[0, len(prompt) :].tolist()


def _prompts(folder: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    dialogues = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [
        tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        for turns in dialogues
    ]
