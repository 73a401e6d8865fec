"""Turns of training files: which are learned when they say so themselves."""

import random
from typing import Any

import pytest

from safe_r1.corpus.dialogue import Unusable, read_dialogue

THOUGHT = "<think>\n想\n</think>\n\n"


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def learned(messages: list[Any]) -> list[str]:
    """Answers that training learns, by its rule: with a thought, or the last one."""
    last = len(messages) - 1
    return [
        each["content"].rpartition("</think>")[2].strip()
        for place, each in enumerate(messages)
        if each["role"] == "assistant" and ("</think>" in each["content"] or place == last)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_exactly_the_marked_turns_are_learned(seed: int):
    """Random dialogues against the plain reading of the marks: 1 or nothing is learned, 0 is not."""
    dice = random.Random(seed)
    field = dice.choice(["weight", "train"])
    on, off = (1, 0) if field == "weight" else (True, False)
    turns: list[dict[str, Any]] = []
    expected: list[str] = []
    for number in range(dice.randint(1, 5)):
        mark = dice.choice([{}, {field: on}, {field: off}])
        answer = f"答{number}"
        turns += [turn("user", f"问{number}"), turn("assistant", dice.choice(["", THOUGHT]) + answer, **mark)]
        if mark.get(field, on):
            expected.append(answer)
    marks = [each for each in turns if field in each]
    if not marks:
        return
    if not expected:
        with pytest.raises(Unusable, match="to be learned"):
            read_dialogue(turns)
        return
    dialogue = read_dialogue(turns)
    assert learned(dialogue.messages) == expected
    assert "learned_as_marked" in dialogue.repairs
    # Every question before the last answer that is learned stays, with the answers between.
    spoken = [each["content"].rpartition("</think>")[2].strip() for each in dialogue.messages]
    given = [each["content"].rpartition("</think>")[2].strip() for each in turns]
    assert spoken == given[: len(spoken)]
    assert (len(spoken) < len(given)) == ("cut_after_last_learned_turn" in dialogue.repairs)


def test_without_marks_nothing_is_changed():
    turns = [
        turn("user", "问"),
        turn("assistant", "甲"),
        turn("user", "又"),
        turn("assistant", f"{THOUGHT}乙"),
    ]
    dialogue = read_dialogue(turns)
    assert dialogue.repairs == ()
    assert [each["content"] for each in dialogue.messages] == [each["content"] for each in turns]


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (0, None), (None, 0)])
def test_two_answers_in_a_row_of_which_one_is_learned_are_refused(first: int | None, second: int | None):
    marks = [{} if mark is None else {"weight": mark} for mark in (first, second)]
    turns = [turn("user", "问"), *(turn("assistant", "答", **mark) for mark in marks)]
    with pytest.raises(Unusable) as error:
        read_dialogue(turns)
    assert error.value.reason == "half_learned"


@pytest.mark.parametrize(("first", "second"), [(None, 1), (1, None), (0, 0), (1, 1)])
def test_two_answers_in_a_row_that_are_learned_alike_are_joined(first: int | None, second: int | None):
    marks = [{} if mark is None else {"weight": mark} for mark in (first, second)]
    turns = [turn("user", "问"), *(turn("assistant", "答", **mark) for mark in marks)]
    if first == 0:
        with pytest.raises(Unusable, match="to be learned"):
            read_dialogue(turns)
    else:
        assert learned(read_dialogue(turns).messages) == ["答\n\n答"]


@pytest.mark.parametrize("mark", [0, 0.0, False, "0", "false"])
def test_marks_are_read_in_the_ways_files_have_them(mark: Any):
    turns = [turn("user", "问"), turn("assistant", f"{THOUGHT}甲</think>乙", weight=mark)]
    turns += [turn("user", "又"), turn("assistant", "丙")]
    assert learned(read_dialogue(turns).messages) == ["丙"]


def test_marks_of_users_and_marks_that_are_no_flags_say_nothing():
    turns = [turn("user", "问", weight=0), turn("assistant", "答", weight="high")]
    assert read_dialogue(turns).repairs == ()
