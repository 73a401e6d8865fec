"""Records of a spreadsheet: one sheet, its first row with content names the columns.

Every cell is data: a formula counts by the value that is stored for it, is never evaluated, and is its own
text where no value is stored, as other programs write what only looks like a formula.
"""

import contextlib
import datetime
import itertools
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from safe_r1.errors import DataError

if TYPE_CHECKING:
    from openpyxl import Workbook

# Beyond these a workbook is no table but made to fill the memory.
_MAX_UNPACKED_BYTES = 8 << 30
_SMALL_BYTES = 256 << 20
_MAX_RATIO = 200
# Excel and others write each different text once, and cells refer to it by its number.
_TEXTS = "xl/sharedStrings.xml"
_MANY_BYTES = 128 << 20
# Bytes in memory for a byte of the table, measured on 265,000 Chinese texts in UTF-8.
_TEXT_COST = 1.9
MAX_COLUMNS = 16_384
"""Columns of the widest sheet of a spreadsheet program."""
_BLANK = (None, "")
_FORMULA_MARKS = (b"<f>", b"<f ")


def column_names(header: Sequence[object], where: str) -> list[str]:
    """Names of the columns; one without a name gets its place as name, and a repeated one a number.

    Raises:
        DataError: There are more than any spreadsheet has.
    """
    texts = ["" if cell is None else str(cell).strip() for cell in header]
    if len(texts) > MAX_COLUMNS:
        raise DataError(
            f"{where}: {len(texts)} columns, more than {MAX_COLUMNS}; is its first row the column names?"
        )
    names: list[str] = []
    # A name that is given goes before one that is made.
    taken = set(texts)
    counts: Counter[str] = Counter()
    for place, text in enumerate(texts, start=1):
        name = text or f"column {place}"
        counts[name] += 1
        unique = name
        while counts[name] > 1 and (unique := f"{name}.{counts[name]}") in taken:
            counts[name] += 1
        taken.add(unique)
        names.append(unique)
    return names


def choose_sheet(
    file: BinaryIO,
    wanted: str | None,
    where: str,
    remedy: str,
    is_header: Callable[[Sequence[str]], bool] | None = None,
) -> tuple[str, str]:
    """The sheet to read, and a note where there are several with rows.

    Args:
        file: The workbook, seekable.
        wanted: Name of the sheet; None: the first with rows.
        where: Name of the file in messages.
        remedy: How a sheet is set, for the note.
        is_header: Whether a sheet with these names of columns goes before one without.

    Raises:
        DataError: There is no such sheet, no sheet has rows, or the file is no workbook.
    """
    with _open(file, where) as book:
        names = [sheet.title for sheet in book.worksheets]
        if wanted is not None:
            if wanted not in names:
                raise DataError(f"{where}: no sheet {wanted!r}; there is: {', '.join(map(repr, names))}")
            return wanted, ""
        heads = {name: _first_rows(book, name, 2) for name in names}
    full = [name for name, rows in heads.items() if len(rows) == 2]
    if not full:
        raise DataError(f"{where}: no sheet has a row below its column names; add rows, or name another file")
    if len(full) == 1:
        return full[0], ""
    headers = {name: ["" if cell is None else str(cell) for cell in heads[name][0][1]] for name in full}
    chosen = next((name for name in full if is_header and is_header(headers[name])), full[0])
    others = ", ".join(repr(name) for name in full if name != chosen)
    return chosen, f"sheet {chosen!r} is read, not {others} (another one: {remedy})"


def memory_note(file: BinaryIO) -> str:
    """A note where the workbook's table of texts, which is held in memory, is large; empty otherwise."""
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        size = archive.getinfo(_TEXTS).file_size if _TEXTS in names else 0
    if size < _MANY_BYTES:
        return ""
    return (
        f"its table of texts is held in memory, up to {size * _TEXT_COST / 2**30:.1f} GiB; save it as CSV or "
        "Parquet, which are read row by row"
    )


