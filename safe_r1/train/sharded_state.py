"""Model and optimizer state in the form that torch's distributed checkpoints can store and reshard.

Two kinds of tensors need conversion: tensor-parallel shards, which are interleaved with FSDP's, while a
checkpoint knows contiguous shards only; and 8-bit moments, whose quantization blocks belong to a shard.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map

from safe_r1.train.optim import is_quantized

State = TypeVar("State", bound=Mapping[str, Any])

Moments = Mapping[Tensor, Mapping[str, object]]
"""An optimizer's state by parameter and name."""


def to_contiguous_shards(state: State, reference: State | None = None) -> State:
    """A nested state with dequantized moments and contiguous shards.

    Args:
        state: Nested dicts with tensors.
        reference: The state with the original sharding, to convert ``state`` back to it.
    """
    state = tree_map(_dequantize, state)
    if not dist.is_initialized():
        return state
    from transformers.distributed.checkpoint import _redistribute_state_dict

    return tree_map(_own_storage, _redistribute_state_dict(state, reference))  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def _dequantize(value: object) -> object:
    """An 8-bit moment as fp32 in host memory; other numbers of workers have other quantization blocks."""
    local = value.to_local() if isinstance(value, DTensor) else value
    if not is_quantized(local):
        return value
    plain: Tensor = local.dequantize().cpu()  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(value, DTensor):
        return plain
    # Wrapping moves the shard to the mesh's device; one shard at a time fits there.
    return _with_sharding_of(value, plain).cpu()


@torch.no_grad()
def _own_storage(value: object) -> object:
    """A sharded tensor whose local part does not share storage with a larger tensor.

    FSDP's shards are views; torch 2.13 cannot copy a view into a larger tensor on CPU.
    """
    if not isinstance(value, DTensor):
        return value
    local = value.to_local()
    if isinstance(local, AsyncCollectiveTensor):
        local = local.wait()
    return _with_sharding_of(value, local.clone() if local.device.type == "cpu" else local)


def _with_sharding_of(value: DTensor, local: Tensor) -> DTensor:
    return DTensor.from_local(
        local, value.device_mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride()
    )


@torch.no_grad()
def requantize(optimizer: torch.optim.Optimizer, quantized: Moments) -> None:
    """Quantize moments that were loaded as fp32 again.

    Args:
        optimizer: With the loaded moments.
        quantized: Its state before loading, whose 8-bit tensors are overwritten and put back.
    """
    for parameter, state in optimizer.state.items():
        for name, before in quantized.get(parameter, {}).items():
            loaded = state[name]
            local = before.to_local() if isinstance(before, DTensor) else before
            values = loaded.to_local() if isinstance(loaded, DTensor) else loaded
            if is_quantized(local):
                local.copy_(_restore_block_scales(values, local))  # pyright: ignore[reportAttributeAccessIssue]
                state[name] = before


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
