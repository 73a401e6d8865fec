"""Packing: documents into sequences of one length, by best fit decreasing, with little padding."""

import io
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from safe_r1.errors import IntegrityError
from safe_r1.runs import read_table, write_bytes
from safe_r1.train.token_shards import Counts

PACKED_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("lengths", pa.list_(pa.int32())),
        ("prompt_lengths", pa.list_(pa.int32())),
        ("kinds", pa.list_(pa.string())),
        ("row_ids", pa.list_(pa.string())),
    ]
)
"""One packed sequence per row; the columns are the fields of ``PackedSequence``."""

# A worker reads a whole row group to get one sequence: small enough to read within a step, large enough that
# the file's footer, which lists all row groups, stays small.
_TOKENS_PER_ROW_GROUP = 1 << 17

Ints = npt.NDArray[np.int64]


def pack(lengths: Sequence[int] | npt.NDArray[np.integer], seq_len: int) -> list[list[int]]:
    """Best fit decreasing: longest document first, each into the sequence with the least space left.

    Takes O(n log n) time for n documents, plus insertions into a sorted list of at most ``seq_len`` numbers.

    Args:
        lengths: Number of tokens of each document, from 1 to ``seq_len``.
        seq_len: Tokens of a sequence.

    Returns:
        The documents of each sequence as indices into ``lengths``, each exactly once; sequences are sorted by
        their first document.
    """
    sizes = np.asarray(lengths, np.int64)
    assert not len(sizes) or (sizes.min() >= 1 and sizes.max() <= seq_len), (
        "a document longer than a sequence"
    )
    bins: list[list[int]] = []
    free_sizes: list[int] = []  # the distinct numbers of free tokens of open bins, ascending
    bins_by_free: dict[int, list[int]] = {}
    # A stable sort makes the result independent of numpy's sorting algorithm.
    for document in np.argsort(-sizes, kind="stable").tolist():
        length = int(sizes[document])
        position = bisect_left(free_sizes, length)
        if position == len(free_sizes):
            free = seq_len
            target = len(bins)
            bins.append([])
        else:
            free = free_sizes[position]
            target = bins_by_free[free].pop()
            if not bins_by_free[free]:
                del bins_by_free[free]
                del free_sizes[position]
        bins[target].append(document)
        if left := free - length:
            if left not in bins_by_free:
                insort(free_sizes, left)
                bins_by_free[left] = []
            bins_by_free[left].append(target)
    return sorted(map(sorted, bins))


@dataclass(frozen=True)
class PackShards:
    """Packs files of ``TOKENS_SCHEMA`` into one file of ``PACKED_SCHEMA``; picklable.

    Attributes:
        seq_len: Tokens of a sequence.
        by_kind: Pack documents of different kinds into different sequences.
    """

    seq_len: int
    by_kind: bool

    def __call__(self, target: UPath, sources: Sequence[UPath]) -> None:
        """Pack the documents of the source files, without the dropped ones.

        Raises:
            IntegrityError: A document is not in exactly one sequence.
        """
        columns = ["row_id", "kind", "reason", "num_prompt", "input_ids"]
        tables = [read_table(source, columns) for source in sources]
        documents = pa.concat_tables(tables).filter(pc.field("reason").is_null())
        sizes = np.diff(_offsets(documents))
        bins: list[list[int]] = []
        for members in self._groups(documents["kind"]):
            # `pack` returns indices into the group's sizes; `members` maps them to indices of documents.
            bins += [members[chosen].tolist() for chosen in pack(sizes[members], self.seq_len)]
        order = np.array([document for chosen in bins for document in chosen], np.int64)
        if not np.array_equal(np.sort(order), np.arange(documents.num_rows)):
            raise IntegrityError(
                f"{target}: {documents.num_rows:,} documents, {len(order):,} packed; this is a bug of safe_r1"
            )
        # Sequence i consists of the documents order[bounds[i]:bounds[i + 1]].
        bounds = np.cumsum([0, *map(len, bins)])
        sink = io.BytesIO()
        pq.write_table(
            _gather(documents.take(pa.array(order)), bounds),
            sink,
            compression="zstd",
            row_group_size=max(1, _TOKENS_PER_ROW_GROUP // self.seq_len),
        )
        write_bytes(target, sink.getvalue())

    def _groups(self, kinds: pa.ChunkedArray) -> list[Ints]:
        """Indices of the documents that may share sequences."""
        if not self.by_kind:
            return [np.arange(len(kinds))]
        names = np.array(kinds.to_pylist(), object)
        return [np.flatnonzero(names == name) for name in sorted(set(names))]


def _gather(documents: pa.Table, bounds: Ints) -> pa.Table:
    """A table of ``PACKED_SCHEMA`` from documents in their final order.

    Args:
        documents: Rows of ``TOKENS_SCHEMA``.
        bounds: Index of the first document of each sequence, then the number of documents.
    """
    offsets = _offsets(documents)
    columns = [pa.array(np.diff(offsets), pa.int32())]
    columns += [documents[name].combine_chunks() for name in ("num_prompt", "kind", "row_id")]
    # Documents of a sequence are adjacent, so its tokens are one slice of all tokens: no token is copied
    # twice.
    tokens = _lists(offsets[bounds], documents["input_ids"].combine_chunks().flatten())
    return pa.table([tokens, *(_lists(bounds, column) for column in columns)], PACKED_SCHEMA)


def _offsets(documents: pa.Table) -> Ints:
    """Index of each document's first token among the tokens of all documents, then the number of tokens."""
    lists = documents["input_ids"].combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)  # pyright: ignore[reportAttributeAccessIssue]
    # A filtered or sliced array may start inside its buffer.
    return offsets - offsets[0]


def _lists(bounds: Ints, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), values)


def count_packed(path: UPath) -> Counts:
    """Counts of a file of ``PACKED_SCHEMA``: sequences; documents, tokens and label tokens by kind."""
    table = read_table(path, ["lengths", "prompt_lengths", "kinds"])
    lengths, prompts, kinds = (table[name].combine_chunks().flatten() for name in table.column_names)
    counts = Counts({("sequences", ""): table.num_rows})
    for length, prompt, kind in zip(lengths.to_pylist(), prompts.to_pylist(), kinds.to_pylist(), strict=True):
        counts["documents", kind] += 1
        counts["tokens", kind] += length
        counts["label_tokens", kind] += length - prompt
    return counts
