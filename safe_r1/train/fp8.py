"""R1's FP8 weights, read as plain ones.

The checkpoint holds a matrix in 8 bits and one fp32 scale for every 128 × 128 of its entries; at the right
and lower edge a block may be smaller (``kv_a_proj_with_mqa`` has 576 rows). A worker reads its own rows or
columns, whose edges need not be those of blocks, so a matrix becomes plain in the very piece that is asked
for. transformers 5.23 cuts weights and scales alike instead, and refuses blocks of unequal size.

Source: ``weight_dequant`` of DeepSeek-V3's inference code (its formula; the code is our own).
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

_SCALE = "_scale_inv"


class PlainMatrix:
    """A quantized matrix in a file, as transformers' loader knows one of safetensors' slices: it reads what
    it is asked for.
    """

    def __init__(self, weights: Any, scales: Any, block: tuple[int, int]):
        self._weights, self._scales, self._block = weights, scales, block

    def get_shape(self) -> list[int]:
        """Rows and columns."""
        return list(self._weights.get_shape())

    def get_dtype(self) -> str:
        """What it is read as, in safetensors' words."""
        return "F32"

    def __getitem__(self, index: Any) -> Tensor:
        """The entries of a slice of rows and a slice of columns in fp32; ``[...]`` for all."""
        parts = index if isinstance(index, tuple) else (index,)
        pieces = [part for part in parts if isinstance(part, slice)]
        pieces += [slice(None)] * (2 - len(pieces))
        bounds = [piece.indices(size)[:2] for piece, size in zip(pieces, self.get_shape(), strict=True)]
        (top, bottom), (left, right) = bounds
        if bottom <= top or right <= left:
            return torch.empty(max(bottom - top, 0), max(right - left, 0))
        values = self._weights[top:bottom, left:right].to(torch.float32)
        tall, wide = self._block
        scales = self._scales[top // tall : -(-bottom // tall), left // wide : -(-right // wide)].to(
            torch.float32
        )
        rows = torch.arange(top, bottom) // tall - top // tall
        columns = torch.arange(left, right) // wide - left // wide
        return values.mul_(scales[rows][:, columns])


def read_plain(folder: Path, block: tuple[int, int]) -> dict[str, Any]:
    """Every weight of an FP8 checkpoint by its name, to be read when it is indexed; the scales are gone into
    their matrices.

    Args:
        folder: Where its ``*.safetensors`` lie.
        block: Rows and columns that share a scale.

    Raises:
        FileNotFoundError: There is no such file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no *.safetensors in {folder}")
    found: dict[str, Any] = {}
    for file in files:
        stored = safe_open(file, framework="pt")
        found |= {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
    return {
        name: PlainMatrix(value, found[name + _SCALE], block) if name + _SCALE in found else value
        for name, value in found.items()
        if not name.endswith(_SCALE)
    }