def read_sheet(file: BinaryIO, sheet: str, where: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Number of the row as the spreadsheet shows it, and its cells by column name; rows without content are
    left out.

    Raises:
        DataError: The file is damaged.
    """
    with contextlib.ExitStack() as stack:
        rows = _rows(stack.enter_context(_open(file, where)), sheet)
        if _has_formulas(file):
            texts = _rows(stack.enter_context(_open(file, where, with_formulas=True)), sheet)
            rows = (_with_texts(row, text) for row, text in zip(rows, texts, strict=True))
        names: list[str] = []
        num_named = 0
        for number, cells in rows:
            if all(cell in _BLANK for cell in cells):
                continue
            if not names:
                names = column_names(cells, where)
                num_named = max(place for place, cell in enumerate(cells, 1) if cell not in _BLANK)
                continue
            values = [_plain(cell) for cell in cells]
            values += [None] * (len(names) - len(values))
            # Cells beyond the last named column have no meaning, unless somebody wrote into them.
            names += [f"column {place + 1}" for place in range(len(names), len(values))]
            pairs = zip(names, values, strict=True)
            # A sheet may be formatted far beyond its last column.
            yield (
                number,
                {
                    name: value
                    for place, (name, value) in enumerate(pairs)
                    if place < num_named or value not in _BLANK
                },
            )


def read_head(file: BinaryIO, sheet: str, where: str, num_rows: int) -> list[tuple[int, list[str]]]:
    """The first rows with content, as they stand, each with its number; for messages."""
    with _open(file, where) as book:
        rows = _first_rows(book, sheet, num_rows)
    return [(number, ["" if cell is None else str(cell) for cell in cells]) for number, cells in rows]


def _first_rows(book: "Workbook", sheet: str, num_rows: int) -> list[tuple[int, tuple[object, ...]]]:
    full = (row for row in _rows(book, sheet) if any(cell not in _BLANK for cell in row[1]))
    return list(itertools.islice(full, num_rows))


def _rows(book: "Workbook", sheet: str) -> Iterator[tuple[int, tuple[object, ...]]]:
    opened = book[sheet]
    # Some programs write a wrong size, which would cut the sheet.
    opened.reset_dimensions()  # pyright: ignore[reportAttributeAccessIssue]
    yield from enumerate(opened.iter_rows(values_only=True), start=1)


def _with_texts(
    row: tuple[int, tuple[object, ...]], texts: tuple[int, tuple[object, ...]]
) -> tuple[int, tuple[object, ...]]:
    """A row with the text of a formula in place of a value that is not stored."""
    number, cells = row
    pairs = zip(cells, texts[1], strict=True)
    return number, tuple(text if cell is None and isinstance(text, str) else cell for cell, text in pairs)


def _has_formulas(file: BinaryIO) -> bool:
    """Whether a sheet holds a formula; only then is a second pass worth its time."""
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if name.startswith("xl/worksheets/") and name.endswith(".xml"):
                with archive.open(name) as member:
                    end = b""
                    while chunk := member.read(1 << 20):
                        if any(mark in end + chunk for mark in _FORMULA_MARKS):
                            return True
                        end = chunk[-8:]
    return False


def _plain(cell: object) -> object:
    if isinstance(cell, datetime.datetime | datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return cell if cell is None or isinstance(cell, str | int | float | bool) else str(cell)


@contextlib.contextmanager
def _open(file: BinaryIO, where: str, with_formulas: bool = False) -> Iterator["Workbook"]:
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            packed = sum(member.compress_size for member in archive.infolist())
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > _MAX_UNPACKED_BYTES or unpacked > max(_SMALL_BYTES, _MAX_RATIO * packed):
            raise DataError(
                f"{where}: {packed >> 20} MiB that unpack to {unpacked >> 20} MiB; save the questions as CSV"
            )
        file.seek(0)
        book = openpyxl.load_workbook(file, read_only=True, data_only=not with_formulas)
        try:
            yield book
        finally:
            book.close()
    # The parser of XML raises a SyntaxError, damaged references a KeyError or TypeError.
    except (
        zipfile.BadZipFile,
        InvalidFileException,
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        SyntaxError,
        NotImplementedError,
    ) as error:
        raise DataError(
            f"{where}: no readable xlsx workbook ({type(error).__name__}); save it as .xlsx without a "
            "password, or as CSV"
        ) from None
