"""Model and optimizer state in the form that torch's distributed checkpoints can store and reshard.

Tensors are stored as they are, and loaded in place: nothing is copied. An interleaved shard of tensor
parallelism is stored as the slices of the whole tensor that it consists of (``interleaved``). Only 8-bit
moments, whose quantization blocks belong to a shard, may need conversion: they are stored as codes and scales
where the blocks do not cross the rows of the tensor, for then they are the same on any number of workers;
other ones are stored as fp32, and converted one by one.
"""

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from safe_r1.train.interleaved import InterleavedDTensor, global_indices, is_interleaved, sharded_dim
from safe_r1.train.optim import is_quantized

Tensors = dict[str, Tensor]
"""Tensors by their name in a checkpoint."""
# Suffixes of the parts of an 8-bit moment: uint8 codes, fp32 scales of the blocks, what each code stands for.
_CODES = ".codes"
_SCALES = ".scales"
_TABLE = ".table"


def named_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """All weights, buffers and moments by their name in a checkpoint; they share storage with these."""
    weights, states = get_state_dict(model, optimizer)
    tensors: dict[str, Any] = {f"model.{name}": value for name, value in weights.items()}
    moments: Mapping[str, Any] = states["state"]  # pyright: ignore[reportAssignmentType]
    for parameter, state in moments.items():
        prefix = ".".join(("optimizer", "state", parameter))
        tensors |= {f"{prefix}.{name}": value for name, value in state.items()}
    return tensors


def local_part(value: Tensor) -> Any:
    """This worker's shard of a tensor, or the tensor where it has no shards."""
    local = value.to_local() if isinstance(value, DTensor) else value
    return local.wait() if isinstance(local, AsyncCollectiveTensor) else local


def num_bytes(value: Tensor, is_coded: bool) -> int:
    """Bytes of a copy of this worker's shard.

    Args:
        value: The tensor.
        is_coded: It is an 8-bit moment that is saved as codes and scales.
    """
    local = local_part(value)
    if is_coded:
        return local.codes.nbytes + local.scale.nbytes
    return math.prod(local.shape) * value.dtype.itemsize


def has_row_blocks(value: Tensor) -> bool:
    """True for an 8-bit moment whose quantization blocks do not cross its rows, on this worker."""
    local = local_part(value)
    if not is_quantized(local):
        return False
    width = value.shape[-1]
    if isinstance(value, DTensor):
        if is_interleaved(value):
            return False
        width /= math.prod(
            value.device_mesh.size(dim)
            for dim, placement in enumerate(value.placements)
            if sharded_dim(placement) == value.ndim - 1
        )
    return width % local.block_size == 0


