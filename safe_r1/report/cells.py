"""Texts as cells of tables that spreadsheets open: no text is ever taken for a formula, and none is lost.

Models write what they like, and a cell of a CSV file that begins with ``=`` is run by the program that opens
it. ``csv_text`` marks such texts with an apostrophe, ``xlsx_text`` fits texts to what the format can hold.

Source:
    OWASP, CSV injection. ECMA-376, part 1: 18.4.12 (strings) and 22.9.2.19 (``_xHHHH_``).
"""

import re
import unicodedata
from typing import NamedTuple

MAX_CELL_CHARS = 32_767
"""Excel's limit of a cell, in UTF-16 code units."""
CUT_MARK = "…[cut: {num:,} characters; the whole text is in the parquet and csv exports]"
"""Ends a text that was too long, in an export."""

# The last is the mathematical minus, which some programs read as one.
_TRIGGERS = frozenset("=+-@\u2212")
# No character of XML 1.0. Surrogates come from no Parquet file, and are here for other callers.
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
_LINE_BREAK = re.compile("\r\n?")
_ESCAPE_LIKE = re.compile(r"_(?=x[0-9A-Fa-f]{4}_)")


class FittedText(NamedTuple):
    """A text as an XLSX cell holds it.

    Attributes:
        text: The text.
        is_cut: Whether it was too long.
        is_replaced: Whether characters were replaced that XML cannot hold.
    """

    text: str
    is_cut: bool
    is_replaced: bool


def is_formula_like(text: str) -> bool:
    """True for a text that a spreadsheet could take for a formula.

    Blank, control and invisible characters before the first visible one do not hide it, and its full-width,
    small and superscript forms count as the character itself.
    """
    if text.startswith(("\t", "\r", "\n")):
        return True
    for char in text:
        if unicodedata.category(char)[0] not in "ZC":
            return unicodedata.normalize("NFKC", char)[0] in _TRIGGERS
    return False


def csv_text(text: str) -> str:
    """A text as a CSV cell, with an apostrophe before what looks like a formula.

    A text that begins with an apostrophe gets one more, so that removing one leading apostrophe always gives
    the text back (``text_of_csv``). NUL, which many readers take for the end of a text, becomes U+2400.
    """
    text = text.replace("\0", "\u2400")
    return f"'{text}" if text.startswith("'") or is_formula_like(text) else text


def text_of_csv(cell: str) -> str:
    """Inverse of ``csv_text``, apart from NUL."""
    return cell.removeprefix("'")


def xlsx_text(text: str, cut_mark: str = CUT_MARK) -> FittedText:
    r"""A text as an XLSX cell.

    Line breaks become ``\n``; control characters their pictures (U+2400 and up) and other characters that
    XML cannot hold U+FFFD; ``_xHHHH_``, which Excel takes for an escape, is itself escaped. A text above
    ``MAX_CELL_CHARS`` is cut, and ends with a mark that says how long it was.

    Args:
        text: The text.
        cut_mark: That mark, with ``{num:,}`` for the number of characters; it says where the whole text is.
    """
    readable = _NOT_XML.sub(_picture, text)
    is_replaced = readable != text
    fitted = _ESCAPE_LIKE.sub("_x005F_", _LINE_BREAK.sub("\n", readable))
    # One character is at most two code units: short texts need no counting.
    if len(fitted) <= MAX_CELL_CHARS // 2:
        return FittedText(fitted, is_cut=False, is_replaced=is_replaced)
    units = fitted.encode("utf-16-le")
    if len(units) <= 2 * MAX_CELL_CHARS:
        return FittedText(fitted, is_cut=False, is_replaced=is_replaced)
    mark = cut_mark.format(num=len(text))
    # "ignore" drops half of a character where the cut goes through it.
    kept = units[: 2 * (MAX_CELL_CHARS - len(mark))].decode("utf-16-le", errors="ignore")
    return FittedText(kept + mark, is_cut=True, is_replaced=is_replaced)


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"
