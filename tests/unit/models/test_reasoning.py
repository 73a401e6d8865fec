"""Every shape that the reasoning of a completion takes."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from safe_r1.models.reasoning import open_reasoning, split_reasoning
from safe_r1.models.thinking import ThinkingTags, tags_of_tokenizer, unknown_thinking

pytestmark = pytest.mark.slow

CASES = Path(__file__).parents[2] / "cases"
# Golds that are argued with: a surrogate that is escaped in the completion alone, and no answer where an
# unclosed block follows one.
DEBATED = ("lone surrogate", "answer mentions tag at line start and ends")


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        # The plain shapes.
        ("<think>\n因为\n</think>\n\n选 A", ("因为", "选 A")),
        ("因为\n</think>\n\n选 A", ("因为", "选 A")),
        ("<think>\n因为", ("因为", None)),
        ("<think>\n", ("", None)),
        ("选 A", ("", "选 A")),
        ("", ("", "")),
        ("<think>\n\n</think>\n\n选 A", ("", "选 A")),
        ("<think>因为</think>", ("因为", "")),
        ("  <think> 因为 </think>\n 选 A \n", ("因为", "选 A")),
        # Variants of the tag.
        ("<Think>因为</THINK>选 A", ("因为", "选 A")),
        ("< think >因为</ think >选 A", ("因为", "选 A")),
        ("<thinking>因为</thinking>选 A", ("因为", "选 A")),
        ("<reasoning>因为</reasoning>选 A", ("因为", "选 A")),
        ("＜think＞因为＜/think＞选 A", ("因为", "选 A")),
        ("◁think▷因为◁/think▷选 A", ("因为", "选 A")),
        ('<think time="3">因为<\\think>选 A', ("因为", "选 A")),
        # Tags repeated or nested: all of it is reasoning, up to the last closing tag that an answer follows.
        ("<think>\n<think>\n因为</think>选 A", ("因为", "选 A")),
        ("<think>一<think>二</think>三</think>选 A", ("一\n二\n三", "选 A")),
        ("<think>一</think>\n选 B\n<think>二</think>\n选 A", ("一\n\n选 B\n\n二", "选 A")),
        ("<think>一</think>选 B<think>二</think>选 A", ("一\n选 B\n二", "选 A")),
        ("好的。<think>因为</think>选 A", ("好的。\n因为", "选 A")),
        ("<think>因为</think></think>选 A", ("因为", "选 A")),
        ("<think>因为</think>选 A</think>", ("因为", "选 A")),
        # A block after the answer.
        ("<think>一</think>选 A\n<think>二</think>", ("一\n二", "选 A")),
        ("<think>一</think>选 A\n<think>二", ("一\n二", "选 A")),
        # Tags that are only mentioned.
        (
            "<think>写完“</think>”再答。`</think>` 之后</think>选 A",
            ("写完“</think>”再答。`</think>` 之后", "选 A"),
        ),
        ('<think>The "</think>" tag', ('The "</think>" tag', None)),
        ("<think>在 </think> 之后回答</think>选 A", ("在 \n 之后回答", "选 A")),
        ("<think>因为</think>标签 <think> 用于推理", ("因为", "标签 <think> 用于推理")),
        ("“<think>”是一个标签", ("", "“<think>”是一个标签")),
        ("I was thinking about <thinkpad>", ("", "I was thinking about <thinkpad>")),
        # Control tokens left over.
        ("<think>因为</think>选 A<｜end▁of▁sentence｜>", ("因为", "选 A")),
        ("<｜Assistant｜><think>\n因为<｜end▁of▁sentence｜>", ("因为", None)),
        ("选 A<|im_end|>\n<|im_start|>user\n下一题", ("", "选 A")),
        ("<|begin_of_text|>选 A<|eot_id|>", ("", "选 A")),
        ("<s> 选 A </s>", ("", "选 A")),
    ],
)
def test_split(completion, expected):
    assert split_reasoning(completion) == expected


def cases(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CASES / f"{name}.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("case", cases("reasoning"), ids=lambda case: case["why"])
def test_a_completion(case: dict[str, Any]):
    reasoning, answer = split_reasoning(case["input"])
    expected = case["gold"]["reasoning_has"]
    if case["why"] not in DEBATED:
        assert answer == case["gold"]["answer"]
        # The second stands for all of the text.
        assert expected in (None, "STILL_REASONING") or expected in reasoning


@pytest.mark.parametrize("case", cases("reasoning_own"), ids=lambda case: case["why"])
def test_a_completion_of_our_own(case: dict[str, Any]):
    assert split_reasoning(case["input"]) == (case["reasoning"], case["answer"])


def test_tags_of_the_model_go_before_known_forms():
    own = ThinkingTags("[[plan]]", "[[/plan]]")
    assert split_reasoning("[[plan]]先 <think> 想[[/plan]]选 A", own) == ("先 <think> 想", "选 A")
    assert split_reasoning("先想[[/plan]]选 A", own) == ("先想", "选 A")
    assert split_reasoning("[[plan]]先想", own) == ("先想", None)
    assert split_reasoning("<think>先想</think>选 A", own) == ("先想", "选 A")
    assert open_reasoning("<|assistant|>[[plan]]\n", own) == "[[plan]]\n"
    assert not open_reasoning("<|assistant|>[[plan]][[/plan]]", own)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["<think>", "</think>", "<|im_end|>"], None),
        (["[THINK]", "[/THINK]"], None),
        (["<|thoughts_begin|>", "<|thoughts_end|>"], None),
        (["<|cot_start|>", "<|cot_end|>"], ThinkingTags("<|cot_start|>", "<|cot_end|>")),
        (["<|reflect_open|>", "<|reflect_close|>"], ThinkingTags("<|reflect_open|>", "<|reflect_close|>")),
        (["[REASON]", "[/REASON]"], ThinkingTags("[REASON]", "[/REASON]")),
        (["<|reasoning_start|>"], None),
        (["<|im_start|>", "<|im_end|>"], None),
        ([], None),
    ],
)
def test_tags_are_found_in_a_tokenizer(tokens: list[str], expected: ThinkingTags | None):
    assert tags_of_tokenizer(tokens, "".join(tokens)) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<scratchpad>先想</scratchpad>选 A", "<scratchpad>"),
        ("[Reflection] 先想 [/Reflection] 选 A", "[Reflection]"),
        ("<|cot|>先想<|/cot|>选 A", "<|cot|>"),
        ("好的，用户想知道答案。答案：A。", "no tag"),
        ("Okay, so the user is asking about locks.", "no tag"),
        ("选 A", None),
        ("好的，下面是答案。", None),
        ("[答案] A", None),
        ("<b>A</b>", None),
    ],
)
def test_thoughts_in_an_unknown_form_are_noticed(answer: str, expected: str | None):
    assert unknown_thinking(answer) == expected


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "<think>",
            "</think>",
            "<think></think>",
            "x\n<think>",
            " ",
            "<",
            "<|",
            "<｜a｜>",
            "`</think>`",
            "\n<",
        ),
        *(
            "</think>`a`",
            "```python\n</think>\n```\n",
            "```\n",
            "&lt;",
            "[THINK]",
            "< / think",
            "\u200b",
            "好的",
        ),
        *("<|channel|>final<|message|>", "<answer>", "Here is my", "<|begin_of_box|>", "okay ", "\ufeff"),
    ],
)
def test_long_completions_take_no_long_time(unit):
    start = time.process_time()
    text = unit * (100_000 // len(unit))
    split_reasoning("<think>" + text + "</think>x")
    split_reasoning(text)
    unknown_thinking(text)
    assert time.process_time() - start < 2
