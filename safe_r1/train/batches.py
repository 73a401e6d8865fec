"""Micro-batches: packed sequences as inputs of the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from safe_r1.train.attention import VarlenKwargs, varlen_kwargs
from safe_r1.train.packed import DUMMY_SEQUENCE, IGNORE_INDEX, PackedSequence

_Column = Literal["input_ids", "position_ids", "labels"]


@dataclass(frozen=True)
class Batch:
    """One micro-batch on its device.

    Attributes:
        input_ids: Tokens, shape (batch, seq), int64.
        position_ids: Positions, shape (batch, seq), restarting at 0 with each document.
        labels: Unshifted labels, shape (batch, seq), ``IGNORE_INDEX`` where nothing is learned.
        num_tokens: Number of real tokens, without padding and dummy sequences.
        boundaries: Document boundaries, for variable-length attention only.
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    num_tokens: int
    boundaries: VarlenKwargs | None = None

    @property
    def model_inputs(self) -> dict[str, object]:
        """Keyword arguments of the model."""
        inputs: dict[str, object] = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "labels": self.labels,
        }
        return {**inputs, **self.boundaries} if self.boundaries else inputs


def collate(sequences: Sequence[PackedSequence], device: str, varlen: bool) -> Batch:
    """One micro-batch: one sequence per row, or for variable-length attention all documents in one row.

    Args:
        sequences: At least one.
        device: Where the tensors go.
        varlen: Make a batch for variable-length attention.
    """
    num_tokens = sum(len(sequence.input_ids) for sequence in sequences if sequence is not DUMMY_SEQUENCE)
    if varlen:
        lengths = [length for sequence in sequences for length in sequence.lengths]
        return Batch(
            _concatenate(sequences, "input_ids").to(device),
            _concatenate(sequences, "position_ids").to(device),
            _concatenate(sequences, "labels").to(device),
            num_tokens,
            varlen_kwargs(lengths, device),
        )
    longest = max(len(sequence.input_ids) for sequence in sequences)
    shape = (len(sequences), longest)
    input_ids = torch.zeros(shape, dtype=torch.int64)
    position_ids = torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORE_INDEX, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        end = len(sequence.input_ids)
        input_ids[row, :end] = torch.from_numpy(sequence.input_ids)
        position_ids[row, :end] = torch.from_numpy(sequence.position_ids)
        labels[row, :end] = torch.from_numpy(sequence.labels)
        # Padding is a document of its own, with positions from 0: sdpa's mask keeps it apart from real
        # tokens.
        position_ids[row, end:] = torch.arange(longest - end)
    return Batch(input_ids.to(device), position_ids.to(device), labels.to(device), num_tokens)


def _concatenate(sequences: Sequence[PackedSequence], column: _Column) -> Tensor:
    """A column of all sequences in one row, shape (1, tokens)."""
    return torch.cat([torch.from_numpy(getattr(sequence, column)) for sequence in sequences])[None]