def saved_tensors(tensors: Tensors, coded: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors to save, which share storage with these.

    Args:
        tensors: All tensors of model and optimizer.
        coded: Names of the 8-bit moments to save as codes and scales: those with row blocks on all workers.
    """
    for name, value in tensors.items():
        if name in coded:
            yield from _parts_of(name, value).items()
        else:
            # Where it is an 8-bit moment, it is dequantized when it is written.
            yield name, with_sharding_of(value, local_part(value)) if is_interleaved(value) else value


@torch.no_grad()
def dequantize(local: Any) -> Tensor:
    """An 8-bit moment as fp32; any other tensor as it is."""
    return local.dequantize() if is_quantized(local) else local


@torch.no_grad()
def to_host(value: Tensor) -> Tensor:
    """A copy in host memory, with the same sharding."""
    local = local_part(value)
    plain = dequantize(local)
    is_shared = plain is local and plain.device.type == "cpu"
    return with_sharding_of(value, plain.clone() if is_shared else plain.cpu())


def with_sharding_of(value: Tensor, local: Tensor, width: int | None = None) -> Tensor:
    """A tensor with the sharding of another one, and with other content.

    Args:
        value: The other one.
        local: This worker's shard, on any device.
        width: Size of the last dimension of the whole tensor, if that is another one.
    """
    if not isinstance(value, DTensor):
        return local
    shape = value.shape if width is None else torch.Size([*value.shape[:-1], width])
    meta = TensorMeta(shape, torch.empty(shape, device="meta").stride(), local.dtype)
    # Unlike `DTensor.from_local`, the constructor leaves the shard on its device.
    spec = DTensorSpec(value.device_mesh, tuple(value.placements), tensor_meta=meta)
    kind = InterleavedDTensor if is_interleaved(value) else DTensor
    return kind(local, spec, requires_grad=False)


def _parts_of(name: str, value: Tensor) -> Tensors:
    """Codes, scales and table of an 8-bit moment with row blocks; they share its storage."""
    local = local_part(value)
    scales = local.scale.view(*local.shape[:-1], local.shape[-1] // local.block_size)
    return {
        name + _CODES: with_sharding_of(value, local.codes),
        name + _SCALES: with_sharding_of(value, scales, value.shape[-1] // local.block_size),
        name + _TABLE: local.qmap,
    }


def to_load(tensors: Tensors, saved: Mapping[str, object]) -> tuple[Tensors, list[Callable[[], None]]]:
    """The tensors to read a checkpoint into, and what is to be called when that is done.

    Args:
        tensors: All tensors of model and optimizer; most are read in place.
        saved: Metadata of the tensors of the checkpoint.
    """
    content: Tensors = {}
    finish: list[Callable[[], None]] = []
    for name, value in tensors.items():
        local = local_part(value)
        scales = saved.get(name + _SCALES)
        if isinstance(scales, TensorStorageMetadata):
            if has_row_blocks(value) and scales.size[-1] * local.block_size == value.shape[-1]:
                content |= _parts_of(name, value)
                continue
            read = _codes_to_read(name, value, saved)
            content |= read
            finish.append(functools.partial(_assign_codes, name, value, read))
        elif is_quantized(local):
            content[name] = _empty_like(value, torch.float32)
            finish.append(functools.partial(_assign, value, content[name]))
        else:
            content[name] = with_sharding_of(value, local) if is_interleaved(value) else value
    return content, finish


def _empty_like(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in host memory with the sharding of a tensor."""
    return with_sharding_of(value, torch.empty(local_part(value).shape, dtype=dtype))


def _codes_to_read(name: str, value: Tensor, saved: Mapping[str, object]) -> Tensors:
    """The parts of a moment whose blocks are others here: all scales, as they are few."""
    whole = {part: saved[name + part] for part in (_SCALES, _TABLE)}
    return {name + _CODES: _empty_like(value, torch.uint8)} | {
        name + part: torch.empty(metadata.size)
        for part, metadata in whole.items()
        if isinstance(metadata, TensorStorageMetadata)
    }


def _assign_codes(name: str, value: Tensor, read: Tensors) -> None:
    """Overwrite this worker's shard of a moment with what was read by ``_codes_to_read``."""
    codes = read[name + _CODES]
    scales = read[name + _SCALES]
    *rows, columns = global_indices(codes)
    for dim, indices in enumerate(rows):
        scales = scales.index_select(dim, indices)
    block_size = value.shape[-1] // scales.shape[-1]
    decoded = read[name + _TABLE][local_part(codes).int()] * scales[..., columns // block_size]
    _assign(value, with_sharding_of(codes, decoded))


@torch.no_grad()
def _assign(value: Tensor, read: Tensor) -> None:
    """Overwrite this worker's shard of an 8-bit moment with what was read for it in fp32."""
    local = local_part(value)
    plain = local_part(read).to(local.device)
    local.copy_(_restore_block_scales(plain, local) if is_quantized(local) else plain)


def _restore_block_scales(values: Tensor, quantized: Any) -> Tensor:
    """Values whose quantization gives the same codes and scales as before they were dequantized.

    torchao scales a block by its largest absolute value, but the lowest signed code is above -1. If the
    largest entry of a block is negative, its dequantized value is therefore too small in absolute value,
    and the block would get a smaller scale each time. Such entries are replaced by the negative of the
    original scale.

    Args:
        values: The dequantized moment.
        quantized: The torchao tensor that will hold it.
    """
    if not quantized.signed:
        return values
    lowest = quantized.qmap.min()
    blocks = values.reshape(-1, quantized.block_size)
    minimum = blocks.amin(1, keepdim=True)
    # The original scale: the maximum, or what the lowest code stood for if that is larger.
    scale = torch.maximum(blocks.amax(1, keepdim=True), minimum / lowest)
    is_clipped = (blocks == minimum) & (minimum / lowest == scale)
    return torch.where(is_clipped, -scale, blocks).view_as(values)
