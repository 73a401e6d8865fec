"""How a file is read: its format, compression, text encoding and sheet, from settings, name and content."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from upath import UPath

from safe_r1.errors import DataError
from safe_r1.records import sheets
from safe_r1.records.encodings import UTF_8, detect_encoding, is_utf_8
from safe_r1.records.files import SUFFIXES, open_bytes, open_seekable, split_name
from safe_r1.records.location import DataLocation, FileFormat

_TEXT_FORMATS = ("jsonl", "json", "csv", "tsv")


@dataclass(frozen=True)
class Layout:
    """How a file is read.

    Attributes:
        format: Its format; ``hub`` for a dataset of the hub.
        compression: ``gz``, ``zst`` or empty.
        encoding: Of a text file.
        sheet: Of a workbook.
        notes: What was decided about it and its user should know.
    """

    format: str
    compression: str = ""
    encoding: str = UTF_8
    sheet: str = ""
    notes: tuple[str, ...] = ()


def find_layout(
    location: DataLocation, file: UPath, is_header: Callable[[Sequence[str]], bool] | None = None
) -> Layout:
    """How a file is read, from the settings, its name and, for encoding and sheet, its content.

    Args:
        location: The settings.
        file: The file.
        is_header: Whether a sheet with these names of columns goes before one without.

    Raises:
        DataError: The suffix is unknown, or the file is damaged.
    """
    format_, compression = find_format(location, file)
    if format_ == "xlsx":
        with open_seekable(file, compression) as opened:
            sheet, note = sheets.choose_sheet(
                opened, location.sheet, str(file), location.remedy("sheet", "NAME"), is_header
            )
            memory = sheets.memory_note(opened)
        return Layout(format_, compression, sheet=sheet, notes=_notes(file, note) + _notes(file, memory))
    if format_ not in _TEXT_FORMATS:
        return Layout(format_, compression)
    if location.encoding:
        try:
            encoding = UTF_8 if is_utf_8(location.encoding) else location.encoding
        except LookupError:
            raise DataError(
                f"{location.label}unknown encoding {location.encoding!r}; e.g. utf-8 or gb18030"
            ) from None
        return Layout(format_, compression, encoding)
    with open_bytes(file, compression) as opened:
        encoding, note = detect_encoding(opened, location.remedy("encoding", "NAME"))
    return Layout(format_, compression, encoding, notes=_notes(file, note))


def _notes(file: UPath, note: str) -> tuple[str, ...]:
    return (f"{file.name}: {note}",) if note else ()


def find_format(location: DataLocation, file: UPath) -> tuple[FileFormat, str]:
    """Format and compression of a file, from the settings or from its suffixes.

    Raises:
        DataError: The suffix is unknown.
    """
    _, format_, compression = split_name(file.name)
    format_ = location.format if location.format != "auto" else format_
    if format_ is None:
        known = ", ".join(SUFFIXES)
        raise DataError(
            f"{location.label}cannot tell the format of {file} (known: {known}, also with .gz or "
            f".zst); {location.remedy('format', 'csv')}"
        )
    return format_, compression
