"""Reads the cells of a row of questions: texts, dialogues, results; `choices` reads options.

What a cell holds is data from anywhere: no pattern here takes more than linear time, and no message repeats
more than a few characters of it.
"""

import json
import re
from collections.abc import Mapping, Sequence

from safe_r1.benchmarks.math_answers import narrow
from safe_r1.records.text import TextError, check_value
from safe_r1.schema import Message

_SHOWN_CHARS = 30
_ROLES = {
    **{role: role for role in ("system", "user", "assistant")},
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "用户": "user",
    "助手": "assistant",
    "问": "user",
    "答": "assistant",
    "系统": "system",
}
_ROLE_FIELDS = ("role", "from", "speaker")
TEXT_FIELDS = ("content", "value", "text")
_ANSWER_WORD = re.compile(r"^(?:正确|标准|参考|最终)?答案\s{0,3}(?:[:是为]\s{0,3})?")
_NUMBER_WITH_COMMAS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


class RowError(ValueError):
    """A row that does not fit; the message says why, and in brackets where and with which value."""


def shown(value: object) -> str:
    """The beginning of a value for messages, on one line and escaped."""
    text = str(value)
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…")


def text_of(value: object, name: str) -> str:
    """A cell as trimmed text; a number or a date as it is written.

    Raises:
        RowError: It is something else.
    """
    if isinstance(value, str):
        return value.strip()
    if value is None or isinstance(value, bool | bytes | list | tuple | Mapping):
        raise RowError(f"a cell is no text ({name}: {type(value).__name__})")
    return str(value)


def verbatim(value: object, name: str) -> str:
    """A cell as it is, with its spaces and line breaks; nothing is an empty text.

    Raises:
        RowError: It is no text.
    """
    if value is None:
        return ""
    return value if isinstance(value, str) else text_of(value, name)


def parsed(value: object) -> object:
    """A cell, or what its text is as JSON where it looks like a list or a table.

    Raises:
        RowError: What it holds is not taken from outside, see ``records.text``.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        found = json.loads(value)
        check_value(found)
    except TextError as error:
        raise RowError(f"a cell is not taken ({error}: {shown(value)})") from None
    except (ValueError, RecursionError):
        return value
    return found


def read_history(value: object, name: str) -> list[Message]:
    """The turns of a dialogue: messages of OpenAI's or ShareGPT's form, or pairs of question and answer.

    Raises:
        RowError: It has none of these forms.
    """
    turns = parsed(value)
    if not isinstance(turns, list):
        raise RowError(f"a dialogue is no list of messages ({name})")
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        if isinstance(turn, Mapping):
            messages.append(_read_turn(turn, f"{name}, turn {number}"))
        elif isinstance(turn, list | tuple) and len(turn) == 2:
            for role, text in zip(("user", "assistant"), turn, strict=True):
                messages.append(Message(role=role, content=text_of(text, f"{name}, turn {number}")))
        else:
            raise RowError(f"a turn of a dialogue is no message ({name}, turn {number})")
    return messages


def _read_turn(turn: Mapping[str, object], name: str) -> Message:
    role = next((turn[field] for field in _ROLE_FIELDS if field in turn), None)
    text = next((turn[field] for field in TEXT_FIELDS if field in turn), None)
    known = _ROLES.get(str(role).strip().lower())
    if known is None:
        raise RowError(f"a role is none of system, user and assistant ({name}: {shown(role)})")
    return Message(role=known, content=text_of(text, name))


def check_dialogue(messages: Sequence[Message]) -> None:
    """Check that a dialogue ends with the user and that turns alternate, as chat templates need it.

    Raises:
        RowError: It does not.
    """
    turns = [turn["role"] for turn in messages]
    if turns == ["user"] and messages[0]["content"]:
        return
    turns = turns[1:] if turns[:1] == ["system"] else turns
    if turns != [("user", "assistant")[place % 2] for place in range(len(turns))] or len(turns) % 2 == 0:
        roles = ", ".join(turns[:6])
        raise RowError(f"user and assistant do not take turns, user last ({roles or 'no turn'})")
    if not all(turn["content"] for turn in messages):
        raise RowError("a turn of its dialogue is empty")


def read_result(value: object, name: str) -> str:
    """A mathematical result without dollar signs, box and a solution before ``####``.

    Raises:
        RowError: It is empty.
    """
    text = narrow(text_of(value, name)).rpartition("####")[2].strip()
    text = _ANSWER_WORD.sub("", text, count=1).strip("$").strip()
    if text.startswith("\\boxed{") and text.endswith("}"):
        text = text.removeprefix("\\boxed{").removesuffix("}").strip()
    if not text:
        raise RowError(f"{name} is empty")
    return text.replace(",", "") if _NUMBER_WITH_COMMAS.fullmatch(text) else text
