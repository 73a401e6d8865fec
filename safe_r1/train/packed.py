"""Packed sequences as workers read them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from safe_r1.errors import DataError
from safe_r1.runs import RunFolder
from safe_r1.train.pack import Ints

IGNORE_INDEX = -100
"""The label of a token without loss, as in PyTorch's cross entropy."""

DATA_FILE = "data.json"
"""Metadata of a folder of packed sequences, written last."""

DUMMY_INDEX = -1
"""Stands for ``DUMMY_SEQUENCE`` among the indices of sequences."""


@dataclass(frozen=True)
class PackedSequence:
    """Concatenated documents that must not attend to each other.

    Attributes:
        input_ids: All tokens, shape (tokens,), without padding.
        lengths: Number of tokens of each document.
        prompt_lengths: Number of prompt tokens at the start of each document, at least one; they get no loss.
        kinds: Kind of the corpus row of each document.
        row_ids: Id of the corpus row of each document.
    """

    input_ids: Ints
    lengths: list[int]
    prompt_lengths: list[int]
    kinds: list[str]
    row_ids: list[str]

    @property
    def position_ids(self) -> Ints:
        """Positions, shape (tokens,), restarting at 0 with each document."""
        return np.concatenate([np.arange(length) for length in self.lengths])

    @property
    def labels(self) -> Ints:
        """The token itself where it is learned, else ``IGNORE_INDEX``; shape (tokens,), not shifted.

        The first token of a document is never a label, so none is predicted from the preceding document.
        """
        # Each token's position in its document, against the prompt length of that document.
        is_prompt = self.position_ids < np.repeat(self.prompt_lengths, self.lengths)
        return np.where(is_prompt, IGNORE_INDEX, self.input_ids)

    @property
    def kind(self) -> str:
        """The kind of its documents, ``mixed`` if they differ."""
        return self.kinds[0] if len(set(self.kinds)) == 1 else "mixed"


DUMMY_SEQUENCE = PackedSequence(np.zeros(1, np.int64), [1], [1], ["dummy"], [""])
"""Computed by a worker that has no sequence left while others have; it has no labels."""


class PackedReader:
    """Random access to the packed sequences of a split, with a small cache of row groups."""

    def __init__(self, folder: UPath, split: str = "train"):
        content = RunFolder(UPath(folder)).read_json(DATA_FILE)
        if content is None:
            raise DataError(f"{folder}: no prepared data (no {DATA_FILE}); run the same command again")
        shards = content["splits"][split]["shards"]
        self._files = [UPath(folder) / split / name for name, _ in shards]
        self._starts = np.cumsum([0, *(num for _, num in shards)])
        # Sequences are read at random from many files: keep their footers, and the last few row groups.
        self._open = functools.lru_cache(maxsize=64)(self._open)
        self._read_group = functools.lru_cache(maxsize=4)(self._read_group)

    @property
    def num_sequences(self) -> int:
        """Number of sequences of the split."""
        return int(self._starts[-1])

    def read(self, indices: Sequence[int] | Ints) -> list[PackedSequence]:
        """Sequences by their indices, in that order; ``DUMMY_INDEX`` gives ``DUMMY_SEQUENCE``."""
        return [DUMMY_SEQUENCE if index == DUMMY_INDEX else self._read_one(int(index)) for index in indices]

    def _read_one(self, index: int) -> PackedSequence:
        if not 0 <= index < self.num_sequences:
            raise IndexError(f"sequence {index} of {self.num_sequences}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        row_in_file = index - int(self._starts[number])
        # All row groups but the last have the size of the first.
        group_size = self._open(number).metadata.row_group(0).num_rows
        row = self._read_group(number, row_in_file // group_size).slice(row_in_file % group_size, 1)
        tokens = row["input_ids"].combine_chunks().flatten().to_numpy().astype(np.int64)
        return PackedSequence(
            tokens, *(row[name][0].as_py() for name in ("lengths", "prompt_lengths", "kinds", "row_ids"))
        )

    def _open(self, number: int) -> pq.ParquetFile:
        return pq.ParquetFile(self._files[number].open("rb"))

    def _read_group(self, number: int, group: int) -> pa.Table:
        return self._open(number).read_row_group(group)
