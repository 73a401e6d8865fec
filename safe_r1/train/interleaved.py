"""Interleaved shards: a worker's part of a tensor that is more than one slice of it.

Where transformers stacks matrices into one tensor (the gate and up projections of experts), tensor
parallelism takes a slice of each. torch's distributed checkpoints write a ``DTensor`` as one slice. Here each
slice is one entry of the checkpoint, read and written where it lies in the shard: nothing is sent or copied.
"""

import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard

from safe_r1.train.optim import is_quantized


def sharded_dim(placement: Placement) -> int | None:
    """The dimension that a placement shards; None if it shards none."""
    return placement.dim if isinstance(placement, Shard | _StridedShard) else None


def is_interleaved(value: Tensor) -> bool:
    """True if a worker's shard is more than one slice of the tensor.

    FSDP shards what tensor parallelism has sharded before, and torch calls that strided; but as each of them
    takes one slice of one slice, it is one in the end.
    """
    if not isinstance(value, DTensor):
        return False
    for dim, placement in enumerate(value.placements):
        if isinstance(placement, _StridedShard):
            sharded_before = math.prod(
                value.device_mesh.size(later)
                for later in range(dim + 1, value.device_mesh.ndim)
                if isinstance(value.placements[later], Shard)
                and sharded_dim(value.placements[later]) == placement.dim
            )
            if sharded_before != placement.split_factor:
                return True
    return False


def global_indices(value: Tensor) -> list[Tensor]:
    """For each dimension, the indices in the whole tensor that this worker's shard has, in its order."""
    indices = [torch.arange(size) for size in value.shape]
    if not isinstance(value, DTensor):
        return indices
    mesh = value.device_mesh
    for dim, placement in enumerate(value.placements):
        sharded = sharded_dim(placement)
        if isinstance(placement, Shard | _StridedShard) and sharded is not None:
            # The placement splits one dimension of a tensor that has no other extent.
            line = indices[sharded].view([-1 if axis == sharded else 1 for axis in range(value.ndim)])
            parts, _ = placement._split_tensor(line, mesh.size(dim), with_padding=False)
            indices[sharded] = parts[mesh.get_local_rank(dim)].flatten()
    return indices


class InterleavedDTensor(DTensor):
    """A ``DTensor`` whose shard torch's distributed checkpoints see as several slices.

    They call these methods of a tensor that has them, in place of their own.
    """

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [
            ChunkStorageMetadata(
                torch.Size(start for start, _, _ in slices), torch.Size(size for _, _, size in slices)
            )
            for slices in self._slices()
        ]

    def __create_write_items__(self, fqn: str, object: Any) -> list[WriteItem]:
        properties = TensorProperties(dtype=self.dtype)
        return [
            WriteItem(
                MetadataIndex(fqn, chunk.offsets),
                WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk, properties, self.size()),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        """The slice at an offset in the whole tensor; a view, but of an 8-bit moment a copy in fp32."""
        local = self._local_tensor
        local = local.dequantize() if is_quantized(local) else local
        for slices in self._slices():
            if torch.Size(start for start, _, _ in slices) == index.offset:
                return local[tuple(slice(place, place + size) for _, place, size in slices)]
        raise ValueError(f"{index.fqn} has no slice at {index.offset} on this worker")

    def _slices(self) -> list[tuple[tuple[int, int, int], ...]]:
        """Each slice as (start in the whole tensor, start in the shard, size) for each dimension."""
        return list(itertools.product(*map(_runs, global_indices(self))))


def _runs(indices: Tensor) -> list[tuple[int, int, int]]:
    """Runs of consecutive indices: the first index of each, its position, and its length."""
    if not len(indices):
        return []
    first = torch.cat([torch.zeros(1, dtype=torch.int64), (indices.diff() != 1).nonzero().flatten() + 1])
    sizes = torch.diff(first, append=torch.tensor([len(indices)]))
    return list(zip(indices[first].tolist(), first.tolist(), sizes.tolist(), strict=True))
