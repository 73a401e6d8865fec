from typing import Any

import pytest

from safe_r1.corpus.rows import CorpusRow, normalise
from safe_r1.corpus.source import Source
from safe_r1.records.sources import RawRecord


def source(**changes) -> Source:
    base = {
        "name": "s",
        "path": "x.jsonl",
        "kind": "reasoning",
        "language": "zh",
        "licence": "MIT",
        "mapping": {"prompt": "q", "response": "r"},
    }
    return Source.model_validate(base | changes)


def row(value: Any, **changes) -> CorpusRow:
    return normalise(RawRecord(7, "x.jsonl:8", value), source(**changes))


def test_a_response_is_split_into_reasoning_and_answer():
    found = row({"q": " 一加一？ ", "r": "<think>\n心算。\n</think>\n\n二"})
    assert (found.row_id, found.prompt, found.reasoning, found.answer) == ("s/7", "一加一？", "心算。", "二")
    assert found.has_response


@pytest.mark.parametrize(
    ("response", "reasoning", "answer"),
    [
        ("心算。</think>二", "心算。", "二"),
        ("二", "", "二"),
        ("<think>心算", None, ""),
        ("<think></think>二", "", "二"),
    ],
)
def test_every_shape_of_a_response(response: str, reasoning: str | None, answer: str):
    found = row({"q": "一加一？", "r": response})
    assert (found.reasoning, found.answer) == (reasoning, answer)


def test_two_fields_or_none():
    mapping = {"prompt": "q", "reasoning": "a.think", "answer": "a.say", "id": "n"}
    found = row({"q": "一加一？", "a": {"think": "心算", "say": "二"}, "n": 12}, mapping=mapping)
    assert (found.reasoning, found.answer, found.source_id) == ("心算", "二", "12")
    assert not row({"q": "一加一？"}, mapping={"prompt": "q"}).has_response


def test_turns_of_other_names_are_read():
    turns = [
        {"from": "human", "value": "你好"},
        {"from": "gpt", "value": "你好！"},
        {"from": "human", "value": "一加一？"},
        {"from": "gpt", "value": "<think>想</think>二"},
    ]
    mapping = {"messages": "conversations", "role": "from", "content": "value"}
    found = row({"conversations": turns}, mapping=mapping)
    assert [turn["role"] for turn in found.messages] == ["user", "assistant", "user"]
    assert found.answer == "二"
    assert not row({"conversations": turns[:3]}, mapping=mapping).has_response


def test_gsm8k_is_read():
    value = {
        "q": "How many?",
        "r": "He has 48/2 = <<48/2=24>>24 clips.\nSo 24 + 1,000 = <<24+1000=1024>>1,024.\n#### 1,024",
    }
    found = row(value, language="en", mapping={"prompt": "q", "answer": "r", "solution": "gsm8k"})
    assert found.reasoning == "He has 48/2 = 24 clips.\nSo 24 + 1,000 = 1,024."
    assert found.answer == "24 + 1,000 = 1,024.\n\nThe answer is $\\boxed{1024}$."
    assert found.final == "1024"


def test_a_last_step_of_gsm8k_that_misses_the_result_is_no_answer():
    value = {"q": "How many?", "r": "She has 7.\nThen she buys 11.\n#### 18"}
    found = row(value, language="en", mapping={"prompt": "q", "answer": "r", "solution": "gsm8k"})
    assert found.answer == "The answer is $\\boxed{18}$."


def test_of_several_labels_the_one_that_the_recipe_names_first_counts():
    table = {"Piracy": "intellectual_property", "Illicit": "other_prohibited"}
    changes = {"mapping": {"prompt": "q", "category": "c"}, "categories": table, "kind": "safety"}
    assert row({"q": "怎么办？", "c": ["Illicit", "Piracy"]}, **changes).category == "intellectual_property"
    assert row({"q": "怎么办？", "c": ["Unknown", "Illicit"]}, **changes).category == "other_prohibited"


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (None, "x.jsonl:8"),
        ({"q": "一"}, "no field 'r', got q"),
        ({"q": 1, "r": "x"}, "expected a text"),
        ({"q": None, "r": "x"}, "no field 'q'"),
    ],
)
def test_malformed_records_are_dropped_with_their_place(value: Any, word: str):
    drop = row(value).drop
    assert drop is not None
    assert (drop.stage, drop.reason) == ("read", "malformed")
    assert word in drop.detail


def test_turns_that_do_not_alternate_are_malformed():
    turns = [{"role": "user", "content": "一"}, {"role": "user", "content": "二"}]
    drop = row({"m": turns}, mapping={"messages": "m"}).drop
    assert drop is not None
    assert "alternate" in drop.detail


@pytest.mark.parametrize("turns", ["你好", {"role": "user", "content": "你好"}, ["你好"], [{"role": "user"}]])
def test_messages_that_are_none_are_malformed(turns: Any):
    drop = row({"m": turns}, mapping={"messages": "m"}).drop
    assert drop is not None
    assert (drop.stage, drop.reason) == ("read", "malformed")


def test_categories_come_from_the_row_the_table_or_the_source():
    safety = {
        "kind": "safety",
        "mapping": {"prompt": "q", "category": "c"},
        "categories": {"Privacy": "privacy"},
    }
    assert row({"q": "问题", "c": "Privacy"}, **safety).category == "privacy"
    assert row({"q": "问题", "c": ["Other", "Privacy"]}, **safety).area == "rights"
    assert row({"q": "问题", "c": "性别歧视"}, **safety).category == "gender"
    assert row({"q": "问题", "c": "Other"}, **safety, category="honor").category == "honor"
    drop = row({"q": "问题", "c": "Other"}, **safety).drop
    assert drop is not None
    assert drop.reason == "no_category"


def test_a_row_survives_its_table_and_a_dropped_one_leaves_its_texts():
    found = row({"q": "一加一？", "r": "<think>想</think>二"})
    assert CorpusRow.from_table_row(found.to_table_row()) == found
    dropped = row({"q": "一"}).to_table_row()
    assert dropped["messages"] == []
    assert dropped["drop_reason"] == "malformed"
