from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny_models import ARCHITECTURES, VOCAB_SIZE, make_tiny

DIALOGUE = [
    {"role": "system", "content": "请用中文回答。"},
    {"role": "user", "content": "1+1=?"},
    {"role": "assistant", "content": "<think>\n很简单\n</think>\n\n2"},
    {"role": "user", "content": "为什么？"},
]


@pytest.fixture(params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"tiny_{request.param}")


@pytest.mark.slow
def test_loads_and_generates(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        DIALOGUE, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    tokens = model.generate(**prompt, do_sample=False, min_new_tokens=8, max_new_tokens=8)
    completion = tokens[0, prompt["input_ids"].shape[1] :].tolist()
    assert len(completion) == 8
    assert len(set(completion)) > 2, "says one token over and over: a wrong engine could do as well"


def test_template_drops_earlier_reasoning_and_opens_the_next(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.apply_chat_template(DIALOGUE, add_generation_prompt=True, tokenize=False) == (
        "<｜begin▁of▁sentence｜>请用中文回答。<｜User｜>1+1=?<｜Assistant｜>\n\n2<｜end▁of▁sentence｜>"
        "<｜User｜>为什么？<｜Assistant｜><think>\n"
    )


def test_any_text_survives_the_tokenizer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "龘靐，Ünïcode 😀\n\t<think>好</think> 3.14"
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(tokens) == text
    assert len(tokenizer) == VOCAB_SIZE


def test_same_tokens_in_all_three(tiny_qwen2: Path, tiny_llama: Path, tiny_deepseek_v3: Path) -> None:
    text = "请先仔细思考，再给出最终答案。The answer is 1234."
    tokenizers = [
        AutoTokenizer.from_pretrained(folder) for folder in (tiny_qwen2, tiny_llama, tiny_deepseek_v3)
    ]
    first, *others = [tokenizer(text, add_special_tokens=False)["input_ids"] for tokenizer in tokenizers]
    assert all(tokens == first for tokens in others)


def test_same_seed_same_files(tmp_path: Path) -> None:
    one, same, other = (
        make_tiny("deepseek_v3", tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    for file in one.iterdir():
        assert file.read_bytes() == (same / file.name).read_bytes(), file.name
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_unknown_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="unknown architecture 'gpt2': expected one of qwen2, llama, deepseek_v3"
    ):
        make_tiny("gpt2", tmp_path)
