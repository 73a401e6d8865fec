"""File formats of sources: JSON Lines, JSON, CSV, TSV, Parquet and XLSX, divided into spans of records.

A value that cannot be parsed is returned as an error with the beginning of its text.
"""

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from safe_r1.errors import DataError
from safe_r1.records import csv_files, sheets
from safe_r1.records.encodings import is_line_wise, is_utf_8
from safe_r1.records.files import lines_of, open_bytes, open_seekable, skip_bytes
from safe_r1.records.layout import Layout
from safe_r1.records.location import DataLocation
from safe_r1.records.parsed import Parsed, ParsedValue, shorten
from safe_r1.records.text import TextError, check_value, clean, parse_json

_BATCH_ROWS = 256


@dataclass(frozen=True)
class Span:
    """A range of records of a file.

    Attributes:
        offset: Start of the range: byte (jsonl), record (json, csv, xlsx) or row group (parquet).
        line: Line (jsonl) or record number in the file of the first record, from 1.
        num_records: Number of records, the malformed ones included.
    """

    offset: int
    line: int
    num_records: int


def list_spans(file: UPath, layout: Layout, location: DataLocation, size: int) -> list[Span]:
    """Divide a file into spans of ``size`` records.

    A row group of a Parquet file and a whole sheet are always one span: reading a part of one costs as much.
    """
    if layout.format == "jsonl" and is_line_wise(layout.encoding):
        return _line_spans(file, layout, size)
    if layout.format == "parquet":
        return _row_group_spans(file, layout)
    total = sum(1 for _ in read_all(file, layout, location))
    return record_spans(total, max(total, 1) if layout.format == "xlsx" else size)


def record_spans(total: int, size: int) -> list[Span]:
    """Spans whose offset is the number of a record, from 0."""
    return [Span(start, start + 1, min(size, total - start)) for start in range(0, total, size)]


def _row_group_spans(file: UPath, layout: Layout) -> list[Span]:
    spans: list[Span] = []
    line = 1
    with _parquet(file, layout) as parquet:
        # The footer has the sizes of all row groups; no row is read.
        for index in range(parquet.metadata.num_row_groups):
            num_rows = parquet.metadata.row_group(index).num_rows
            spans.append(Span(index, line, num_rows))
            line += num_rows
    return spans


def _line_spans(file: UPath, layout: Layout, size: int) -> list[Span]:
    spans: list[Span] = []
    offset = 0
    start = 0
    number = 0
    with open_bytes(file, layout.compression) as opened:
        for line in lines_of(opened, file):
            offset += len(line)
            number += 1
            if number % size == 0:
                spans.append(Span(start, number - size + 1, size))
                start = offset
    rest = number % size
    if rest:
        spans.append(Span(start, number - rest + 1, rest))
    return spans


def read_values(file: UPath, layout: Layout, offset: int, location: DataLocation) -> Iterator[ParsedValue]:
    """Values of a file from the start of a span; may run past the end of the span."""
    if layout.format == "jsonl" and is_line_wise(layout.encoding):
        with open_bytes(file, layout.compression) as opened:
            # Lines have no index: the offset saves parsing the file from its start for every part.
            skip_bytes(opened, offset)
            encoding = None if is_utf_8(layout.encoding) else layout.encoding
            yield from (_parse_line(line, encoding) for line in lines_of(opened, file))
    elif layout.format == "parquet":
        with _parquet(file, layout) as parquet:
            yield from map(checked, parquet.read_row_group(offset).to_pylist())
    else:
        for position, parsed in enumerate(read_all(file, layout, location)):
            if position >= offset:
                yield parsed.value, parsed.error


