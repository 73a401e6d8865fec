"""A value that was read from a file, with its place and its faults."""

from typing import NamedTuple

_SHOWN_CHARS = 80

ParsedValue = tuple[object, str]
"""A value and its error; the value is None if the error is not empty."""


class Parsed(NamedTuple):
    """A value with its place.

    Attributes:
        number: Line (jsonl, csv, tsv; of several the first), row as a spreadsheet shows it (xlsx), else the
            number of the record; from 1.
        value: None if the error is not empty.
        error: The fault and, after a colon, the beginning of the text.
        note: What looks like a mistake and yet can be read; empty for nothing.
    """

    number: int
    value: object
    error: str
    note: str = ""


def shorten(text: str) -> str:
    """The beginning of a text on one line, for error messages."""
    text = " ".join(text[: 16 * _SHOWN_CHARS].split())
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
