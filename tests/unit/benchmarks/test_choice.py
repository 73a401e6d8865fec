"""The option that a completion chooses: labelled completions of our own writing, and hostile input."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from safe_r1.benchmarks.choice import extract_choice


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


HERE = Path(__file__).parent
CASES = _lines(HERE / "choice_cases.jsonl") + _lines(HERE / "choice_more_cases.jsonl")
REPORTED = _lines(HERE.parents[1] / "cases" / "mcq.jsonl")
YES_NO = {"A": "是", "B": "否"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted({case["kind"] for case in CASES}))
def test_labelled_completions(kind):
    wrong = [
        (case["completion"], case["expected"], choice)
        for case in CASES
        if case["kind"] == kind
        and (choice := extract_choice(case["completion"], case["options"], case.get("question")))
        != case["expected"]
    ]
    assert not wrong


def test_reported_cases_are_read_and_none_of_them_wrongly():
    choices = [extract_choice(case["input"]["completion"], case["input"]["options"]) for case in REPORTED]
    read = [(choice, case["gold"]) for choice, case in zip(choices, REPORTED, strict=True)]
    assert not [pair for pair in read if pair[0] is not None and pair[0] != pair[1]]
    assert sum(choice == gold for choice, gold in read) >= 0.97 * len(read)


def test_there_are_enough_cases_of_every_answer():
    assert len(CASES) >= 500
    assert {case["expected"] for case in CASES} == {"A", "B", "C", "D", "E", None}


@pytest.mark.parametrize(
    "options",
    [
        ["是", "否"],
        ["A. 是", "B. 否"],
        ["A .是", "B．否"],
        {"A": "是\xa0", "B": " 否 "},
        {"A": "是。", "B": "否。"},
    ],
)
def test_options_in_every_shape(options):
    assert extract_choice("否", options) == "B"
    assert extract_choice("答案：A. 是", options) == "A"


def test_letters_come_from_the_mapping():
    assert extract_choice("答案：B", {"a": "是", "b": "否"}) == "b"


def test_special_characters_in_options_are_plain_text():
    options = {"A": "C++ (旧版)", "B": ".*", "C": "[a-z]+", "D": "a|b"}
    assert extract_choice("答案：B", options) == "B"
    assert extract_choice("C++（旧版）", options) == "A"


def test_empty_options_choose_nothing():
    assert extract_choice("答案：A", {}) is None
    assert extract_choice("A", {"A": "", "B": ""}) == "A"


@pytest.mark.parametrize(
    "text", ["İncorrect", "ıncorrect", "ſ", "ǅ", "\ue000", "答案：\ue001", "\ud800", "ß", "K"]
)
def test_odd_characters(text):
    assert extract_choice(text, {"A": "True", "B": "False"}) in (None, "A", "B")


UNITS = """\
A|A、|选A|答案是|答案：A\n| |\n|\n\n?|(|（ ）|是|不是A，|\\boxed{|{|<|a |A. 是\nB. 否\n|问题：|1. 什么？\n|\
等等，|如果选A，|.|~~|第一个|A and |<think>|</think>|属于|正确的|认同|\\|\x0b|排除A|姓名权、|隐私权 |？\n"""


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS.split("|"))
def test_long_completions_take_no_long_time(unit):
    # Read in quadratic time, that many characters would take three times the limit.
    text = "x" + unit * (30_000 // len(unit)) + "x"
    for options in (
        YES_NO,
        {"A": "认同", "B": "不认同"},
        {"A": "姓名权", "B": "荣誉权", "C": "身份权", "D": "隐私权"},
    ):
        start = time.process_time()
        extract_choice(text, options)
        assert time.process_time() - start < 1.5


def test_a_long_loop_keeps_its_first_answer():
    assert extract_choice("B\n\n" + "问题：这样做合法吗？\nA. 是\nB. 否\n答案：A\n" * 5000, YES_NO) == "B"


@pytest.mark.slow
def test_never_raises_and_only_answers_with_a_letter():
    rng = random.Random(0)
    pieces = [
        "A",
        "B",
        "选",
        "答案",
        "是",
        "不",
        "：",
        "，",
        "\n",
        "。",
        "\\boxed{",
        "}",
        "否",
        "</think>",
        "？",
        "(",
        "E",
        "第二个选项",
        "等等，",
    ]
    for _ in range(2000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        assert extract_choice(text, YES_NO) in (None, "A", "B")