def read_all(file: UPath, layout: Layout, location: DataLocation) -> Iterator[Parsed]:
    """All values of a file, row by row."""
    if layout.format == "jsonl":
        yield from _read_lines(file, layout)
    elif layout.format == "json":
        for number, record in enumerate(_read_json(file, layout, location), start=1):
            yield Parsed(number, *checked(record))
    elif layout.format in ("csv", "tsv"):
        yield from csv_files.read_csv(file, layout)
    elif layout.format == "xlsx":
        with open_seekable(file, layout.compression) as opened:
            for number, row in sheets.read_sheet(opened, layout.sheet, str(file)):
                yield Parsed(number, *checked(row))
    else:
        with _parquet(file, layout) as parquet:
            batches = parquet.iter_batches(batch_size=_BATCH_ROWS)
            rows = (row for batch in batches for row in batch.to_pylist())
            yield from (Parsed(number, *checked(row)) for number, row in enumerate(rows, start=1))


def read_head(file: UPath, layout: Layout, num_rows: int) -> list[tuple[int, list[str]]]:
    """The first rows of a table with content, each with its line or row; empty for other formats."""
    if layout.format in ("csv", "tsv"):
        return csv_files.read_head(file, layout, num_rows)
    if layout.format != "xlsx":
        return []
    with open_seekable(file, layout.compression) as opened:
        return sheets.read_head(opened, layout.sheet, str(file), num_rows)


@contextlib.contextmanager
def _parquet(file: UPath, layout: Layout) -> Iterator[pq.ParquetFile]:
    """A Parquet file; what is wrong with it may show when its rows are read, or become Python's values.

    Raises:
        DataError: It is damaged.
    """
    with open_seekable(file, layout.compression) as opened:
        try:
            yield pq.ParquetFile(opened, page_checksum_verification=True)
        except (OSError, ValueError, ArithmeticError, pa.ArrowException) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{file}: no readable Parquet file ({reason})") from None


def _read_lines(file: UPath, layout: Layout) -> Iterator[Parsed]:
    with open_bytes(file, layout.compression) as opened:
        lines: Iterator[bytes | str] = lines_of(opened, file)
        if not is_line_wise(layout.encoding):
            text = io.TextIOWrapper(opened, encoding=layout.encoding, errors="replace", newline="\n")
            lines = lines_of(text, file)
        encoding = None if is_utf_8(layout.encoding) else layout.encoding
        for number, line in enumerate(lines, start=1):
            yield Parsed(number, *_parse_line(line, encoding))


def _parse_line(line: bytes | str, encoding: str | None) -> ParsedValue:
    """The value of a line of text, or of bytes in an encoding; None: UTF-8."""
    try:
        if isinstance(line, bytes) and encoding:
            line = line.decode(encoding)
        return parse_json(line), ""
    except ValueError as error:
        text = line.decode("utf-8", errors="replace") if isinstance(line, bytes) else line
        reason = str(error) if isinstance(error, TextError) else f"not JSON ({str(error).split(':')[0]})"
        return None, f"{reason}: {shorten(clean(text))}"


def is_blank(parsed: Parsed) -> bool:
    """Whether a line holds nothing."""
    return parsed.value is None and parsed.error.startswith("not JSON") and parsed.error.endswith(": ")


def checked(value: object) -> ParsedValue:
    """The value, or an error that names the field in it that is not taken; see ``check_value``."""
    try:
        check_value(value)
    except TextError as error:
        return None, f"{error}: {shorten(clean(str(value)))}"
    return value, ""


def _read_json(file: UPath, layout: Layout, location: DataLocation) -> list[object]:
    """The list of records of a JSON file; see ``DataLocation.records``."""
    try:
        with open_bytes(file, layout.compression) as opened:
            # Some editors put a byte order mark before the first character.
            value = json.load(io.TextIOWrapper(opened, encoding=layout.encoding))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{location.label}{file} is not JSON: {error}") from None
    if location.records == "*" and isinstance(value, dict):
        return [record for records in value.values() if isinstance(records, list) for record in records]
    for name in location.records.split(".") if location.records else ():
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, list):
        raise DataError(
            f"{location.label}{file} holds no list of records; name its field: "
            + location.remedy("records", "FIELD")
        )
    return value
