"""Cells of a user's questions hold anything: what is read from them is checked against what was written."""

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_r1.benchmarks.options import swap_options
from safe_r1.benchmarks.own.cells import RowError, parsed, read_history, read_result
from safe_r1.benchmarks.own.choices import NumberAnswer, lettered, read_choice, read_options
from safe_r1.benchmarks.own.ids import Where
from safe_r1.benchmarks.own.mapping import Columns
from safe_r1.benchmarks.own.rows import RowReader
from safe_r1.benchmarks.own.settings import OwnSettings
from safe_r1.benchmarks.own.words import fold, option_place, rank, read_task

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize(
    ("read", "value"),
    [(read_options, ["好\udc00", "坏"]), (read_history, [{"role": "user", "content": "你好\ud83d"}])],
)
def test_half_of_a_surrogate_pair_that_a_cell_escapes_is_an_error_of_its_row(read: Any, value: object):
    with pytest.raises(RowError, match=r"a cell is not taken \(not Unicode: a lone surrogate in "):
        read(json.dumps(value), "cell")
    assert read(json.dumps(value).replace("\\udc00", "\\u4e00").replace("\\ud83d", "\\ud83d\\ude00"), "cell")


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


@given(options_lists, st.data())
def test_labels_and_not_places_tell_the_right_option(texts: list[str], data: st.DataObject):
    letters = "ABCDEFGH"[: len(texts)]
    labels = data.draw(
        st.sampled_from([list(letters), list(letters.lower()), [str(n) for n in range(1, len(texts) + 1)]])
    )
    pairs = data.draw(st.permutations(list(zip(labels, texts, strict=True))))
    shapes: list[object] = [
        dict(pairs),
        [{"label": label, "text": text} for label, text in pairs],
        {"label": [label for label, _ in pairs], "text": [text for _, text in pairs]},
    ]
    for shape in shapes:
        options = read_options(shape, "options")
        assert list(options.values()) == texts
        for label, text in pairs:
            choice = read_choice(label, options, "answer")
            assert isinstance(choice, str)
            assert options[choice] == text
    marked = [f"{label}. {text}" for label, text in pairs]
    if labels[0] in "Aa" and pairs != sorted(pairs, key=lambda pair: pair[0]):
        with pytest.raises(RowError, match="do not run from A on"):
            read_options(marked, "options")


@pytest.mark.parametrize(
    "options",
    [
        {"A": "", "B": "乙", "C": "丙", "D": "丁"},
        {"A": "甲", "B": None, "C": "丙"},
        {"A": "甲", "C": "丙"},
        {"B": "甲", "C": "丙"},
        [{"label": "A", "text": "甲"}, {"label": "A", "text": "乙"}],
        {"text": ["甲", "乙"], "label": ["B", "C"]},
        {"text": ["甲", "乙"], "label": ["A"]},
        {"A": "B. 乙", "B": "A. 甲"},
        ["B. 乙", "A. 甲"],
        ["B. 乙", "C. 甲"],
        "B. 乙\nA. 甲",
    ],
)
def test_letters_with_a_gap_or_in_another_order_do_not_fit(options: object):
    with pytest.raises(RowError, match=r"do not run from A on|an option is empty|differ in number"):
        read_options(options, "options")


@pytest.mark.parametrize("text", ["A.上海;B.北京", "A. 上海； B. 北京；", "A.上海|B.北京", "上海;北京"])
def test_what_separates_options_belongs_to_none(text: str):
    assert read_options(text, "options") == {"A": "上海", "B": "北京"}


@pytest.mark.parametrize("answer", ["选B项", "正确答案：B", "标准答案:b", "答案是B", "B项", "B选项", "选项B"])
def test_answers_with_words_around_the_letter(answer: str):
    assert read_choice(answer, {"A": "甲", "B": "乙"}, "answer") == "B"


@given(st.permutations(["0", "1", "2", "3", "8", "12"]), st.sampled_from([0, 1, "text", None]), st.data())
def test_a_number_is_an_index_where_that_is_set(texts: list[str], base: Any, data: st.DataObject):
    options = dict(zip("ABCDEF", texts, strict=True))
    text = data.draw(st.sampled_from(texts))
    choice = read_choice(text, options, "answer", base)
    letter = "ABCDEF"[texts.index(text)]
    assert choice == (letter if base == "text" else NumberAnswer(int(text), letter))


@pytest.mark.parametrize(
    ("cell", "result"),
    [
        ("２", "2"),
        ("１／２", "1/2"),
        ("－3", "-3"),
        ("1，000", "1000"),
        ("答案：2", "2"),
        ("正确答案为 ２", "2"),
        ("$x²$", "x²"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\left[1，2\right)", r"\left[1, 2\right)"),
    ],
)
def test_results_in_full_width(cell: str, result: str):
    assert read_result(cell, "answer") == result


@given(st.text(min_size=1, max_size=60).filter(str.strip), options_lists)
def test_swapping_twice_gives_the_question_back(stem: str, texts: list[str]):
    reader = RowReader("q", Columns(question="q", options="o", answer="a"), OwnSettings(task="mcq"))
    sample = reader.read({"q": stem, "o": texts, "a": texts[0]}, Where("q.jsonl", "line", 1))
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
