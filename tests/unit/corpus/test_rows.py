from typing import Any

import pytest

from safe_r1.corpus.forms import describe, recognise
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


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ("ua", "ua"),
        ("sua", "sua"),
        ("uua", "ua"),
        ("uaaua", "uaua"),
        ("ssuuuaa", "sua"),
        ("au", "assistant_first"),
        ("sau", "assistant_first"),
        ("usa", "system_inside"),
        ("uta", "tool_turns"),
        ("uxa", "unknown_role"),
        ("s", "malformed"),
        ("", "malformed"),
    ],
)
def test_turns_in_any_order_are_repaired_without_losing_a_word_or_dropped_by_reason(
    roles: str, expected: str
):
    names = {"u": "user", "a": "assistant", "s": "system", "t": "tool", "x": "narrator"}
    turns = [{"role": names[role], "content": f"第{place}句"} for place, role in enumerate(roles)]
    found = row({"m": turns}, mapping={"messages": "m"})
    if found.drop:
        assert (found.drop.stage, found.drop.reason) == ("read", expected)
        return
    kept = [turn["content"] for turn in found.messages] + [found.answer or ""]
    assert [turn["role"][0] for turn in found.messages] == list(expected[: len(found.messages)])
    assert "\n\n".join(filter(None, kept)) == "\n\n".join(turn["content"] for turn in turns)
    assert bool(found.repairs) == (expected != roles)


def test_parts_and_reasoning_of_turns_are_read():
    parts = [{"type": "text", "text": "一加"}, {"type": "text", "text": "一？"}]
    turns = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "二", "reasoning_content": "心算"},
    ]
    found = row({"m": turns}, mapping={"messages": "m"})
    assert (found.prompt, found.reasoning, found.answer) == ("一加一？", "心算", "二")
    assert found.repairs == ["joined_parts"]
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}
    dropped = row({"m": [image, turns[1]]}, mapping={"messages": "m"}).drop
    assert dropped is not None
    assert dropped.reason == "not_text"


def test_two_answers_with_reasoning_in_a_row_are_not_joined():
    turns = [{"role": "user", "content": "问"}] + [
        {"role": "assistant", "content": "<think>想</think>答"}
    ] * 2
    dropped = row({"m": turns}, mapping={"messages": "m"}).drop
    assert dropped is not None
    assert dropped.reason == "two_answers"


ALPACA = {
    "instruction": "翻译",
    "input": "hello",
    "output": "你好",
    "history": [["在吗", "在"]],
    "system": "译员",
}


@pytest.mark.parametrize(
    ("value", "roles", "prompt", "reasoning", "answer"),
    [
        (ALPACA, "suau", "翻译\n\nhello", "", "你好"),
        ({"instruction": "翻译", "input": "", "output": "你好"}, "u", "翻译", "", "你好"),
        ({"prompt": "一加一？", "response": "<think>想</think>二"}, "u", "一加一？", "想", "二"),
        ({"question": "一加一？", "answer": "二", "reasoning": "想"}, "u", "一加一？", "想", "二"),
        ({"问题": "一加一？", "回答": "二", "思考": "想"}, "u", "一加一？", "想", "二"),
        (
            {
                "conversations": [{"from": "human", "value": "一加一？"}, {"from": "gpt", "value": "二"}],
                "system": "老师",
            },
            "su",
            "一加一？",
            "",
            "二",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "一加一？"},
                    {"role": "assistant", "content": "二", "reasoning_content": "想"},
                ],
                "weight": 1,
            },
            "u",
            "一加一？",
            "想",
            "二",
        ),
    ],
)
def test_forms_are_recognised(value: Any, roles: str, prompt: str, reasoning: str, answer: str):
    found = row(value, mapping=None)
    assert found.drop is None
    assert "".join(turn["role"][0] for turn in found.messages) == roles
    assert (found.messages[-1]["content"], found.reasoning, found.answer) == (prompt, reasoning, answer)


@pytest.mark.parametrize("value", [{"text": "一段话"}, {"prompt": "问"}, {"messages": ["问"]}, {}])
def test_what_has_no_known_form_names_its_fields(value: Any):
    drop = row(value, mapping=None).drop
    assert drop is not None
    assert (drop.stage, drop.reason) == ("read", "unknown_form")
    assert all(name in drop.detail for name in value)


def test_fields_that_are_not_read_are_known():
    form = recognise(ALPACA | {"score": 3, "lang": "zh"})
    assert form is not None
    assert (form.name, form.unused) == ("Alpaca", ("lang", "score"))
    assert describe([ALPACA, ALPACA, {"text": "x"}]) == {"Alpaca": 2, "unknown": 1}


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
    assert row({"q": "问题", "c": "Other"}, **safety).category is None


def test_a_row_survives_its_table_and_a_dropped_one_leaves_its_texts():
    found = row({"q": "一加一？", "r": "<think>想</think>二"})
    assert CorpusRow.from_table_row(found.to_table_row()) == found
    dropped = row({"q": "一"}).to_table_row()
    assert dropped["messages"] == []
    assert dropped["drop_reason"] == "malformed"
