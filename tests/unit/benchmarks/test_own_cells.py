"""Cells of a user's questions hold anything: what is read from them is checked against what was written."""

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_r1.benchmarks.options import swap_options
from safe_r1.benchmarks.own.cells import RowError, lettered, parsed, read_choice, read_history, read_options
from safe_r1.benchmarks.own.mapping import Columns
from safe_r1.benchmarks.own.rows import RowReader
from safe_r1.benchmarks.own.settings import OwnSettings
from safe_r1.benchmarks.own.words import fold, option_place, rank, read_task

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
# Words that no letter, number or mark could be mistaken for.
words = st.text(alphabet="东南西北春夏秋冬风花雪月", min_size=2, max_size=8)
options_lists = st.lists(words, min_size=2, max_size=8, unique=True)


@given(anything)
def test_a_cell_is_read_or_refused(value: object):
    for read in (read_options, read_history):
        with contextlib.suppress(RowError):
            read(value, "cell")
    for name in (fold, read_task_of, option_place_of):
        name(value)


def read_task_of(value: object) -> object:
    return read_task(value, "期望")


def option_place_of(value: object) -> object:
    return option_place(str(value))


@given(options_lists, st.data())
def test_every_form_of_options_and_answers_means_the_same(texts: list[str], data: st.DataObject):
    place = data.draw(st.integers(0, len(texts) - 1))
    letters = "ABCDEFGH"[: len(texts)]
    pairs = list(zip(letters, texts, strict=True))
    shapes: list[object] = [
        texts,
        json.dumps(texts, ensure_ascii=False),
        dict(pairs),
        dict(reversed(pairs)),
        "\n".join(f"{letter}. {text}" for letter, text in pairs),
        "|".join(texts),
        [{"label": letter, "text": text} for letter, text in pairs],
    ]
    for shape in shapes:
        options = read_options(shape, "options")
        assert list(options.items()) == pairs
        for answer in (
            letters[place],
            letters[place].lower(),
            texts[place],
            f"{letters[place]}. {texts[place]}",
        ):
            assert read_choice(answer, options, "answer") == letters[place]


@given(st.text(min_size=1, max_size=60).filter(str.strip), options_lists)
def test_swapping_twice_gives_the_question_back(stem: str, texts: list[str]):
    reader = RowReader("q", Columns(question="q", options="o", answer="a"), OwnSettings(task="mcq"))
    sample = reader.read({"q": stem, "o": texts, "a": texts[0]}, "row 1").sample
    swapped = swap_options(sample)
    assert list(swapped.options.values()) == list(reversed(texts))
    assert swapped.options[swapped.metadata["answer"]] == texts[0]
    metadata = {name: value for name, value in swapped.metadata.items() if name != "swap_of"}
    again = swap_options(type(swapped)(**{**vars(swapped), "metadata": metadata}))
    assert again.messages == sample.messages


@given(st.text(max_size=30))
def test_names_are_recognised_in_any_case_and_width(remark: str):
    for column in ("Question", "ＱＵＥＳＴＩＯＮ", " 问 题 ", "问题（必填）", "question*"):
        assert rank("question", column) is not None
    assert (rank("question", remark) is None) == (fold(remark) not in set(map(fold, ALIASES)))


ALIASES = (
    *("问题", "题目", "提问", "题干", "问题内容", "题目内容", "测试问题", "用户输入", "提示词"),
    *("prompt", "question", "query", "instruction", "input"),
)


@pytest.mark.parametrize("piece", ["(", "A.", "A. B. ", "[", '{"a":', "1,000", "\n", " ", "选项", "不"])
def test_long_hostile_cells_take_linear_time(piece: str):
    text = piece * (400_000 // len(piece))
    began = time.monotonic()
    for read in (
        lambda: read_options(text, "options"),
        lambda: read_history(text, "history"),
        lambda: read_choice(text, {"A": "x", "B": "y"}, "answer"),
        lambda: lettered([text, text], "options"),
    ):
        with contextlib.suppress(RowError):
            read()
    fold(text)
    parsed(text)
    read_task(text, "期望")
    assert time.monotonic() - began < 10
