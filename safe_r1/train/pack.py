"""Documents into sequences of one length, with as little padding as best fit leaves; a packed sequence as it
is read.
"""

import functools
import io
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from safe_r1.errors import DataError, IntegrityError
from safe_r1.runs import RunFolder, read_table, write_bytes
from safe_r1.train.tokens import Counts

IGNORE = -100
"""The label of a token that is not learned."""

INFO = "data.json"
"""What a folder of packed sequences says of itself; written last."""

FILLER_INDEX = -1
"""Stands for ``FILLER`` among the numbers of sequences."""

PACKED_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("lengths", pa.list_(pa.int32())),
        ("prompt_lengths", pa.list_(pa.int32())),
        ("kinds", pa.list_(pa.string())),
        ("row_ids", pa.list_(pa.string())),
    ]
)
"""A sequence: all its tokens, and what ``PackedSequence`` says of each document."""

# What a worker reads to have one sequence: few enough for a step, enough that a file's index stays small.
_TOKENS_PER_ROW_GROUP = 1 << 17
_SHOWN_CHARS = 800
_LINE = "\\n\n    "

Ints = npt.NDArray[np.int64]


def pack(lengths: Sequence[int] | npt.NDArray[np.integer], seq_len: int) -> list[list[int]]:
    """Best fit, longest document first: each goes where it leaves the least room.

    Takes O(n log n) for n documents, apart from keeping at most ``seq_len`` numbers sorted.

    Args:
        lengths: Tokens of each document, each from 1 to ``seq_len``.
        seq_len: Tokens of a sequence.

    Returns:
        The documents of each sequence by their position in ``lengths``, each once, in the order of the first
        of them.
    """
    sizes = np.asarray(lengths, np.int64)
    assert not len(sizes) or (sizes.min() >= 1 and sizes.max() <= seq_len), (
        "a document that no sequence holds"
    )
    bins: list[list[int]] = []
    rooms: list[int] = []  # different sizes of free room, ascending
    by_room: dict[int, list[int]] = {}
    for document in np.argsort(-sizes, kind="stable").tolist():
        length = int(sizes[document])
        place = bisect_left(rooms, length)
        if place == len(rooms):
            room, target = seq_len, len(bins)
            bins.append([])
        else:
            room = rooms[place]
            target = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[place]
        bins[target].append(document)
        if rest := room - length:
            if rest not in by_room:
                insort(rooms, rest)
                by_room[rest] = []
            by_room[rest].append(target)
    return sorted(map(sorted, bins))


@dataclass(frozen=True)
class Pack:
    """Some files of tokens as one file of packed sequences; picklable.

    Attributes:
        seq_len: Tokens of a sequence.
        by_kind: A sequence holds documents of one kind alone.
    """

    seq_len: int
    by_kind: bool

    def __call__(self, target: UPath, sources: Sequence[UPath]) -> None:
        """Pack the documents of these files, leaving the dropped ones out.

        Raises:
            IntegrityError: Not every document came into exactly one sequence.
        """
        columns = ["row_id", "kind", "reason", "num_prompt", "input_ids"]
        documents = pa.concat_tables([read_table(source, columns) for source in sources]).filter(
            pc.field("reason").is_null()
        )
        sizes = np.diff(_offsets(documents))
        bins: list[list[int]] = []
        for members in self._groups(documents["kind"]):
            bins += [members[chosen].tolist() for chosen in pack(sizes[members], self.seq_len)]
        order = np.array([document for chosen in bins for document in chosen], np.int64)
        if not np.array_equal(np.sort(order), np.arange(documents.num_rows)):
            raise IntegrityError(
                f"{target}: {documents.num_rows:,} documents, {len(order):,} packed; this is an error of ours"
            )
        ends = np.cumsum([0, *map(len, bins)])
        sink = io.BytesIO()
        group = max(1, _TOKENS_PER_ROW_GROUP // self.seq_len)
        pq.write_table(
            _gather(documents.take(pa.array(order)), ends), sink, compression="zstd", row_group_size=group
        )
        write_bytes(target, sink.getvalue())

    def _groups(self, kinds: pa.ChunkedArray) -> list[Ints]:
        if not self.by_kind:
            return [np.arange(len(kinds))]
        names = np.array(kinds.to_pylist(), object)
        return [np.flatnonzero(names == name) for name in sorted(set(names))]


def _gather(documents: pa.Table, ends: Ints) -> pa.Table:
    """A table of ``PACKED_SCHEMA`` from documents in their final order; ``ends`` counts those up to each
    sequence's end.
    """
    offsets = _offsets(documents)
    columns = [pa.array(np.diff(offsets), pa.int32())]
    columns += [documents[name].combine_chunks() for name in ("num_prompt", "kind", "row_id")]
    tokens = _lists(offsets[ends], documents["input_ids"].combine_chunks().flatten())
    return pa.table([tokens, *(_lists(ends, column) for column in columns)], PACKED_SCHEMA)


def _offsets(documents: pa.Table) -> Ints:
    """Where each document begins among the tokens of all, and where the last one ends."""
    lists: Any = documents["input_ids"].combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0]


def _lists(ends: Ints, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)


def count_packed(path: UPath) -> Counts:
    """What a file of ``PACKED_SCHEMA`` holds: sequences, and documents, tokens and label tokens by kind."""
    table = read_table(path, ["lengths", "prompt_lengths", "kinds"])
    lengths, prompts, kinds = (table[name].combine_chunks().flatten() for name in table.column_names)
    counts = Counts({("sequences", ""): table.num_rows})
    for length, prompt, kind in zip(lengths.to_pylist(), prompts.to_pylist(), kinds.to_pylist(), strict=True):
        counts.update(
            {("documents", kind): 1, ("tokens", kind): length, ("label_tokens", kind): length - prompt}
        )
    return counts


