import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safe_r1.errors import ModelError
from safe_r1.models.chat import load_tokenizer, render_text
from safe_r1.models.checkpoints import demo_model
from safe_r1.models.prompts import CHAT, PLAIN, R1, end_of_turn
from safe_r1.schema import Message
from safe_r1.train.config import PackConfig
from safe_r1.train.tokens import Document, encode, fit, tokenizer_identity

EOS = "<｜end▁of▁sentence｜>"
REASONING, ANSWER = "用户想知道原因，\n我先想一想。", "因为大气散射。\n\n1. 蓝光更短。"
RESPONSE = f"<think>\n{REASONING}\n</think>\n\n{ANSWER}"


def turns(*contents: str, system: str | None = None) -> list[Message]:
    """User and assistant in turn, after a system turn if there is one."""
    rest = [
        Message(role=("user", "assistant")[place % 2], content=content)
        for place, content in enumerate(contents)
    ]
    return [*([Message(role="system", content=system)] if system else []), *rest]


@pytest.fixture(params=["tiny_qwen2", "tiny_llama", "tiny_deepseek_v3"])
def r1(request: pytest.FixtureRequest) -> Any:
    """The tokenizer of each architecture of the family, as its own class loads it."""
    return load_tokenizer(str(request.getfixturevalue(request.param)))


@pytest.fixture(scope="module")
def demo() -> Any:
    try:
        return load_tokenizer(str(demo_model()))
    except ModelError as error:
        pytest.skip(str(error))


def prompt_of(document: Document) -> list[int]:
    return document.input_ids[: document.num_prompt]


def learned(document: Document) -> list[int]:
    return [token for token, is_label in zip(document.input_ids, document.is_label, strict=True) if is_label]


def served(messages: list[Message], tokenizer: Any) -> list[int]:
    """What an engine makes of a dialogue by the model's stock template, without code of ours."""
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )


def test_what_is_trained_on_begins_with_what_is_served(r1: Any):
    messages = turns("天空为什么是蓝色的？ Why? \n", RESPONSE)
    [document] = encode(messages, R1, r1)
    assert prompt_of(document) == served(messages[:1], r1)
    assert r1.decode(prompt_of(document)) == render_text(messages[:1], R1, r1)[0]
    assert r1.decode(prompt_of(document)).endswith("<｜Assistant｜><think>\n")


def test_reasoning_answer_and_end_are_learned_and_nothing_else(r1: Any):
    [document] = encode(turns("天空为什么是蓝色的？", RESPONSE), R1, r1)
    assert r1.decode(learned(document)) == f"{REASONING}\n</think>\n\n{ANSWER}{EOS}"
    assert document.is_label == sorted(document.is_label)
    assert not document.is_label[0]
    assert document.reason is None


def test_a_system_turn_goes_where_serving_puts_it(r1: Any):
    [document] = encode(turns("问", RESPONSE, system="规则"), R1, r1)
    assert prompt_of(document) == served(turns("规则\n\n问"), r1)


def test_every_turn_is_learned_once_after_the_prefix_it_is_served_with(r1: Any):
    messages = turns("一", "<think>\n甲想\n</think>\n\n甲", "二", "<think>\n乙想\n</think>\n\n乙")
    first, second = encode(messages, R1, r1)
    assert [first.turn, second.turn] == [1, 3]
    assert prompt_of(first) == served(messages[:1], r1)
    assert prompt_of(second) == served(messages[:3], r1)
    assert "甲想" not in r1.decode(second.input_ids)  # the stock template drops it, so serving never shows it
    assert [r1.decode(learned(part)) for part in (first, second)] == [
        f"甲想\n</think>\n\n甲{EOS}",
        f"乙想\n</think>\n\n乙{EOS}",
    ]


@pytest.mark.slow
def test_an_earlier_turn_without_reasoning_is_context(r1: Any, demo: Any):
    messages = turns("一", "别人的话", "二", RESPONSE)
    for tokenizer, prompt in ((r1, R1), (demo, CHAT)):
        [document] = encode(messages, prompt, tokenizer)
        assert document.turn == 3
        assert "别人的话" in tokenizer.decode(prompt_of(document))
        assert "别人的话" not in tokenizer.decode(learned(document))


def test_the_first_templates_do_not_open_the_reasoning_and_give_the_same_tokens(tiny_qwen2: Path):
    tokenizer: Any = copy.deepcopy(load_tokenizer(str(tiny_qwen2)))
    before = encode(turns("问", RESPONSE), R1, tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("<think>\\n", "")
    assert not tokenizer.apply_chat_template(
        turns("问"), tokenize=False, add_generation_prompt=True
    ).endswith("<think>\n")
    assert encode(turns("问", RESPONSE), R1, tokenizer) == before


@pytest.mark.parametrize(
    ("prefix", "learned_text"),
    [
        ("<think>\n", "想\n</think>\n\n答"),
        ("<think>", "\n想\n</think>\n\n答"),
        ("<think>\n\n", "想\n</think>\n\n答"),
    ],
)
def test_the_completion_continues_the_prefix_of_the_prompt(prefix: str, learned_text: str, tiny_llama: Path):
    tokenizer: Any = copy.deepcopy(load_tokenizer(str(tiny_llama)))
    tokenizer.chat_template = tokenizer.chat_template.replace("<think>\\n", repr(prefix)[1:-1])
    [document] = encode(
        turns("问", "<think>\n想\n</think>\n\n答"), replace(R1, reasoning_prefix=prefix), tokenizer
    )
    assert tokenizer.decode(prompt_of(document)).endswith(prefix)
    assert tokenizer.decode(learned(document)) == learned_text + EOS


@pytest.mark.parametrize("opening", ["<think>\n", "\n<think>\n", ""])
def test_a_response_may_come_with_or_without_its_opening_tag(opening: str, tiny_llama: Path):
    tokenizer = load_tokenizer(str(tiny_llama))
    [document] = encode(turns("问", f"{opening}想\n</think>\n\n答"), R1, tokenizer)
    assert tokenizer.decode(learned(document)) == f"想\n</think>\n\n答{EOS}"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        turns("问"),
        turns("问", ""),
        turns("问", " \n"),
        [Message(role="assistant", content=RESPONSE)],
        [Message(role="system", content="规则"), Message(role="assistant", content=RESPONSE)],
    ],
)
def test_a_conversation_without_an_assistant_turn_gives_nothing(messages: list[Message], tiny_llama: Path):
    assert encode(messages, R1, load_tokenizer(str(tiny_llama))) == []


