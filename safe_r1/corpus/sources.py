"""Where raw records come from: files of four formats on any fsspec URI, data sets of the hub, files in this
package.

A place is divided into parts of a fixed number of records, whatever the cluster: a part is what one task
reads, and what a resumed job need not read again. A record that cannot be read is given back as an error with
its file and line.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

import pyarrow.parquet as pq
from upath import UPath

from safe_r1.corpus.recipe import Format, Place
from safe_r1.errors import DataError

AnyPlace = TypeVar("AnyPlace", bound=Place)

_PACKAGE = "package:"
_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_SHOWN_CHARS = 80


@dataclass(frozen=True)
class Part:
    """A run of records of one place.

    Attributes:
        place: Name of the source.
        index: Position among the place's parts.
        first: Index of the part's first record in the place.
        num_records: How many records the part holds, the unreadable ones included.
        file: The file, or the hub's id.
        format: Of the file; ``hub`` for a data set of the hub.
        offset: Where the part begins: byte (jsonl), record (json, csv, hub), row group (parquet).
        line: Line (jsonl) or number within the file of the first record, from 1.
    """

    place: str
    index: int
    first: int
    num_records: int
    file: str
    format: str
    offset: int
    line: int

    @property
    def name(self) -> str:
        """Stable name of the part, fit for a file."""
        return f"{self.place}-{self.index:05d}"


@dataclass(frozen=True)
class Record:
    """One record, or why there is none.

    Attributes:
        index: Position in its place.
        where: ``file:line``.
        value: The record; None where it is malformed.
        error: What is wrong with it, with the beginning of its text; empty where nothing is.
    """

    index: int
    where: str
    value: dict[str, Any] | None
    error: str = ""


def list_parts(place: Place, data: str | None, size: int, limit: int | None = None) -> list[Part]:
    """Divide a place into parts; reads file lengths and line ends, no records.

    Raises:
        DataError: A file is missing, or of a format that its name does not tell.
    """
    spans: list[tuple[str, str, int, int, int]] = []  # file, format, offset, line, records
    if place.hub:
        total = len(_load_hub(place))
        spans = [
            (place.hub, "hub", start, start + 1, min(size, total - start)) for start in range(0, total, size)
        ]
    else:
        for file in _files(place, data):
            format_ = _format(place, file)
            spans += [(str(file), format_, *span) for span in _spans(file, format_, place, size)]
    parts: list[Part] = []
    first = 0
    for file, format_, offset, line, count in spans:
        count = count if limit is None else min(count, limit - first)
        if count > 0:
            parts.append(Part(place.name, len(parts), first, count, file, format_, offset, line))
            first += count
    if not parts:
        raise DataError(f"source {place.name}: {place.path or place.hub} holds no records")
    return parts


def pin(place: AnyPlace) -> AnyPlace:
    """The place with the hub's commit of its revision, so that every task, now and later, reads the same;
    others as they are.

    Raises:
        DataError: The hub does not know the data set, or cannot be reached.
    """
    if not place.hub:
        return place
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(place.hub, revision=place.revision, timeout=20).sha
    except Exception as error:  # noqa: BLE001 - the hub's client raises whatever its transport raises
        raise _unreachable(place, error) from None
    return place.model_copy(update={"revision": commit})


def read_part(place: Place, part: Part) -> Iterator[Record]:
    """The records of a part, in order, exactly ``part.num_records`` of them.

    Raises:
        DataError: The file has changed or gone since the parts were listed.
    """
    count = 0
    for number, (value, error) in enumerate(_values(place, part)):
        if number >= part.num_records:
            break
        where = f"{part.file.rpartition('/')[2]}:{part.line + number}"
        if value is not None and not isinstance(value, dict):
            value, error = (
                None,
                f"expected an object, got {type(value).__name__}: {_shorten(json.dumps(value, ensure_ascii=False))}",
            )
        yield Record(part.first + number, where, value, error)
        count += 1
    if count != part.num_records:
        raise DataError(
            f"{part.file}: {count} records from {part.line} on, expected {part.num_records}: it has changed, run anew"
        )


def _values(place: Place, part: Part) -> Iterator[tuple[Any, str]]:
    """Values of a part, each with an error where it is malformed."""
    if part.format == "hub":
        rows = _load_hub(place).select(range(part.offset, part.offset + part.num_records))
        yield from ((dict(row), "") for row in rows)
    elif part.format == "jsonl":
        with UPath(part.file).open("rb") as file:
            file.seek(part.offset)
            yield from (_parse(line) for line in file)
    elif part.format == "json":
        yield from ((value, "") for value in _read_json(UPath(part.file), place)[part.offset :])
    elif part.format == "csv":
        yield from _read_csv(UPath(part.file), part.offset)
    else:
        with UPath(part.file).open("rb") as file:
            yield from ((row, "") for row in pq.ParquetFile(file).read_row_group(part.offset).to_pylist())  # pyright: ignore[reportArgumentType]


def _parse(line: bytes) -> tuple[Any, str]:
    try:
        return json.loads(line), ""
    except ValueError as error:
        return (
            None,
            f"not JSON ({str(error).split(':')[0]}): {_shorten(line.decode('utf-8', errors='replace'))}",
        )


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def _files(place: Place, data: str | None) -> list[UPath]:
    path = place.path or ""
    if path.startswith(_PACKAGE):
        return [UPath(str(files("safe_r1.corpus").joinpath(path.removeprefix(_PACKAGE))))]
    is_absolute = "://" in path or path.startswith("/")
    root = UPath(path) if is_absolute else UPath(data or ".") / path
    try:
        found = _find(root)
    except Exception as error:  # noqa: BLE001 - every file system raises its own
        raise _unreachable(place, error) from None
    if not found:
        hint = "" if is_absolute or data else "; relative paths start from --data"
        raise DataError(f"source {place.name}: no file at {root}{hint}")
    return found


def _find(root: UPath) -> list[UPath]:
    if "*" in root.name:
        return sorted(root.parent.glob(root.name), key=str)
    if root.is_dir():
        return sorted((file for file in root.iterdir() if file.suffix in _SUFFIXES), key=str)
    return [root] if root.exists() else []


def _format(place: Place, file: UPath) -> Format:
    format_ = place.format if place.format != "auto" else _SUFFIXES.get(file.suffix)
    if format_ is None:
        known = ", ".join(_SUFFIXES)
        raise DataError(
            f"source {place.name}: cannot tell the format of {file} (known: {known}); set `format`"
        )
    return format_


def _spans(file: UPath, format_: Format, place: Place, size: int) -> list[tuple[int, int, int]]:
    """Offset, first line and number of records of every part of a file."""
    if format_ == "jsonl":
        return _line_spans(file, size)
    if format_ == "parquet":
        with file.open("rb") as opened:
            groups = pq.ParquetFile(opened).metadata  # pyright: ignore[reportArgumentType]
        counts = [groups.row_group(index).num_rows for index in range(groups.num_row_groups)]
        return [(index, 1 + sum(counts[:index]), count) for index, count in enumerate(counts)]
    total = len(_read_json(file, place)) if format_ == "json" else sum(1 for _ in _read_csv(file, 0))
    return [(start, start + 1, min(size, total - start)) for start in range(0, total, size)]


def _line_spans(file: UPath, size: int) -> list[tuple[int, int, int]]:
    spans: list[tuple[int, int, int]] = []
    offset = begin = number = 0
    with file.open("rb") as opened:
        for line in opened:
            offset += len(line)
            number += 1
            if number % size == 0:
                spans.append((begin, number - size + 1, size))
                begin = offset
    if number % size:
        spans.append((begin, number - number % size + 1, number % size))
    return spans


def _read_json(file: UPath, place: Place) -> list[Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"source {place.name}: {file} is not JSON: {error}") from None
    if place.records == "*" and isinstance(value, dict):
        return [record for records in value.values() if isinstance(records, list) for record in records]
    for name in place.records.split(".") if place.records else ():
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, list):
        raise DataError(f"source {place.name}: {file} holds no list of records; name its field in `records`")
    return value


def _read_csv(file: UPath, skip: int) -> Iterator[tuple[Any, str]]:
    with file.open("rb") as opened:
        rows = csv.DictReader(io.TextIOWrapper(opened, encoding="utf-8-sig", errors="replace", newline=""))  # pyright: ignore[reportArgumentType]
        for number, row in enumerate(rows):
            if number >= skip:
                is_whole = None not in row and None not in row.values()
                yield (
                    (row, "")
                    if is_whole
                    else (None, f"expected {len(rows.fieldnames or ())} columns: {_shorten(str(row))}")
                )


def _load_hub(place: Place) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(str(place.hub), place.subset, split=place.split, revision=place.revision)
    except Exception as error:  # noqa: BLE001 - the library raises whatever its loaders raise
        raise _unreachable(place, error) from None


def _unreachable(place: Place, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"source {place.name}: cannot read {place.hub or place.path} ({reason[:200]}); check the network, the name and, for a "
        "gated set, that your account has accepted its terms (hf auth login)"
    )
