"""The files of an export, each written a few hundred rows at a time: Parquet, CSV and XLSX."""

import contextlib
import csv
import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.utils import get_column_letter
from upath import UPath

from safe_r1.report.cells import csv_text, is_formula_like, xlsx_text
from safe_r1.runs import Row, is_local, storage_error, writing

try:
    # openpyxl writes by lxml where it is installed.
    from lxml.etree import SerialisationError  # pyright: ignore[reportMissingModuleSource, reportAttributeAccessIssue]
except ImportError:
    SerialisationError = OSError

MAX_SHEET_ROWS = 1_048_575
"""Rows of a sheet below its head, Excel's limit."""

_WIDE = {"question": 60, "options": 30, "reasoning": 60, "answer": 60}
_WIDTH = 16


class TableFile(Protocol):
    """A file that takes rows.

    Attributes:
        num_cut: Cells that were too long for the format and are cut, with a mark.
        num_replaced: Cells with characters that the format cannot hold, shown as pictures.
    """

    num_cut: int
    num_replaced: int

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows with the columns of the schema."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


class ParquetTable:
    """Apache Parquet: exactly the rows."""

    def __init__(self, path: str, schema: pa.Schema):
        self.num_cut = 0
        self.num_replaced = 0
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def write(self, rows: Sequence[Row]) -> None:
        """See ``TableFile``; one row group a call."""
        self._writer.write_table(pa.Table.from_pylist(list(rows), schema=self._schema))

    def close(self) -> None:
        """See ``TableFile``."""
        self._writer.close()


class CsvTable:
    """RFC 4180 in UTF-8 with a byte-order mark, without which Excel reads Chinese as the local code page.

    Texts are those of ``csv_text``; null and the empty text are both an empty cell.
    """

    def __init__(self, path: str, schema: pa.Schema):
        self.num_cut = 0
        self.num_replaced = 0
        self._names = schema.names
        # Kept open from call to call and closed by `close`.
        self._file = open(path, "w", encoding="utf-8-sig", newline="")  # noqa: SIM115
        self._writer = csv.writer(self._file, lineterminator="\r\n")
        self._writer.writerow(self._names)

    def write(self, rows: Sequence[Row]) -> None:
        """See ``TableFile``."""
        for row in rows:
            self._writer.writerow([self._cell(row[name]) for name in self._names])

    def _cell(self, value: object) -> object:
        if isinstance(value, bool):
            return str(value).lower()
        if not isinstance(value, str):
            return value
        self.num_replaced += "\0" in value
        return csv_text(value)

    def close(self) -> None:
        """See ``TableFile``."""
        self._file.close()


class XlsxTable:
    """An Excel workbook: texts are cells of type text, numbers are numbers, nothing is a formula or a link.

    Texts are those of ``xlsx_text``. What looks like a formula has the "quote prefix" of a typed apostrophe,
    so that it stays a text when somebody edits the cell. Rows that one sheet cannot hold go on in the next;
    the last sheet, ``about``, says how many cells were cut.
    """

    def __init__(self, path: str, schema: pa.Schema):
        self.num_cut = 0
        self.num_replaced = 0
        self._path = path
        self._names = schema.names
        self._num_rows = 0
        self._num_sheets = 0
        # Streams each sheet into a temporary file of its own.
        self._book = Workbook(write_only=True)
        self._add_sheet()

    def _add_sheet(self) -> None:
        self._num_sheets += 1
        title = "results" if self._num_sheets == 1 else f"results {self._num_sheets}"
        self._sheet = self._book.create_sheet(title)
        self._sheet.freeze_panes = "A2"
        for place, name in enumerate(self._names, 1):
            self._sheet.column_dimensions[get_column_letter(place)].width = _WIDE.get(name, _WIDTH)
        self._sheet.append(self._names)
        self._sheet_rows = 0

    def write(self, rows: Sequence[Row]) -> None:
        """See ``TableFile``."""
        for row in rows:
            if self._sheet_rows == MAX_SHEET_ROWS:
                self._add_sheet()
            self._sheet.append([self._cell(row[name]) for name in self._names])
            self._sheet_rows += 1
            self._num_rows += 1

    def _cell(self, value: object) -> object:
        if not isinstance(value, str):
            return value
        if not value:
            return None
        text, is_cut, is_replaced = xlsx_text(value)
        self.num_cut += is_cut
        self.num_replaced += is_replaced
        cell = WriteOnlyCell(self._sheet, text)
        # openpyxl takes "=…" for a formula and "#N/A" for an error.
        cell.data_type = "s"
        if is_formula_like(text):
            cell.quotePrefix = True  # pyright: ignore[reportAttributeAccessIssue]
        return cell

    def close(self) -> None:
        """See ``TableFile``."""
        about = self._book.create_sheet("about")
        about.append(["rows", self._num_rows])
        about.append(["cells cut at Excel's limit of 32,767 characters", self.num_cut])
        about.append(["cells with control characters, shown as pictures", self.num_replaced])
        self._book.save(self._path)


TABLES: Mapping[str, Callable[[str, pa.Schema], TableFile]] = {
    "parquet": ParquetTable,
    "csv": CsvTable,
    "xlsx": XlsxTable,
}
"""Format, which is also the ending of its files, to what writes it."""


@contextlib.contextmanager
def new_file(path: UPath) -> Iterator[str]:
    """Name of a local file that becomes ``path`` at the end of the block; after an error nothing is left.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        if is_local(path):
            with writing(path) as temporary:
                yield temporary
        else:
            with tempfile.TemporaryDirectory() as folder:
                temporary = str(Path(folder) / path.name)
                yield temporary
                path.fs.put_file(temporary, path.path)
    except OSError as error:
        raise storage_error(path, error) from None
    except SerialisationError as error:
        # Such as IO_ENOSPC, of the XML of a sheet.
        number = getattr(errno, str(error).removeprefix("IO_"), errno.EIO)
        raise storage_error(path, OSError(number, os.strerror(number))) from None