def test_a_reasoning_model_does_not_learn_to_answer_without_reasoning(tiny_llama: Path, demo: Any):
    [document] = encode(turns("问", "直接回答"), R1, load_tokenizer(str(tiny_llama)))
    assert document.reason == "no_reasoning"
    [document] = encode(turns("问", "直接回答"), CHAT, demo)
    assert document.reason is None
    assert demo.decode(learned(document)) == "直接回答<|im_end|>"


def test_an_empty_thought_is_learned_by_models_that_think_and_left_out_by_others(tiny_llama: Path, demo: Any):
    text = "<think>\n\n</think>\n\n直接回答"
    r1 = load_tokenizer(str(tiny_llama))
    [document] = encode(turns("问", text), R1, r1)
    assert document.reason is None
    assert str(r1.decode(document.input_ids)).endswith(f"<think>\n\n</think>\n\n直接回答{EOS}")
    [document] = encode(turns("问", text), CHAT, demo)
    assert demo.decode(learned(document)) == "直接回答<|im_end|>"


def test_an_end_of_turn_inside_the_text_is_not_learned(r1: Any, demo: Any):
    assert encode(turns("问", f"<think>\n想{EOS}\n</think>\n\n答"), R1, r1)[0].reason == "control_text"
    assert (
        encode(turns("问", "<think>\n想\n</think>\n\n答<|im_end|>"), CHAT, demo)[0].reason == "control_text"
    )


def test_the_demo_learns_its_reasoning_as_text(demo: Any):
    messages = turns("天空为什么是蓝色的？", RESPONSE, system="Be brief.")
    [document] = encode(messages, CHAT, demo)
    assert prompt_of(document) == served(messages[:2], demo)
    assert demo.decode(learned(document)) == RESPONSE + "<|im_end|>"
    # The template's line break after the turn is never generated: the engine has stopped.
    assert document.input_ids[-1] == demo.eos_token_id


def test_a_base_model_continues_text_and_ends(tiny_llama: Path):
    tokenizer = load_tokenizer(str(tiny_llama))
    [document] = encode(turns("问", "答"), PLAIN, tokenizer)
    assert prompt_of(document)[0] == tokenizer.bos_token_id
    assert str(tokenizer.decode(document.input_ids)).endswith(f"问题：问\n回答：答{EOS}")
    assert tokenizer.decode(learned(document)) == f"答{EOS}"


class TemplatedTokenizer:
    """A tokenizer whose template is a function of the turns."""

    name_or_path, chat_template = "fake", "x"

    def __init__(self, end: str, eos: str | None):
        self.end, self.eos_token = end, eos

    def apply_chat_template(
        self, messages: list[Message], tokenize: bool, add_generation_prompt: bool
    ) -> str:
        return "".join(f"[{turn['role']}]{turn['content']}{self.end}" for turn in messages)


def templated(end: str, eos: str | None) -> Any:
    return TemplatedTokenizer(end, eos)


@pytest.mark.parametrize(
    ("end", "eos", "expected"),
    [("<E>\n", "<E>", "<E>"), ("<E>", "<other>", "<E>"), (" <E><next>", "<E>", " <E>"), ("", "<E>", "<E>")],
)
def test_the_template_says_how_a_turn_ends(end: str, eos: str, expected: str):
    assert end_of_turn("chat", templated(end, eos)) == expected


def test_a_model_that_cannot_stop_is_refused():
    with pytest.raises(ModelError, match=r"fake has no (EOS|end) token"):
        end_of_turn("chat", templated("\n", None))


def test_a_row_that_is_too_long_is_dropped_or_cut_as_the_settings_say():
    document = Document(1, list(range(50)), 40)
    assert fit(document, PackConfig(seq_len=50)) is document
    dropped = fit(document, PackConfig(seq_len=45))
    assert (dropped.reason, dropped.was_cut) == ("too_long", False)
    cut = fit(document, PackConfig(seq_len=45, too_long="cut"))
    assert cut == Document(1, list(range(45)), 40, was_cut=True)
    assert fit(document, PackConfig(seq_len=40, too_long="cut")).reason == "prompt_too_long"


def test_the_identity_is_that_of_tokens_and_template(tiny_qwen2: Path, tiny_llama: Path):
    tokenizer: Any = copy.deepcopy(load_tokenizer(str(tiny_llama)))
    before = tokenizer_identity(tokenizer)
    assert tokenizer_identity(load_tokenizer(str(tiny_llama))) == before
    tokenizer.chat_template += " "
    after = tokenizer_identity(tokenizer)
    assert (after["tokenizer"] == before["tokenizer"], after["template"] == before["template"]) == (
        True,
        False,
    )
    tokenizer.add_tokens(["新词"])
    assert tokenizer_identity(tokenizer)["tokenizer"] != before["tokenizer"]
