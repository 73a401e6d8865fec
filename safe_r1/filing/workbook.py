"""Workbooks of annexes: several sheets of texts that Excel and WPS open, the same bytes for the same rows.

Texts are those of ``report.cells``: none is a formula, and one that is too long for a cell says so.
"""

import datetime
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.packaging.core import DocumentProperties
from openpyxl.styles import Alignment, Font, NamedStyle, PatternFill
from openpyxl.utils import get_column_letter
from openpyxl.xml.functions import tostring

from safe_r1.report.cells import is_formula_like, xlsx_text
from safe_r1.report.export_files import MAX_SHEET_ROWS
from safe_r1.schema import Message

MAX_TITLE_CHARS = 31
"""Longest name of a sheet."""
_FORBIDDEN_IN_TITLES = str.maketrans(dict.fromkeys("[]:*?/\\'", "_"))
_CUT_MARK = "…［已截断：原文共 {num:,} 字］"
# A usual typeface of Chinese documents; a program without it takes another one.
_TYPEFACE = "宋体"
_BODY = "annex"
_HEAD = "annex head"
# The earliest date of a ZIP archive: a file must not differ by when it was written.
_DATE = (1980, 1, 1, 0, 0, 0)
_CORE = "docProps/core.xml"

_SPEAKERS = {"user": "用户", "assistant": "助手", "system": "系统"}

Column = tuple[str, int]
"""Name and width, in characters of the usual size; a Chinese one is two wide."""


@dataclass
class AnnexSheet:
    """A sheet, and those that it goes on in where it is full.

    Attributes:
        title: Name of the first.
        columns: Its columns.
        num_rows: Its rows, without the head.
        num_cut: Cells that were too long and are cut, with a mark.
        num_replaced: Cells with characters that no XML holds, shown as pictures.
    """

    book: Workbook
    title: str
    columns: Sequence[Column]
    num_rows: int = 0
    num_cut: int = 0
    num_replaced: int = 0
    _sheet: Any = field(default=None, repr=False)

    def write(self, cells: Sequence[str | int | None]) -> None:
        """Add a row.

        Args:
            cells: As many as there are columns.
        """
        if self.num_rows and self.num_rows % MAX_SHEET_ROWS == 0:
            self.open(self.num_rows // MAX_SHEET_ROWS + 1)
        self._sheet.append([self._cell(value) for value in cells])
        self.num_rows += 1

    def to_text(self) -> str:
        """Name and numbers."""
        text = f"{self.title} {self.num_rows:,} rows"
        if self.num_cut:
            text += f" ({self.num_cut:,} cells cut at the limit of 32,767 characters, with a mark)"
        return text

    def open(self, number: int = 1) -> None:
        """Begin the sheet, or the one that it goes on in, with its head."""
        suffix = f" {number}" if number > 1 else ""
        self._sheet = self.book.create_sheet(self.title[: MAX_TITLE_CHARS - len(suffix)] + suffix)
        self._sheet.freeze_panes = "A2"
        for place, (_, width) in enumerate(self.columns, start=1):
            self._sheet.column_dimensions[get_column_letter(place)].width = width
        self._sheet.append([self._text(name, _HEAD) for name, _ in self.columns])

    def _cell(self, value: str | int | None) -> object:
        if isinstance(value, int):
            cell = WriteOnlyCell(self._sheet, value)
            cell.style = _BODY
            return cell
        return self._text(value, _BODY) if value else None

    def _text(self, value: str, style: str) -> object:
        text, is_cut, is_replaced = xlsx_text(value, _CUT_MARK)
        self.num_cut += is_cut
        self.num_replaced += is_replaced
        cell = WriteOnlyCell(self._sheet, text)
        # openpyxl takes "=…" for a formula and "#N/A" for an error.
        cell.data_type = "s"
        cell.style = style
        if is_formula_like(text):
            cell.quotePrefix = True  # pyright: ignore[reportAttributeAccessIssue]
        return cell


class AnnexBook:
    """A workbook of sheets, the last of which says what is in the others."""

    def __init__(self) -> None:
        self.sheets: list[AnnexSheet] = []
        # Streams each sheet into a temporary file of its own.
        self._book = Workbook(write_only=True)
        top = Alignment(vertical="top", wrap_text=True)
        self._book.add_named_style(NamedStyle(_BODY, font=Font(name=_TYPEFACE, size=11), alignment=top))
        self._book.add_named_style(
            NamedStyle(
                _HEAD,
                font=Font(name=_TYPEFACE, size=11, bold=True),
                alignment=Alignment(vertical="center", horizontal="center", wrap_text=True),
                fill=PatternFill("solid", fgColor="DDE6F0"),
            )
        )

    def add(self, title: str, columns: Sequence[Column]) -> AnnexSheet:
        """A further sheet.

        Args:
            title: Its name; characters that no name may have become ``_``, and a name that is taken a number.
            columns: Its columns.
        """
        title = title.translate(_FORBIDDEN_IN_TITLES)[:MAX_TITLE_CHARS]
        taken = {sheet.title.lower() for sheet in self.sheets}
        number = 1
        unique = title
        while unique.lower() in taken:
            number += 1
            unique = f"{title[: MAX_TITLE_CHARS - len(str(number)) - 2]}({number})"
        sheet = AnnexSheet(self._book, unique, columns)
        sheet.open()
        self.sheets.append(sheet)
        return sheet

    def save(self, path: str, notes: Sequence[str]) -> None:
        """Write the file.

        Args:
            path: Local file.
            notes: Lines of the last sheet, besides the numbers of the others.
        """
        sheets = list(self.sheets)
        about = self.add("说明", [("工作表", 28), ("说明", 90)])
        for sheet in sheets:
            said = f"{sheet.num_rows:,} 行"
            if sheet.num_cut:
                said += f"；{sheet.num_cut:,} 个单元格超过 32,767 字的上限，已截断并注明"
            if sheet.num_replaced:
                said += f"；{sheet.num_replaced:,} 个单元格的控制字符以图形符号代替"
            about.write([sheet.title, said])
        for note in notes:
            about.write(["", note])
        dated = datetime.datetime(*_DATE)
        self._book.properties = DocumentProperties(creator="safe-r1", created=dated, modified=dated)
        with tempfile.TemporaryFile() as draft:
            self._book.save(draft)
            self._copy(draft, path)

    def _copy(self, draft: IO[bytes], path: str) -> None:
        """Write a workbook again without the times at which it and its parts were written."""
        with zipfile.ZipFile(draft) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                member = zipfile.ZipInfo(name, _DATE)
                member.compress_type = zipfile.ZIP_DEFLATED
                # Beyond 2 GiB the archive has to know the size before.
                member.file_size = old.getinfo(name).file_size
                if name == _CORE:
                    # openpyxl sets the time of the last change when it saves.
                    self._book.properties.modified = self._book.properties.created
                    new.writestr(member, tostring(self._book.properties.to_tree()))
                    continue
                with old.open(name) as source, new.open(member, "w") as target:
                    while chunk := source.read(1 << 20):
                        target.write(chunk)


def dialogue(messages: Sequence[Message]) -> str:
    """A dialogue as one text: a single question as it is, several turns each below its speaker."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(
        f"【{_SPEAKERS.get(turn['role'], turn['role'])}】\n{turn['content']}" for turn in messages
    )
