"""Samples that lie on the disk, so that a million of them need no more memory than one batch."""

import contextlib
import tempfile
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, pairwise
from typing import IO, overload

import pyarrow as pa
import pyarrow.ipc as ipc

from safe_r1.errors import StorageError
from safe_r1.schema import SAMPLE_SCHEMA, Message, Sample

COLUMNS = ("sample_id", "task", "area", "category")
"""Columns that are small enough to be held for all rows."""

_BATCH_ROWS = 1024
_BATCH_CHARS = 1 << 20
_PLAIN = ("sample_id", "benchmark", "task", "area", "category")


class LazySamples(Sequence[Sample]):
    """Samples that are made when they are asked for, each by ``_at`` from its place."""

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self._at(place) for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self._at(place)

    @abstractmethod
    def _at(self, place: int) -> Sample:
        """The sample of a place, which is from 0 to the length."""


class SampleTable(LazySamples):
    """Samples in a temporary file, as batches of Arrow's IPC format; one batch is in memory at a time.

    The file has no name: its room on the disk is free again when the object is collected or the process ends,
    even where it is killed. It is read and never mapped, as mapped pages count as memory of the process.
    """

    def __init__(self, file: IO[bytes], num_rows: Sequence[int]) -> None:
        """Samples of a file that ``spool`` wrote.

        Args:
            file: The file.
            num_rows: Rows of each of its batches.
        """
        self._file = file
        self._reader = ipc.open_file(file)
        # Index of each batch's first sample, and the number of all at the end.
        self._starts = [0, *accumulate(num_rows)]
        self._cached: tuple[int, list[Sample]] = (-1, [])

    @classmethod
    def spool(cls, samples: Iterable[Sample]) -> "SampleTable":
        """Write samples as they come.

        Raises:
            StorageError: There is no room for them.
        """
        options = ipc.IpcWriteOptions(compression="zstd")
        with _on_disk():
            file = tempfile.TemporaryFile(prefix="safe-r1-samples-")  # noqa: SIM115 - closed when collected
            writer = ipc.new_file(file, SAMPLE_SCHEMA, options=options)
        num_rows: list[int] = []
        for batch in _batches(samples):
            with _on_disk():
                writer.write_batch(_encode(batch))
            num_rows.append(len(batch))
        with _on_disk():
            writer.close()
            file.flush()
            return cls(file, num_rows)

    def column(self, name: str) -> pa.ChunkedArray:
        """One of ``COLUMNS`` of all samples, without reading a text; all but the ids as dictionaries."""
        field = SAMPLE_SCHEMA.get_field_index(name)
        with _on_disk():
            reader = ipc.open_file(self._file, options=ipc.IpcReadOptions(included_fields=[field]))
            chunks = [reader.get_batch(index).column(0) for index in range(reader.num_record_batches)]
        if name == "sample_id":
            return pa.chunked_array(chunks, pa.string())
        kind = pa.dictionary(pa.int32(), pa.string())
        return pa.chunked_array([chunk.dictionary_encode() for chunk in chunks], kind).unify_dictionaries()

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self._starts) - 1):
            yield from self._batch(index)

    def _at(self, place: int) -> Sample:
        batch = bisect_right(self._starts, place) - 1
        return self._batch(batch)[place - self._starts[batch]]

    def _batch(self, index: int) -> list[Sample]:
        # One assignment of both, so that a second thread never sees the rows of another batch.
        cached, samples = self._cached
        if cached != index:
            with _on_disk():
                batch = self._reader.get_batch(index)
            samples = _decode(batch)
            self._cached = (index, samples)
        return samples


@contextlib.contextmanager
def _on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"the questions cannot be kept in the temporary folder {tempfile.gettempdir()} ({reason}); make "
            "room there, or set TMPDIR to a folder with room"
        ) from None


def _batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    num_chars = 0
    for sample in samples:
        batch.append(sample)
        for turn in sample.messages:
            num_chars += len(turn["content"])
        for text in (*sample.options.values(), *sample.metadata.values()):
            num_chars += len(text)
        if len(batch) == _BATCH_ROWS or num_chars >= _BATCH_CHARS:
            yield batch
            batch = []
            num_chars = 0
    if batch:
        yield batch


def _encode(samples: Sequence[Sample]) -> pa.RecordBatch:
    """The rows of ``Sample.to_row``, made column by column, which takes a fifth of the time."""
    plain = [pa.array([getattr(sample, name) for sample in samples], pa.string()) for name in _PLAIN]
    turns = [turn for sample in samples for turn in sample.messages]
    options = [sample.options for sample in samples]
    metadata = [sample.metadata for sample in samples]
    messages = _pairs(
        "messages",
        [len(sample.messages) for sample in samples],
        [turn["role"] for turn in turns],
        [turn["content"] for turn in turns],
    )
    nested = [messages, _entries("options", options), _entries("metadata", metadata)]
    return pa.record_batch([*plain, *nested], schema=SAMPLE_SCHEMA)


def _entries(name: str, rows: Sequence[dict[str, str]]) -> pa.ListArray:
    return _pairs(
        name,
        list(map(len, rows)),
        list(chain.from_iterable(rows)),
        list(chain.from_iterable(row.values() for row in rows)),
    )


def _pairs(name: str, lengths: Sequence[int], left: Sequence[str], right: Sequence[str]) -> pa.ListArray:
    """A column of lists of pairs of texts, from the length of each list and the two sides of all pairs."""
    fields = list(SAMPLE_SCHEMA.field(name).type.value_type)
    sides = [pa.array(left, pa.string()), pa.array(right, pa.string())]
    offsets = pa.array([0, *accumulate(lengths)], pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(sides, fields=fields))


def _decode(batch: pa.RecordBatch) -> list[Sample]:
    """The samples of rows, as ``Sample.from_row`` makes them."""
    plain = [batch.column(name).to_pylist() for name in _PLAIN]
    messages, options, metadata = (_read_pairs(batch.column(name)) for name in SAMPLE_SCHEMA.names[5:])
    return [
        Sample(
            *fields,
            messages=[Message(role=role, content=content) for role, content in turns],
            options=dict(texts),
            metadata=dict(facts),
        )
        for *fields, turns, texts, facts in zip(*plain, messages, options, metadata, strict=True)
    ]


def _read_pairs(column: pa.ListArray) -> Iterator[list[tuple[str, str]]]:
    offsets = column.offsets.to_pylist()
    left, right = (column.values.field(side).to_pylist() for side in (0, 1))
    pairs = list(zip(left, right, strict=True))
    return (pairs[start:end] for start, end in pairwise(offsets))
