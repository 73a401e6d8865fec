"""Micro-batches: packed sequences as inputs of the model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from safe_r1.train.loss import shift_labels
from safe_r1.train.packed import DUMMY_SEQUENCE, IGNORE_INDEX, PackedSequence
from safe_r1.train.varlen import VarlenKwargs, to_device, varlen_kwargs

_Column = Literal["input_ids", "position_ids", "labels"]


@dataclass(frozen=True)
class Batch:
    """One micro-batch on its device.

    Label tokens are found on the host, where the tokens come from: on a GPU, finding them would make the host
    wait.

    Attributes:
        input_ids: Tokens, shape (batch, seq), int64.
        position_ids: Positions, shape (batch, seq), restarting at 0 with each document.
        labels: The label tokens, shape (num_labels,).
        label_positions: Position that predicts each of them, among all batch * seq; shape (num_labels,).
        num_tokens: Number of real tokens, without padding and dummy sequences.
        boundaries: Document boundaries, for variable-length attention only.
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    label_positions: Tensor
    num_tokens: int
    boundaries: VarlenKwargs | None = None

    @property
    def num_labels(self) -> int:
        """Number of label tokens."""
        return len(self.labels)

    @property
    def model_inputs(self) -> dict[str, object]:
        """Keyword arguments of the model."""
        inputs: dict[str, object] = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "labels": self.labels,
            "label_positions": self.label_positions,
        }
        return {**inputs, **self.boundaries} if self.boundaries else inputs


def make_batch(
    input_ids: Tensor,
    position_ids: Tensor,
    labels: Tensor,
    num_tokens: int,
    device: str,
    lengths: list[int] | None = None,
) -> Batch:
    """A micro-batch from tensors on the host.

    Args:
        input_ids: Tokens, shape (batch, seq).
        position_ids: Positions, shape (batch, seq).
        labels: Unshifted labels, shape (batch, seq), ``IGNORE_INDEX`` where nothing is learned.
        num_tokens: Number of real tokens.
        device: Where the tensors go.
        lengths: Tokens of each document in order, for variable-length attention only.
    """
    shifted = shift_labels(labels).flatten()
    positions = (shifted != IGNORE_INDEX).nonzero().squeeze(1)
    return Batch(
        to_device(input_ids, device),
        to_device(position_ids, device),
        to_device(shifted[positions], device),
        to_device(positions, device),
        num_tokens,
        varlen_kwargs(lengths, device) if lengths else None,
    )


def collate(sequences: Sequence[PackedSequence], device: str, varlen: bool, multiple: int = 1) -> Batch:
    """One micro-batch: one sequence per row, or for variable-length attention all documents in one row.

    Padding is a document of its own, from which nothing is learned.

    Args:
        sequences: At least one.
        device: Where the tensors go.
        varlen: Make a batch for variable-length attention.
        multiple: Pad each row to a multiple of so many tokens.
    """
    num_tokens = sum(len(sequence.input_ids) for sequence in sequences if sequence is not DUMMY_SEQUENCE)
    # With variable-length attention one row holds all sequences, one after the other.
    rows = [list(sequences)] if varlen else [[sequence] for sequence in sequences]
    lengths = [[length for sequence in row for length in sequence.lengths] for row in rows]
    width = math.ceil(max(map(sum, lengths)) / multiple) * multiple
    shape = (len(rows), width)
    input_ids = torch.zeros(shape, dtype=torch.int64)
    position_ids = torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORE_INDEX, dtype=torch.int64)
    for number, row in enumerate(rows):
        end = sum(lengths[number])
        input_ids[number, :end] = _concatenate(row, "input_ids")
        position_ids[number, :end] = _concatenate(row, "position_ids")
        labels[number, :end] = _concatenate(row, "labels")
        # Its positions begin at 0: sdpa's mask keeps it apart from real tokens.
        position_ids[number, end:] = torch.arange(width - end)
        if end < width:
            lengths[number].append(width - end)
    documents = lengths[0] if varlen else None
    return make_batch(input_ids, position_ids, labels, num_tokens, device, documents)


def _concatenate(sequences: Sequence[PackedSequence], column: _Column) -> Tensor:
    """A column of all sequences in one row, shape (tokens,)."""
    return torch.cat([torch.from_numpy(getattr(sequence, column)) for sequence in sequences])
