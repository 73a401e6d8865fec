"""Packed sequences as what the model takes."""

from collections.abc import Sequence
from typing import Any

import torch

from safe_r1.train.attention import varlen_arguments
from safe_r1.train.loss import IGNORE
from safe_r1.train.pack import FILLER, PackedSequence
from safe_r1.train.step import Batch


def collate(sequences: Sequence[PackedSequence], device: str, varlen: bool) -> Batch:
    """One micro-batch: sequences side by side, or for varlen attention one row of all their documents.

    Args:
        sequences: At least one.
        device: Where the tensors go.
        varlen: Whether the attention wants the documents' ends.
    """
    num_tokens = sum(len(sequence.input_ids) for sequence in sequences if sequence is not FILLER)
    if varlen:
        columns = {
            name: _row(sequences, name)[None].to(device) for name in ("input_ids", "position_ids", "labels")
        }
        lengths = [length for sequence in sequences for length in sequence.lengths]
        return columns | varlen_arguments(lengths, device) | {"num_tokens": num_tokens}
    longest = max(len(sequence.input_ids) for sequence in sequences)
    shape = (len(sequences), longest)
    # What is beyond a sequence's end is a document of its own, so that nothing sees it.
    batch: dict[str, Any] = {
        "input_ids": torch.zeros(shape, dtype=torch.int64),
        "position_ids": torch.zeros(shape, dtype=torch.int64),
        "labels": torch.full(shape, IGNORE, dtype=torch.int64),
    }
    for row, sequence in enumerate(sequences):
        end = len(sequence.input_ids)
        for name, column in batch.items():
            column[row, :end] = torch.from_numpy(getattr(sequence, name))
        batch["position_ids"][row, end:] = torch.arange(longest - end)
    return {name: column.to(device) for name, column in batch.items()} | {"num_tokens": num_tokens}


def _row(sequences: Sequence[PackedSequence], name: str) -> torch.Tensor:
    return torch.cat([torch.from_numpy(getattr(sequence, name)) for sequence in sequences])
