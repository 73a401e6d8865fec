"""What one rank of a training step computes, allocates and sends, counted on fake tensors.

The fake process group has one real rank, and fake tensors have shapes but no data, so that a step of any
model on any number of GPUs runs in one process in seconds or minutes. What would need data gets a stand-in:
numbers read back to the host are ones, every position has a label, and every rank gets as many routed tokens
as the plan assumes for the busiest.
"""

import contextlib
import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._tools.fake_collectives import CollectiveOp, collective_ops, sync_ops
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface, AttentionMaskInterface

from safe_r1.train.communication import Collective, Group, Link, bytes_by_link

ATTENTION = "counted"


def _grouped_mm_flops(a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
    """From the shapes; the rows of all groups add up."""
    return 2 * a.shape[0] * a.shape[1] * b.shape[-1]


_aten = torch.ops.aten
_c10d = torch.ops.c10d
_functional = torch.ops._c10d_functional
_FLOPS = flop_registry | {_aten._grouped_mm: _grouped_mm_flops}
# Each collective with the place of its payload among (arguments, result).
_PAYLOADS: dict[Any, tuple[Collective, Callable[[Sequence[Any], Any], Any]]] = {
    _c10d._allgather_base_.default: ("all_gather", lambda args, result: args[0]),
    _c10d._reduce_scatter_base_.default: ("reduce_scatter", lambda args, result: args[1]),
    _c10d.allreduce_.default: ("all_reduce", lambda args, result: args[0]),
    _c10d.alltoall_base_.default: ("all_to_all", lambda args, result: args[1]),
    _functional.all_gather_into_tensor.default: ("all_gather", lambda args, result: result),
    _functional.reduce_scatter_tensor.default: ("reduce_scatter", lambda args, result: args[0]),
    _functional.all_reduce.default: ("all_reduce", lambda args, result: args[0]),
    _functional.all_to_all_single.default: ("all_to_all", lambda args, result: args[0]),
}


class StepCounter(TorchDispatchMode):
    """Counts the memory of all live tensors, FLOPs, and the bytes of all collectives by kind and link.

    Torch's own counters are not used: that of FLOPs keeps tensors alive when layers are recomputed, and that
    of memory wants a step of one micro-batch.

    Attributes:
        flops: Of the matrix products.
        current: Bytes that are allocated now.
        peak: The most that were allocated.
        sent: Bytes that the rank has sent by collective and link.
    """

    def __init__(self, gpus_per_node: int, positions: int) -> None:
        super().__init__()
        self.current = 0
        self.peak = 0
        self.flops = 0
        self.sent: Counter[tuple[Collective, Link]] = Counter()
        self._gpus_per_node = gpus_per_node
        self._positions = positions
        # By identity: each storage with its counted size, in a list that its finalizer can set to zero.
        self._sizes: Any = WeakIdKeyDictionary()
        self._paused = False
        self._patches = contextlib.ExitStack()

    def track(self, values: object) -> None:
        """Count the storages of these tensors."""
        for value in tree_iter(values):
            if isinstance(value, DTensor):
                value = value.to_local()
            if isinstance(value, FakeTensor) and value.device.type != "meta":
                self._track_storage(value.untyped_storage())

    def _track_storage(self, storage: torch.UntypedStorage) -> None:
        size = self._sizes.get(storage)
        if size is None:
            size = [0]
            self._sizes[storage] = size
            weakref.finalize(storage, self._resize, size, 0)
        self._resize(size, storage.nbytes())

    def _resize(self, size: list[int], num_bytes: int) -> None:
        self.current += num_bytes - size[0]
        size[0] = num_bytes
        self.peak = max(self.peak, self.current)

    def __enter__(self) -> "StepCounter":
        # FSDP frees and allocates its buffers by resizing them, which is no operation of a dispatch mode.
        resize = torch.UntypedStorage.resize_

        def counted(storage: torch.UntypedStorage, num_bytes: int) -> None:
            resize(storage, num_bytes)
            if storage in self._sizes:
                self._resize(self._sizes[storage], num_bytes)

        # DTensor derives shapes from fake tensors of the whole size, which nothing allocates.
        derive = ShardingPropagator._propagate_tensor_meta_non_cached

        def paused(*args: Any) -> Any:
            self._paused = True
            try:
                return derive(*args)
            finally:
                self._paused = False

        self._patches.enter_context(mock.patch.object(torch.UntypedStorage, "resize_", counted))
        self._patches.enter_context(
            mock.patch.object(ShardingPropagator, "_propagate_tensor_meta_non_cached", paused)
        )
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        if func is _aten._local_scalar_dense.default:
            # The numbers of labels and tokens, the loss, the gradient norm.
            return 1.0 if args[0].is_floating_point() else self._positions
        if func is _aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
            return args[0].flatten(0, args[1][0].ndim - 1).clone()
        result = args[0] if func is _functional.wait_tensor.default else func(*args, **(kwargs or {}))
        if not self._paused:
            if func in collective_ops and func not in sync_ops:
                self._count_collective(func, args, result)
            if formula := _FLOPS.get(func._overloadpacket):
                self.flops += formula(*args, **(kwargs or {}), out_val=result)
            self.track(result)
        return result

    def _count_collective(self, func: Any, args: Sequence[Any], result: Any) -> None:
        collective, find_payload = _PAYLOADS[func]
        payload = sum(part.numel() * part.element_size() for part in tree_iter(find_payload(args, result)))
        ranks = dist.get_process_group_ranks(CollectiveOp.get_process_group(func, args))
        node = dist.get_rank() // self._gpus_per_node
        group = Group(len(ranks), sum(rank // self._gpus_per_node == node for rank in ranks))
        for link, size in bytes_by_link(collective, payload, group).items():
            self.sent[collective, link] += round(size)


class _FlashAttention(torch.autograd.Function):
    """Saves and returns what fused attention does, without computing it.

    On CPU, sdpa has no such kernel for R1's head sizes.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(part) for part in ctx.saved_tensors[:3])


def _attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> tuple[Tensor, None]:
    width = value.shape[-1]
    value = F.pad(value, (0, query.shape[-1] - width))
    query, key, value = (part.transpose(1, 2).contiguous().transpose(1, 2) for part in (query, key, value))
    return _FlashAttention.apply(query, key, value)[..., :width], None


def register_attention() -> None:
    """Register ``ATTENTION`` with transformers: it allocates what flash attention does, without computing."""
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, lambda *args, **kwargs: None)


@contextlib.contextmanager
def fake_workers(world_size: int, per_node: int) -> Iterator[None]:
    """A fake process group of which this process is rank 0; none for one worker."""
    if world_size == 1:
        yield
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        with mock.patch.dict(os.environ, {"LOCAL_WORLD_SIZE": str(min(per_node, world_size))}):
            yield
    finally:
        dist.destroy_process_group()
        # DTensor remembers how operations are sharded, by meshes whose process groups are gone.
        _clear_sharding_prop_cache()


@contextlib.contextmanager
def fake_tensors(count_lists: Callable[[Sequence[int]], list[Any]]) -> Iterator[None]:
    """Tensors without data.

    Args:
        count_lists: What an integer tensor of a shape is as a list: the dispatch of routed tokens reads some.
    """

    def to_list(tensor: FakeTensor) -> list[Any]:
        return [1.0] * tensor.numel() if tensor.is_floating_point() else count_lists(tensor.shape)

    # The parameters are meta tensors until they get a device.
    with mock.patch.object(FakeTensor, "tolist", to_list), FakeTensorMode(allow_non_fake_inputs=True):
        yield


def spread(total: float, parts: int) -> list[int]:
    """As even integers as possible with this sum."""
    return [int(total * (part + 1) // parts - total * part // parts) for part in range(parts)]
