"""Every shape that the reasoning of a completion takes."""

import time

import pytest

from safe_r1.models.reasoning import split_reasoning


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


@pytest.mark.parametrize(
    "unit",
    ["<think>", "</think>", "<think></think>", "x\n<think>", " ", "<", "<|", "<｜a｜>", "`</think>`", "\n<"],
)
def test_long_completions_take_no_long_time(unit):
    start = time.process_time()
    split_reasoning("<think>" + unit * (100_000 // len(unit)) + "</think>x")
    assert time.process_time() - start < 2
