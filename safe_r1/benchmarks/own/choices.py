"""Reads the options of a multiple-choice question and which of them is right.

An option keeps the letter, number or name that its file gives it: an answer names the option by it, wherever
in the list it stands. Where these contradict each other, the row does not fit; none is guessed.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from safe_r1.benchmarks.options import parse_options
from safe_r1.benchmarks.own.cells import TEXT_FIELDS, RowError, parsed, shown, text_of
from safe_r1.benchmarks.own.settings import IndexBase
from safe_r1.benchmarks.own.words import option_place
from safe_r1.errors import DataError

LETTERS = "ABCDEFGH"
_LABEL_FIELDS = ("label", "letter", "key", "id")
_SEPARATORS = re.compile(r"[\n|;；]")
_TRAILING = ";；|"
_ONE_LETTER = re.compile(
    r"(?:(?:正确|标准|参考)?(?:答案|选项)|选|option|answer)?[:\s是为]{0,3}[(\[]?([a-h])[)\].、。:]?(?:项|选项)?[.。]?"
)
_LETTER_MARK = re.compile(r"^\s{0,3}[(（]?([A-HＡ-Ｈa-h])[)）.．、:：]\s{0,3}")
_BLANK = (None, "")


class Options(dict[str, str]):
    """Letter to text, from A on.

    Attributes:
        marks: What else the file calls an option, folded, to its letter.
    """

    def __init__(self, texts: Mapping[str, str], marks: Mapping[str, str] | None = None) -> None:
        super().__init__(texts)
        self.marks = marks or {}


@dataclass(frozen=True)
class NumberAnswer:
    """An answer that is a number, which counts options or is the text of one.

    Attributes:
        number: The number.
        same: Letter of the option whose text it is; empty where it is none's.
    """

    number: int
    same: str = ""

    def could_be_another(self, num_options: int) -> bool:
        """Whether it is the text of one option and may count to another."""
        places = [place for place in (self.number, self.number - 1) if 0 <= place < num_options]
        return bool(self.same) and any(LETTERS[place] != self.same for place in places)


def read_options(value: object, name: str) -> Options:
    """The options in one cell: a list, a table, or text such as ``A. … B. …``.

    Raises:
        RowError: It holds no two to eight options, or their letters are not those from A on.
    """
    options = parsed(value)
    if isinstance(options, Mapping) and isinstance(options.get("text"), list):
        # Two lists side by side, as ARC has them.
        labels = next((options[field] for field in _LABEL_FIELDS if field in options), None)
        if labels is None:
            return lettered(options["text"], name)
        if not isinstance(labels, list) or len(labels) != len(options["text"]):
            raise RowError(f"options and their labels differ in number ({name})")
        return _labelled(zip(labels, options["text"], strict=True), name)
    if isinstance(options, Mapping):
        return _labelled(options.items(), name)
    if isinstance(options, str):
        return _from_text(options, name)
    if isinstance(options, list) and options and all(isinstance(each, Mapping) for each in options):
        labels = [next((each[field] for field in _LABEL_FIELDS if field in each), None) for each in options]
        texts = [_option_text(each) for each in options]
        if all(label is None for label in labels):
            return lettered(texts, name)
        return _labelled(zip(labels, texts, strict=True), name)
    if isinstance(options, list):
        return lettered(options, name)
    raise RowError(f"options are no list, table or text ({name}: {type(options).__name__})")


def _option_text(option: Mapping[str, object]) -> object:
    return next((option[field] for field in (*TEXT_FIELDS, "option") if field in option), None)


def _mark(label: object) -> str:
    return unicodedata.normalize("NFKC", "" if label is None else str(label)).strip(" ().:、").upper()


def _place(mark: str) -> int | None:
    """Place that a label stands for, from 0; a number as it is."""
    if mark.isascii() and mark.isdigit() and len(mark) <= 2:
        return int(mark)
    return option_place(mark)


def _labelled(pairs: Iterable[tuple[object, object]], name: str) -> Options:
    """The options in the order of their labels; labels that are neither letters nor numbers keep theirs."""
    marked = [(_mark(label), text) for label, text in pairs]
    placed = [(place, mark, text) for mark, text in marked if (place := _place(mark)) is not None]
    if len(placed) == len(marked):
        placed.sort(key=lambda each: each[0])
        places = [place for place, _, _ in placed]
        first = places[0] if places and places[0] == 1 and placed[0][1].isdigit() else 0
        if places != list(range(first, first + len(places))):
            given = ", ".join(mark for mark, _ in marked[: len(LETTERS)])
            raise RowError(f"the letters of the options do not run from A on ({name}: {shown(given)})")
        marked = [(mark, text) for _, mark, text in placed]
        # A table of a column may have a field for every option of any row: those without text are none.
        while marked and marked[-1][1] in _BLANK:
            marked.pop()
    else:
        # Names alone have no order that an empty one could break.
        marked = [(mark, text) for mark, text in marked if text not in _BLANK]
        if len({mark for mark, _ in marked}) != len(marked):
            raise RowError(f"two options have one label ({name})")
    options = lettered([text for _, text in marked], name)
    marks = {mark: letter for (mark, _), letter in zip(marked, options, strict=True) if mark != letter}
    return Options(options, marks)


def _from_text(text: str, name: str) -> Options:
    try:
        texts = list(parse_options(f"?\n{text.strip()}")[1].values())
    except DataError:
        return lettered([part for part in _SEPARATORS.split(text) if part.strip()], name)
    # What stands between the options belongs to none of them.
    if all(each[-1:] in _TRAILING for each in texts[:-1]):
        texts = [each.rstrip(_TRAILING + " ") for each in texts]
    return lettered(texts, name)


def lettered(texts: Sequence[object], name: str) -> Options:
    """The options lettered from A; a letter that each text begins with is removed.

    Raises:
        RowError: There are fewer than two or more than eight, one is empty, or the letters that they begin
            with are in another order.
    """
    if not 2 <= len(texts) <= len(LETTERS):
        raise RowError(f"not 2 to {len(LETTERS)} options ({name}: {len(texts)})")
    found = [text_of("" if text is None else text, name) for text in texts]
    marks = [mark for text in found if (mark := _LETTER_MARK.match(text))]
    if len(marks) == len(found):
        given = unicodedata.normalize("NFKC", "".join(mark[1] for mark in marks)).upper()
        if given != LETTERS[: len(found)]:
            raise RowError(f"the letters of the options do not run from A on ({name}: {', '.join(given)})")
        found = [text[mark.end() :].strip() for text, mark in zip(found, marks, strict=True)]
    if not all(found):
        raise RowError(f"an option is empty ({name}: {LETTERS[found.index('')]})")
    return Options(dict(zip(LETTERS, found, strict=False)))


def read_choice(
    value: object, options: Mapping[str, str], name: str, base: IndexBase = None
) -> str | NumberAnswer:
    """The letter of the right option, or a number, whose meaning the whole file decides.

    Args:
        value: The cell.
        options: The options of the row.
        name: Of the cell, for messages.
        base: What numbers count from; ``text``: they count nothing.

    Raises:
        RowError: It names no option, or several.
    """
    text = unicodedata.normalize("NFKC", text_of(value, name)).strip()
    # Most texts are no letter: only short ones are matched.
    letter = _ONE_LETTER.fullmatch(text.casefold()) if len(text) <= 16 else None
    if letter and letter[1].upper() in options:
        return letter[1].upper()
    same = _same_text(text, options)
    marks = options.marks if isinstance(options, Options) else {}
    marked = marks.get(_mark(text))
    if marked is not None and base is None:
        if same and same != [marked]:
            raise RowError(f"{name} is the label of one option and the text of another ({shown(text)})")
        return marked
    is_number = text.isascii() and text.isdigit() and len(text) <= 2 and base != "text"
    if is_number and len(same) <= 1:
        return NumberAnswer(int(text), same[0] if same else "")
    if len(same) == 1:
        return same[0]
    problem = "is the text of several options" if same else "is none of the options"
    raise RowError(f"{name} {problem} ({shown(text)}; there is {', '.join(options)})")


def _same_text(text: str, options: Mapping[str, str]) -> list[str]:
    same = [key for key, option in options.items() if _same(option, text)]
    mark = _LETTER_MARK.match(text)
    if not same and mark and mark[1].upper() in options:
        key = mark[1].upper()
        same = [key] if _same(options[key], text[mark.end() :]) else []
    return same


def _same(option: str, text: str) -> bool:
    one, other = (unicodedata.normalize("NFKC", each).strip(" .。").casefold() for each in (option, text))
    return one == other
