"""Looks at the first bytes of a file of questions: is it what its name says?"""

import json

from upath import UPath

from safe_r1.benchmarks.own.settings import GROUP
from safe_r1.errors import DataError
from safe_r1.records.files import open_bytes

_HEAD_BYTES = 1 << 20
_BINARY = {"xlsx": b"PK\x03\x04", "parquet": b"PAR1"}
_COMPRESSED = {"gz": b"\x1f\x8b\x08", "zst": b"\x28\xb5\x2f\xfd"}
# Workbooks of before 2007, and those with a password.
_OLD_OFFICE = b"\xd0\xcf\x11\xe0"


def check_content(file: UPath, format_: str, compression: str) -> None:
    """Check that a file begins as its format does.

    Raises:
        DataError: It is empty, or begins as another format.
    """
    with open_bytes(file, compression) as opened:
        head = opened.read(_HEAD_BYTES)
    name = file.name
    if not head.removeprefix(b"\xef\xbb\xbf").strip():
        raise DataError(f"{name}: is empty; save the questions again")
    if head.startswith(_OLD_OFFICE):
        raise DataError(f"{name}: is an old .xls workbook or has a password; save it as .xlsx without one")
    for found, mark in _COMPRESSED.items():
        if head.startswith(mark):
            raise DataError(f"{name}: is compressed; rename it so that it ends in .{format_}.{found}")
    for found, mark in _BINARY.items():
        if head.startswith(mark) and found != format_:
            raise _other(name, f"is a file of {found}", found)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    first, _, rest = text.partition(b"\n")
    if format_ == "jsonl" and text.startswith(b"[") and _is_list_of_records(first):
        raise _other(name, "is one JSON list, not a record a line", "json")
    if format_ == "json" and rest.lstrip().startswith(b"{") and isinstance(_parsed(first), dict):
        raise _other(name, "has a record a line", "jsonl")


def _other(name: str, what: str, format_: str) -> DataError:
    return DataError(
        f"{name}: {what}; rename it so that it ends in .{format_}, or --set {GROUP}.format={format_}"
    )


def _is_list_of_records(line: bytes) -> bool:
    """Whether a line is a list of objects, or the beginning of what goes on in the next line."""
    value = _parsed(line)
    return value is None or (isinstance(value, list) and any(isinstance(each, dict) for each in value))


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