@dataclass(frozen=True)
class PackedSequence:
    """Documents one after the other, none of which may see another.

    Attributes:
        input_ids: All tokens, without padding.
        lengths: Tokens of each document.
        prompt_lengths: Tokens at the beginning of each document that are not learned, at least one.
        kinds: Kind of each document's row.
        row_ids: Row that each document comes from.
    """

    input_ids: Ints
    lengths: list[int]
    prompt_lengths: list[int]
    kinds: list[str]
    row_ids: list[str]

    @property
    def position_ids(self) -> Ints:
        """Positions, beginning again at 0 with each document."""
        return np.concatenate([np.arange(length) for length in self.lengths])

    @property
    def labels(self) -> Ints:
        """The token itself where it is learned, else ``IGNORE``; not shifted.

        The first token of a document is never learned, so none is predicted from the document before it.
        """
        return np.where(
            self.position_ids < np.repeat(self.prompt_lengths, self.lengths), IGNORE, self.input_ids
        )

    @property
    def kind(self) -> str:
        """The kind of its documents, ``mixed`` where they differ."""
        return self.kinds[0] if len(set(self.kinds)) == 1 else "mixed"


FILLER = PackedSequence(np.zeros(1, np.int64), [1], [1], ["filler"], [""])
"""A sequence to compute where a worker has none left while others do: nothing of it is learned."""


class PackedReader:
    """The packed sequences of a split, read where they lie; what was read last is kept for a while."""

    def __init__(self, folder: UPath, split: str = "train"):
        content = RunFolder(UPath(folder)).read_json(INFO)
        if content is None:
            raise DataError(f"{folder}: no prepared data (no {INFO}); run the same command again")
        shards = content["splits"][split]["shards"]
        self._files = [UPath(folder) / split / name for name, _ in shards]
        self._starts = np.cumsum([0, *(num for _, num in shards)])
        # Many files are read at random: an index of a few row groups each.
        self._open = functools.lru_cache(maxsize=64)(self._open)
        self._read_group = functools.lru_cache(maxsize=4)(self._read_group)

    @property
    def num_sequences(self) -> int:
        """Sequences of the split."""
        return int(self._starts[-1])

    def read(self, indices: Sequence[int] | Ints) -> list[PackedSequence]:
        """Some sequences by their numbers, in that order; what ``rank_indices`` fills up with becomes
        ``FILLER``.
        """
        return [FILLER if index == FILLER_INDEX else self._read_one(int(index)) for index in indices]

    def _read_one(self, index: int) -> PackedSequence:
        if not 0 <= index < self.num_sequences:
            raise IndexError(f"sequence {index} of {self.num_sequences}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        place = index - int(self._starts[number])
        size = self._open(number).metadata.row_group(0).num_rows
        row = self._read_group(number, place // size).slice(place % size, 1)
        tokens = row["input_ids"].combine_chunks().flatten().to_numpy().astype(np.int64)
        return PackedSequence(
            tokens, *(row[name][0].as_py() for name in ("lengths", "prompt_lengths", "kinds", "row_ids"))
        )

    def _open(self, number: int) -> pq.ParquetFile:
        return pq.ParquetFile(self._files[number].open("rb"))

    def _read_group(self, number: int, group: int) -> Any:
        return self._open(number).read_row_group(group)


def describe_batch(sequences: Sequence[PackedSequence], tokenizer: Any, max_documents: int = 6) -> str:
    """The first documents of a batch as text, for a human to check: what is learned stands between 【 and 】.

    A line break is shown and made, other control characters are written out, a long text loses its middle.
    """
    lines: list[str] = []
    left = max_documents
    for number, sequence in enumerate(sequences):
        if not left:
            break
        num_labels = np.count_nonzero(sequence.labels != IGNORE)
        head = f"sequence {number}: {len(sequence.lengths)} documents"
        lines.append(f"{head}, {len(sequence.input_ids):,} tokens, {num_labels:,} of them learned")
        ends = np.cumsum(sequence.lengths)
        for place, end in enumerate(ends[:left]):
            span = slice(end - sequence.lengths[place], end)
            positions = sequence.position_ids[span]
            name = f"{sequence.row_ids[place]} ({sequence.kinds[place]})"
            lines.append(f"  document {place}: {name}, positions {positions[0]} to {positions[-1]}")
            lines.append("    " + _show(sequence.input_ids[span], sequence.labels[span] != IGNORE, tokenizer))
        left -= len(ends[:left])
    num_documents = sum(len(sequence.lengths) for sequence in sequences)
    more = num_documents - (max_documents - left)
    return "\n".join([*lines, *([f"and {more:,} documents more"] if more else [])])


def _show(tokens: Ints, is_label: npt.NDArray[np.bool_], tokenizer: Any) -> str:
    starts = np.flatnonzero(np.diff(is_label, prepend=~is_label[:1]))
    parts = []
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        text = _escape(tokenizer.decode(tokens[start:end]))
        parts.append(f"【{text}】" if is_label[start] else text)
    return "".join(parts)


def _escape(text: str) -> str:
    if len(text) > _SHOWN_CHARS:
        half = _SHOWN_CHARS // 4
        text = f"{text[:half]} … {len(text) - 2 * half:,} characters … {text[-half:]}"
    return "".join(
        _LINE if char == "\n" else char if char.isprintable() else ascii(char)[1:-1] for char in text
    )
