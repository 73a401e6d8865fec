"""Records of CSV and TSV files; the first row with content names the columns.

A quotation mark too many swallows the rows behind it. Its lines are malformed, each for itself, or the
file is an error: rows must not disappear without being counted.
"""

import contextlib
import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from upath import UPath

from safe_r1.errors import DataError
from safe_r1.records import sheets
from safe_r1.records.encodings import is_line_wise
from safe_r1.records.files import lines_of, open_bytes
from safe_r1.records.layout import Layout
from safe_r1.records.parsed import Parsed, shorten
from safe_r1.records.text import clean, fault_in

if TYPE_CHECKING:
    from _csv import Reader

# Larger cells than the csv module's 128 KiB occur: whole documents.
_MAX_CELL_CHARS = 64 << 20
_TOO_LARGE = "field larger"
_NOT_CLOSED = "unexpected end"


def read_csv(file: UPath, layout: Layout) -> Iterator[Parsed]:
    """All rows of a file.

    Raises:
        DataError: A quotation mark is never closed, or a line or the number of columns is beyond all measure.
    """
    with _open_rows(file, layout) as (rows, delimiter):
        names: list[str] = []
        for first, last, cells in _rows(rows, file):
            if isinstance(cells, str):
                spread = f"; lines {first} to {last}" if last > first else ""
                # Every line is counted: any of them may hold a row of its own.
                yield from (
                    Parsed(line, None, f"no readable row ({cells}{spread}): ")
                    for line in range(first, last + 1)
                )
            elif not cells or (not names and not any(cell.strip() for cell in cells)):
                continue
            elif not names:
                names = sheets.column_names(cells, str(file))
            else:
                parsed = _row(first, names, cells, layout.encoding)
                if last > first and any(_holds_rows(cell, delimiter) for cell in cells):
                    note = f"spans lines {first} to {last}, with {delimiter!r} in one cell: is a quotation "
                    parsed = parsed._replace(note=f"{note}mark missing or too many?")
                yield parsed


def read_head(file: UPath, layout: Layout, num_rows: int) -> list[tuple[int, list[str]]]:
    """The first rows with content, as they stand, each with its line; for messages."""
    head: list[tuple[int, list[str]]] = []
    with _open_rows(file, layout) as (rows, _):
        for first, _, cells in _rows(rows, file):
            if not isinstance(cells, str) and any(cell.strip() for cell in cells):
                head.append((first, cells))
            if len(head) == num_rows:
                break
    return head


@contextlib.contextmanager
def _open_rows(file: UPath, layout: Layout) -> Iterator[tuple["Reader", str]]:
    csv.field_size_limit(_MAX_CELL_CHARS)
    with open_bytes(file, layout.compression) as opened:
        # Bytes that cannot be decoded become lone surrogates, by which their row is found.
        errors = "surrogateescape" if is_line_wise(layout.encoding) else "replace"
        text = io.TextIOWrapper(opened, encoding=layout.encoding, errors=errors, newline="")
        lines = lines_of(text, file)
        first = next(lines, "")
        delimiter = _delimiter(first, layout.format)
        yield csv.reader(_chain(first, lines), delimiter=delimiter, strict=True), delimiter


def _rows(rows: "Reader", file: UPath) -> Iterator[tuple[int, int, list[str] | str]]:
    """First and last line of each row, and its cells or what is wrong with it."""
    while True:
        first = rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            reason = str(error)
            if reason.startswith((_TOO_LARGE, _NOT_CLOSED)):
                raise DataError(
                    f"{file}: the row that begins in line {first} opens a quotation mark that is never "
                    "closed; close or remove it there, or write two in place of one that is text"
                ) from None
            yield first, rows.line_num, reason
        else:
            yield first, rows.line_num, cells


def _holds_rows(cell: str, delimiter: str) -> bool:
    return delimiter in cell and "\n" in cell


def _row(number: int, names: list[str], cells: list[str], encoding: str) -> Parsed:
    text = ",".join(cells)
    if len(cells) != len(names):
        shown = shorten(clean(text))
        return Parsed(number, None, f"expected {len(names)} columns, got {len(cells)}: {shown}")
    row = dict(zip(names, cells, strict=True))
    if fault := fault_in(text):
        # Of bytes that the encoding does not have.
        is_undecoded = "\0" not in text
        what = f"not {encoding.removesuffix('-sig').upper()} text" if is_undecoded else fault
        column = next((name for name, cell in row.items() if fault_in(cell)), "")
        return Parsed(number, None, f"{what} in {column}: {shorten(clean(text))}")
    return Parsed(number, row, "")


def _delimiter(header: str, format_: str) -> str:
    """Tab or semicolon where the header has no comma: spreadsheets of some countries write these."""
    if format_ == "tsv":
        return "\t"
    return next((mark for mark in (",", "\t", ";") if mark in header), ",")


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
