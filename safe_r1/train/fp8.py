"""Dequantization of R1's FP8 weights while they are loaded.

The checkpoint stores each matrix in FP8 with one fp32 scale per block of 128 × 128 entries; blocks at the
right and lower edge may be smaller (``kv_a_proj_with_mqa`` has 576 rows). A worker reads only its own rows
or columns, whose bounds need not be those of blocks, so each slice is dequantized when it is read.
transformers 5.23 splits weights and scales in the same way instead, and rejects blocks of unequal size.

Source: ``weight_dequant`` in DeepSeek-V3's inference code (the formula; this is our own implementation).
"""

from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType
from typing import Protocol

import torch
from safetensors import safe_open
from torch import Tensor

_SCALE_SUFFIX = "_scale_inv"

_Index = EllipsisType | slice | tuple[EllipsisType | slice, ...]


class TensorSlice(Protocol):
    """A tensor in a file that is read when it is indexed, like a slice of safetensors."""

    def get_shape(self) -> list[int]:
        """Shape of the whole tensor."""
        ...

    def get_dtype(self) -> str:
        """Data type, by safetensors' name."""
        ...

    def __getitem__(self, index: _Index, /) -> Tensor:
        """The entries of the given slices."""
        ...


class DequantizedMatrix:
    """A ``TensorSlice`` that gives the fp32 values of a block-quantized matrix."""

    def __init__(self, weights: TensorSlice, scales: TensorSlice, block: tuple[int, int]):
        self._weights = weights
        self._scales = scales
        self._block = block

    def get_shape(self) -> list[int]:
        """Rows and columns."""
        return list(self._weights.get_shape())

    def get_dtype(self) -> str:
        """Data type of the values that are read."""
        return "F32"

    def __getitem__(self, index: _Index) -> Tensor:
        """The entries of a slice of rows and a slice of columns in fp32; ``[...]`` for all."""
        parts = index if isinstance(index, tuple) else (index,)
        slices = [part for part in parts if isinstance(part, slice)]
        slices += [slice(None)] * (2 - len(slices))
        (top, bottom), (left, right) = (
            part.indices(size)[:2] for part, size in zip(slices, self.get_shape(), strict=True)
        )
        if bottom <= top or right <= left:
            return torch.empty(max(bottom - top, 0), max(right - left, 0))
        values = self._weights[top:bottom, left:right].to(torch.float32)
        height, width = self._block
        # The scales of all blocks that the slice touches; -(-a // b) rounds up.
        scales = self._scales[top // height : -(-bottom // height), left // width : -(-right // width)].to(
            torch.float32
        )
        # For each row and column of the slice, the index of its block among these.
        row_blocks = torch.arange(top, bottom) // height - top // height
        column_blocks = torch.arange(left, right) // width - left // width
        return values.mul_(scales[row_blocks][:, column_blocks])


def open_dequantized(folder: Path, block: tuple[int, int]) -> Mapping[str, TensorSlice]:
    """All weights of an FP8 checkpoint by name, read and dequantized when they are indexed.

    Args:
        folder: Where the ``*.safetensors`` files are.
        block: Rows and columns that share a scale.

    Raises:
        FileNotFoundError: The folder has no such file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no *.safetensors in {folder}")
    stored: dict[str, TensorSlice] = {}
    for path in files:
        file = safe_open(path, framework="pt")
        stored |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    return {
        name: DequantizedMatrix(value, stored[name + _SCALE_SUFFIX], block)
        if name + _SCALE_SUFFIX in stored
        else value
        for name, value in stored.items()
        if not name.endswith(_SCALE_SUFFIX)
    }
