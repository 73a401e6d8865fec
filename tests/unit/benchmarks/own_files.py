"""The same records in every format, text encoding and compression."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

Records = Sequence[dict[str, Any]]


def write_records(path: Path, records: Records, encoding: str = "utf-8") -> Path:
    """Write a file in the format and compression of its name; a list in a cell becomes JSON."""
    name = path.name
    content = _encode(records, name.removesuffix(".gz").removesuffix(".zst"), encoding)
    if name.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    elif name.endswith(".zst"):
        content = zstandard.ZstdCompressor().compress(content)
    path.write_bytes(content)
    return path


def _encode(records: Records, name: str, encoding: str) -> bytes:
    if name.endswith(".jsonl"):
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        return "".join(f"{line}\n" for line in lines).encode(encoding)
    if name.endswith(".json"):
        return json.dumps(records, ensure_ascii=False).encode(encoding)
    if name.endswith((".csv", ".tsv")):
        return _table(records, "\t" if name.endswith(".tsv") else ",").encode(encoding)
    buffer = io.BytesIO()
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(list(records)), buffer, row_group_size=7)
    else:
        book = openpyxl.Workbook()
        sheet = book.active
        assert sheet is not None
        sheet.append(list(records[0]))
        for record in records:
            sheet.append([_cell(value) for value in record.values()])
        book.save(buffer)
    return buffer.getvalue()


def _table(records: Records, delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(list(records[0]))
    writer.writerows([_cell(value) for value in record.values()] for record in records)
    return text.getvalue()


def _cell(value: object) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
