"""File formats of sources: JSON Lines, JSON, CSV and Parquet, divided into spans of records.

A value that cannot be parsed is returned as an error with the beginning of its text.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq
from upath import UPath

from safe_r1.corpus.recipe import DataLocation, FileFormat
from safe_r1.errors import DataError

SUFFIXES: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_SHOWN_CHARS = 80

ParsedValue = tuple[object, str]
"""A value and its error; the value is None if the error is not empty."""


@dataclass(frozen=True)
class Span:
    """A range of records of a file.

    Attributes:
        offset: Start of the range: byte (jsonl), record (json, csv) or row group (parquet).
        line: Line (jsonl) or record number in the file of the first record, from 1.
        num_records: Number of records, the malformed ones included.
    """

    offset: int
    line: int
    num_records: int


def find_format(location: DataLocation, file: UPath) -> FileFormat:
    """The format of a file, from the settings or from its suffix.

    Raises:
        DataError: The suffix is unknown.
    """
    format_ = location.format if location.format != "auto" else SUFFIXES.get(file.suffix)
    if format_ is None:
        known = ", ".join(SUFFIXES)
        raise DataError(
            f"source {location.name}: cannot tell the format of {file} (known: {known}); set `format`"
        )
    return format_


def list_spans(file: UPath, format_: FileFormat, location: DataLocation, size: int) -> list[Span]:
    """Divide a file into spans of ``size`` records; a row group of a Parquet file is always one span."""
    if format_ == "jsonl":
        return _line_spans(file, size)
    if format_ == "parquet":
        return _row_group_spans(file)
    if format_ == "json":
        return record_spans(len(_read_json(file, location)), size)
    return record_spans(sum(1 for _ in _read_csv(file, 0)), size)


def record_spans(total: int, size: int) -> list[Span]:
    """Spans whose offset is the number of a record, from 0."""
    return [Span(start, start + 1, min(size, total - start)) for start in range(0, total, size)]


def _row_group_spans(file: UPath) -> list[Span]:
    with file.open("rb") as opened:
        # The footer has the sizes of all row groups; no row is read.
        metadata = pq.ParquetFile(opened).metadata  # pyright: ignore[reportArgumentType]
    spans: list[Span] = []
    line = 1
    for index in range(metadata.num_row_groups):
        num_rows = metadata.row_group(index).num_rows
        spans.append(Span(index, line, num_rows))
        line += num_rows
    return spans


def _line_spans(file: UPath, size: int) -> list[Span]:
    spans: list[Span] = []
    offset = 0
    start = 0
    number = 0
    with file.open("rb") as opened:
        for line in opened:
            offset += len(line)
            number += 1
            if number % size == 0:
                spans.append(Span(start, number - size + 1, size))
                start = offset
    rest = number % size
    if rest:
        spans.append(Span(start, number - rest + 1, rest))
    return spans


def read_values(file: UPath, format_: str, offset: int, location: DataLocation) -> Iterator[ParsedValue]:
    """Values of a file from the start of a span; may run past the end of the span."""
    if format_ == "jsonl":
        with file.open("rb") as opened:
            # Lines have no index: the offset saves reading the file from its start for every part.
            opened.seek(offset)
            yield from (_parse_line(line) for line in opened)
    elif format_ == "json":
        yield from map(_check_text, _read_json(file, location)[offset:])
    elif format_ == "csv":
        yield from _read_csv(file, offset)
    else:
        with file.open("rb") as opened:
            group = pq.ParquetFile(opened).read_row_group(offset)  # pyright: ignore[reportArgumentType]
            yield from ((row, "") for row in group.to_pylist())


def _parse_line(line: bytes) -> ParsedValue:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        text = shorten(line.decode("utf-8", errors="replace"))
        return None, f"not JSON ({str(error).split(':')[0]}): {text}"
    # Only an escape can stand for half of a surrogate pair: the check is for the few lines that have one.
    return _check_text(value) if b"\\u" in line else (value, "")


def _check_text(value: object) -> ParsedValue:
    """The value, or an error if its text cannot be encoded: JSON can escape half of a surrogate pair."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return None, f"not Unicode (lone surrogate): {shorten(text.encode(errors='replace').decode())}"
    return value, ""


def shorten(text: str) -> str:
    """The beginning of a text on one line, for error messages."""
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def _read_json(file: UPath, location: DataLocation) -> list[object]:
    """The list of records of a JSON file; see ``DataLocation.records``."""
    try:
        # Some editors put a byte order mark before the first character.
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"source {location.name}: {file} is not JSON: {error}") from None
    if location.records == "*" and isinstance(value, dict):
        return [record for records in value.values() if isinstance(records, list) for record in records]
    for name in location.records.split(".") if location.records else ():
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, list):
        raise DataError(
            f"source {location.name}: {file} holds no list of records; name its field in `records`"
        )
    return value


def _read_csv(file: UPath, skip: int) -> Iterator[ParsedValue]:
    with file.open("rb") as opened:
        text = io.TextIOWrapper(opened, encoding="utf-8-sig", errors="replace", newline="")  # pyright: ignore[reportArgumentType]
        rows = csv.DictReader(text)
        for number, row in enumerate(rows):
            if number < skip:
                continue
            # DictReader puts surplus cells under the key None, and fills missing ones with the value None.
            if None in row or None in row.values():
                yield None, f"expected {len(rows.fieldnames or ())} columns: {shorten(str(row))}"
            else:
                yield row, ""
