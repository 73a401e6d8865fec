"""Reads the cells of a row of questions: texts, dialogues, options, answers.

What a cell holds is data from anywhere: no pattern here takes more than linear time, and no message repeats
more than a few characters of it.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence

from safe_r1.benchmarks.options import parse_options
from safe_r1.errors import DataError
from safe_r1.schema import Message

LETTERS = "ABCDEFGH"
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
_TEXT_FIELDS = ("content", "value", "text")
_LETTER_FIELDS = ("label", "letter", "key", "id")
_SEPARATORS = re.compile(r"[\n|;；]")
_ONE_LETTER = re.compile(r"(?:答案|选项|选|option|answer)?[:\s]{0,3}[(\[]?([a-h])[)\].、。:]?")
_LETTER_MARK = re.compile(r"^\s{0,3}[(（]?([A-HＡ-Ｈa-h])[)）.．、:：]\s{0,3}")
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


def parsed(value: object) -> object:
    """A cell, or what its text is as JSON where it looks like a list or a table."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


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
    text = next((turn[field] for field in _TEXT_FIELDS if field in turn), None)
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
    turns = turns[1:] if turns[:1] == ["system"] else turns
    if turns != [("user", "assistant")[place % 2] for place in range(len(turns))] or len(turns) % 2 == 0:
        roles = ", ".join(turns[:6])
        raise RowError(f"user and assistant do not take turns, user last ({roles or 'no turn'})")
    if not all(turn["content"] for turn in messages):
        raise RowError("a turn of its dialogue is empty")


def read_options(value: object, name: str) -> dict[str, str]:
    """Letter to text of the options in one cell: a list, a table, or text such as ``A. … B. …``.

    Raises:
        RowError: It holds no two to eight options.
    """
    options = parsed(value)
    if isinstance(options, Mapping) and isinstance(options.get("text"), list):
        # Two lists side by side, as ARC has them.
        return lettered(options["text"], name)
    if isinstance(options, Mapping):
        return _by_letter(options, name)
    if isinstance(options, str):
        return _from_text(options, name)
    if isinstance(options, list) and options and all(isinstance(each, Mapping) for each in options):
        return lettered([_option_text(each) for each in options], name)
    if isinstance(options, list):
        return lettered(options, name)
    raise RowError(f"options are no list, table or text ({name}: {type(options).__name__})")


def _option_text(option: Mapping[str, object]) -> object:
    return next((option[field] for field in (*_TEXT_FIELDS, "option") if field in option), None)


def _by_letter(options: Mapping[str, object], name: str) -> dict[str, str]:
    # A table of a column may have a field for every option of any row: those without text are none.
    filled = {str(key): text for key, text in options.items() if text not in (None, "")}
    keys = [unicodedata.normalize("NFKC", key).strip().upper() for key in filled]
    if sorted(keys) != sorted(LETTERS[: len(keys)]):
        return lettered(list(filled.values()), name)
    by_letter = dict(zip(keys, filled.values(), strict=True))
    return lettered([by_letter[letter] for letter in sorted(keys)], name)


def _from_text(text: str, name: str) -> dict[str, str]:
    try:
        return lettered(list(parse_options(f"?\n{text.strip()}")[1].values()), name)
    except DataError:
        return lettered([part for part in _SEPARATORS.split(text) if part.strip()], name)


def lettered(texts: Sequence[object], name: str) -> dict[str, str]:
    """The options lettered from A; a letter that each text begins with is removed.

    Raises:
        RowError: There are fewer than two or more than eight, or one is empty.
    """
    if not 2 <= len(texts) <= len(LETTERS):
        raise RowError(f"not 2 to {len(LETTERS)} options ({name}: {len(texts)})")
    found = [text_of("" if text is None else text, name) for text in texts]
    marks = [_LETTER_MARK.match(text) for text in found]
    given = "".join(mark[1] for mark in marks if mark)
    if unicodedata.normalize("NFKC", given).upper() == LETTERS[: len(found)]:
        found = [text[mark.end() :].strip() for text, mark in zip(found, marks, strict=True) if mark]
    if not all(found):
        raise RowError(f"an option is empty ({name}: {LETTERS[found.index('')]})")
    return dict(zip(LETTERS, found, strict=False))


def read_choice(value: object, options: Mapping[str, str], name: str) -> str | int:
    """The letter of the right option, or the number by which the cell names it.

    Raises:
        RowError: It names no option, or several.
    """
    text = unicodedata.normalize("NFKC", text_of(value, name)).strip()
    # Most texts are no letter: only short ones are matched.
    letter = _ONE_LETTER.fullmatch(text.casefold()) if len(text) <= 16 else None
    if letter and letter[1].upper() in options:
        return letter[1].upper()
    same = [key for key, option in options.items() if _same(option, text)]
    mark = _LETTER_MARK.match(text)
    if (
        not same
        and mark
        and mark[1].upper() in options
        and _same(options[mark[1].upper()], text[mark.end() :])
    ):
        same = [mark[1].upper()]
    if len(same) == 1:
        return same[0]
    if text.isascii() and text.isdigit() and len(text) <= 2:
        return int(text)
    problem = "is the text of several options" if same else "is none of the options"
    raise RowError(f"{name} {problem} ({shown(text)}; there is {', '.join(options)})")


def _same(option: str, text: str) -> bool:
    one, other = (unicodedata.normalize("NFKC", each).strip(" .。").casefold() for each in (option, text))
    return one == other


def read_result(value: object, name: str) -> str:
    """A mathematical result without dollar signs, box and a solution before ``####``.

    Raises:
        RowError: It is empty.
    """
    text = text_of(value, name).rpartition("####")[2].strip().strip("$").strip()
    if text.startswith("\\boxed{") and text.endswith("}"):
        text = text.removeprefix("\\boxed{").removesuffix("}").strip()
    if not text:
        raise RowError(f"{name} is empty")
    return text.replace(",", "") if _NUMBER_WITH_COMMAS.fullmatch(text) else text
