"""Reads benchmark files from any file system; every error is one line that names the file and the item."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from upath import UPath

from safe_r1.errors import DataError
from safe_r1.runs import is_regular

Field = TypeVar("Field")


def as_path(place: UPath | Path | str) -> UPath:
    """The path or URI as a path object.

    Raises:
        DataError: The URI's scheme is unknown or its file system package is missing.
    """
    try:
        return UPath(place)
    except (ValueError, ImportError, TypeError) as error:
        raise DataError(
            f"{place}: cannot be opened ({_line(error)}); give a local path or an fsspec URI"
        ) from error


def read_bytes(path: UPath, remedy: str) -> bytes:
    """The file's bytes.

    Args:
        path: The file.
        remedy: What to do about it, put at the end of the message.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    with _read_errors(path, remedy):
        return path.read_bytes()


def lines_of(path: UPath, remedy: str) -> Iterator[bytes]:
    """The file's lines, each with its end, without ever holding the whole file.

    Args:
        path: The file.
        remedy: What to do about it, put at the end of the message.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    with _read_errors(path, remedy), path.open("rb") as file:
        yield from file


@contextlib.contextmanager
def _read_errors(path: UPath, remedy: str) -> Iterator[None]:
    """Turns errors of reading a file into a ``DataError`` with a remedy."""
    try:
        if not is_regular(path):
            raise DataError(f"{path}: no regular file; {remedy}")
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; {remedy}") from error
    # An fsspec backend may miss its package (ImportError) or reject its settings (ValueError) at first use.
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{path}: cannot be read ({_line(error)}); {remedy}") from error


def folder_with(root: UPath, below: str, names: Sequence[str]) -> UPath | None:
    """``root`` or ``root/below``, whichever holds one of the files; None where neither does.

    A folder may be that of one benchmark or hold a folder for each of several.

    Raises:
        DataError: The folder cannot be read.
    """
    return next(
        (place for place in (root, root / below) if any(is_file(place / name) for name in names)), None
    )


def is_file(path: UPath) -> bool:
    """Whether the path is that of a file.

    Raises:
        DataError: The file system cannot be read.
    """
    try:
        return path.is_file()
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"{path}: cannot be read ({_line(error)}); give a local path or an fsspec URI"
        ) from error


def parse_json(content: bytes, where: str) -> object:
    """The content as JSON; ``where`` names it in messages.

    Raises:
        DataError: It is no UTF-8 or no JSON.
    """
    try:
        # Editors on Windows put a byte order mark first, which is no JSON.
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: is damaged, byte {error.start} is no UTF-8; fetch the file again"
        ) from error
    # Deep nesting ends in a RecursionError, a number of thousands of digits in a ValueError.
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: is damaged, no valid JSON ({_line(error)}); fetch the file again"
        ) from error


def object_of(value: object, where: str) -> Mapping[str, object]:
    """The value as a JSON object.

    Raises:
        DataError: It is something else.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: expected an object, got {type(value).__name__}")
    return value


def field_of(item: object, name: str, kind: type[Field], where: str) -> Field:
    """A field of a JSON object, of the given type and not empty.

    Raises:
        DataError: The item is no object, or the field is missing, empty or of another type.
    """
    fields = object_of(item, where)
    if name not in fields:
        raise DataError(f"{where}: field {name!r} is missing")
    value = fields[name]
    # True and False are integers to Python, and would pass for an id.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where}: field {name!r} is {type(value).__name__}, expected {kind.__name__}")
    if isinstance(value, str) and not value.strip():
        raise DataError(f"{where}: field {name!r} is empty")
    return value


def list_of(value: object, where: str) -> list[object]:
    """The value as a list that is not empty.

    Raises:
        DataError: It is something else, or holds nothing.
    """
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{where}: expected a list of items, got "
            f"{'an empty list' if value == [] else type(value).__name__}"
        )
    return value


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
