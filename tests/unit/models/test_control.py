"""Text that is reserved for the serving side, in tokenizers and templates of several kinds."""

import copy
from pathlib import Path
from typing import Any

import pytest

from safe_r1.models.chat import load_tokenizer
from safe_r1.models.control import control_text
from safe_r1.models.prompts import PLAIN, R1, read_prompt_format
from tests.tiny_models import ASSISTANT, EOS, USER

# Template and the text with which a teacher's run-on goes on after its answer.
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_end|>\n<|im_start|>user\n还有呢？",
    ),
    "zephyr, markers that are no tokens": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        "\n<|user|>\n还有呢？",
    ),
    "alpaca": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n\n' }}"
        "{% else %}{{ '### Response:\n' + m.content + eos_token + '\n\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
        "\n\n### Instruction:\n还有呢？",
    ),
    "deepseek before r1": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ 'User: ' + m.content + '\n\n' }}"
        "{% else %}{{ 'Assistant: ' + m.content + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
        "\n\nUser: 还有呢？",
    ),
}


def tokenizer_with(template: str, folder: Path) -> Any:
    tokenizer: Any = copy.deepcopy(load_tokenizer(str(folder)))
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_teacher_that_ran_on_is_found_in_every_template(name: str, tiny_qwen2: Path):
    template, run_on = TEMPLATES[name]
    tokenizer = tokenizer_with(template, tiny_qwen2)
    pattern = control_text(tokenizer, read_prompt_format(tokenizer))
    answer = "<think>\n想一想。\n</think>\n\n因为大气散射。\n\n1. 蓝光更短。"
    assert pattern.search(answer) is None
    assert pattern.search(answer + run_on) is not None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"想{EOS}", True),
        (f"{USER}再问", True),
        (f"答{ASSISTANT}", True),
        ("<think>\n想\n</think>\n\n答", False),
        ("User: 是常见的字段名", False),
        ("a < b |> c", False),
    ],
)
def test_tokens_of_r1(text: str, found: bool, tiny_qwen2: Path):
    assert bool(control_text(load_tokenizer(str(tiny_qwen2)), R1).search(text)) is found


@pytest.mark.parametrize(
    ("token", "is_control"),
    [
        ("<tool_call>", True),
        ("</tool_response>", True),
        ("<|fim_prefix|>", True),
        ("[TOOL_CALLS]", True),
        ("<｜tool▁calls▁begin｜>", True),
        ("<table>", False),
        ("    ", False),
        ("\n\n", False),
        ("DeepSeek", False),
    ],
)
def test_added_tokens_that_are_not_special_count_by_their_form(
    token: str, is_control: bool, tiny_qwen2: Path
):
    tokenizer: Any = copy.deepcopy(load_tokenizer(str(tiny_qwen2)))
    tokenizer.add_tokens([token])
    assert bool(control_text(tokenizer, R1).search(f"前面 {token} 后面")) is is_control


def test_a_base_model_does_not_learn_the_next_question(tiny_qwen2: Path):
    pattern = control_text(load_tokenizer(str(tiny_qwen2)), PLAIN)
    assert pattern.search("答案是三。\n问题：那么四呢？")
    assert not pattern.search("问题：这个词可以在开头。")


def test_words_of_a_marker_inside_a_line_are_text(tiny_qwen2: Path):
    tokenizer = tokenizer_with(TEMPLATES["deepseek before r1"][0], tiny_qwen2)
    pattern = control_text(tokenizer, read_prompt_format(tokenizer))
    assert not pattern.search("The field User: holds the name; Assistant: is a job.")
