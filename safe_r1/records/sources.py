"""Reading of raw records: files on any fsspec URI, shipped files, datasets of the hub.

A source is divided into parts of a fixed number of records, independent of the cluster. One task reads one
part, and a resumed job skips the parts that it has. A record that cannot be parsed is returned as an error
with its file and line.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from upath import UPath

from safe_r1.errors import DataError
from safe_r1.records.find import find_all, unreachable
from safe_r1.records.formats import (
    Span,
    checked,
    is_blank,
    list_spans,
    read_all,
    read_values,
    record_spans,
)
from safe_r1.records.layout import Layout, find_layout
from safe_r1.records.location import DataLocation
from safe_r1.records.parsed import Parsed, ParsedValue, shorten

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

Location = TypeVar("Location", bound=DataLocation)

HUB = "hub"
"""Format of a dataset of the hub."""


@dataclass(frozen=True)
class SourcePart:
    """A contiguous range of records of one source.

    Attributes:
        source: Name of the source.
        index: Position among the parts of the source.
        first: Index in the source of the part's first record.
        num_records: Number of records in the part, the malformed ones included.
        file: URI of the file, or dataset id on the hub.
        offset: Start of the part in its file, see ``formats.Span``; for the hub the number of the record.
        line: Line (jsonl) or record number in the file of the first record, from 1.
        layout: How the file is read.
    """

    source: str
    index: int
    first: int
    num_records: int
    file: str
    offset: int
    line: int
    layout: Layout

    @property
    def format(self) -> str:
        """Format of the file; ``hub`` for a dataset of the hub."""
        return self.layout.format

    @property
    def name(self) -> str:
        """Stable name of the part, usable as a file name."""
        return f"{self.source}-{self.index:05d}"


@dataclass(frozen=True)
class RawRecord:
    """One record of a source, or the reason why it could not be parsed.

    Attributes:
        index: Position in its source.
        where: ``FILE:LINE``.
        value: The record; None if it is malformed.
        error: The fault and the beginning of the record's text; empty if there is none.
    """

    index: int
    where: str
    value: dict[str, object] | None
    error: str = ""


def list_parts(
    location: DataLocation, data: str | None, size: int, limit: int | None = None
) -> list[SourcePart]:
    """Divide a source into parts; reads file lengths and line ends, but no records.

    Args:
        location: The source.
        data: Folder or URI that relative paths start from.
        size: Records per part; a row group of a Parquet file is always one part.
        limit: Maximum number of records.

    Raises:
        DataError: A file is missing, its format is unknown, or there are no records.
    """
    parts: list[SourcePart] = []
    first = 0
    for file, layout, span in _list_spans(location, data, size):
        count = span.num_records if limit is None else min(span.num_records, limit - first)
        if count > 0:
            parts.append(
                SourcePart(location.name, len(parts), first, count, file, span.offset, span.line, layout)
            )
            first += count
    if not parts:
        raise DataError(f"{location.label}{location.path or location.hub} holds no records")
    return parts


def _list_spans(location: DataLocation, data: str | None, size: int) -> Iterator[tuple[str, Layout, Span]]:
    """File, layout and span of every part of a source, regardless of its limit."""
    if location.hub:
        for span in record_spans(len(_load_hub(location)), size):
            yield location.hub, Layout(HUB), span
        return
    for file in find_all(location, data).files:
        layout = find_layout(location, file)
        for note in layout.notes:
            logger.warning("source %s: %s", location.name, note)
        for span in list_spans(file, layout, location, size):
            yield str(file), layout, span


def pin_revision(location: Location) -> Location:
    """Resolve the revision of a hub dataset to a commit, so that all tasks read the same data.

    Other locations are returned unchanged.

    Raises:
        DataError: The hub does not know the dataset or cannot be reached.
    """
    if not location.hub:
        return location
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(location.hub, revision=location.revision, timeout=20).sha
    except Exception as error:  # noqa: BLE001 - the hub's client raises whatever its transport raises
        raise unreachable(location, error) from None
    return location.model_copy(update={"revision": commit})


def read_part(location: DataLocation, part: SourcePart) -> Iterator[RawRecord]:
    """The records of a part in order, exactly ``part.num_records``.

    Raises:
        DataError: The file was changed or removed after the parts were listed.
    """
    count = 0
    for number, (value, error) in enumerate(_read_values(location, part)):
        # The readers run to the end of the file, and the last part may be cut by the limit.
        if number >= part.num_records:
            break
        where = f"{part.file.rpartition('/')[2]}:{part.line + number}"
        if value is not None and not isinstance(value, dict):
            text = shorten(json.dumps(value, ensure_ascii=False))
            error = f"expected an object, got {type(value).__name__}: {text}"
            value = None
        yield RawRecord(part.first + number, where, value, error)
        count += 1
    if count != part.num_records:
        raise DataError(
            f"{part.file}: {count} records from {part.line} on, expected {part.num_records}: "
            "the file has changed since the job started; build into a new --output"
        )


def _read_values(location: DataLocation, part: SourcePart) -> Iterator[ParsedValue]:
    if part.format != HUB:
        yield from read_values(UPath(part.file), part.layout, part.offset, location)
        return
    rows = _load_hub(location).select(range(part.offset, part.offset + part.num_records))
    yield from (checked(dict(row)) for row in rows)


def read_rows(location: DataLocation, files_: list[tuple[UPath, Layout]]) -> Iterator[tuple[str, Parsed]]:
    """All records of a location in order, in one pass, each with the file that it is from.

    Blank lines are left out. A value that is no object is an error.

    Args:
        location: The source.
        files_: Its files with their layouts; empty for a dataset of the hub.
    """
    if location.hub:
        for number, row in enumerate(_load_hub(location), start=1):
            yield location.hub, Parsed(number, *checked(dict(row)))
        return
    for file, layout in files_:
        for parsed in read_all(file, layout, location):
            if is_blank(parsed):
                continue
            if parsed.value is not None and not isinstance(parsed.value, dict):
                parsed = Parsed(
                    parsed.number, None, f"expected an object, got {type(parsed.value).__name__}: "
                )
            yield file.name, parsed


def _load_hub(location: DataLocation) -> "Dataset":
    from datasets import Dataset, load_dataset

    try:
        dataset = load_dataset(
            str(location.hub), location.subset, split=location.split, revision=location.revision
        )
    except Exception as error:  # noqa: BLE001 - the library raises whatever its loaders raise
        raise unreachable(location, error) from None
    assert isinstance(dataset, Dataset)  # one split, not streamed
    return dataset
