"""Interleaved shards of tensor parallelism in checkpoints: which parts of a tensor they are, and that none is
copied.
"""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore

from safe_r1.train.interleaved import InterleavedDTensor, is_interleaved
from safe_r1.train.sharded_state import local_part, saved_tensors, to_host, to_load

# Mesh, placements, shape of the whole tensor: gate and up projections of two tensor-parallel workers, the
# same sharded by FSDP too, of experts (three dimensions), with a replica, and with parts of unequal size.
CASES: dict[str, tuple[tuple[int, ...], tuple[Any, ...], tuple[int, ...]]] = {
    "packed": ((2,), (_StridedShard(0, split_factor=2),), (16, 6)),
    "packed and FSDP": (
        (2, 2),
        (_StridedShard(0, split_factor=4), _StridedShard(0, split_factor=2)),
        (32, 6),
    ),
    "packed and FSDP by columns": ((2, 2), (Shard(1), _StridedShard(0, split_factor=2)), (16, 7)),
    "experts": ((2, 2), (Shard(0), _StridedShard(1, split_factor=2)), (4, 16, 3)),
    "replica": ((2, 2), (Replicate(), _StridedShard(0, split_factor=2)), (16, 3)),
    "unequal": ((3,), (_StridedShard(0, split_factor=2),), (20, 3)),
}


def on_each_rank(mesh: tuple[int, ...], placements: tuple[Any, ...], full: torch.Tensor):
    """The tensor as each worker has it, on a process group of which only that worker is real."""
    world = torch.Size(mesh).numel()
    for rank in range(world):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
        try:
            yield distribute_tensor(full, init_device_mesh("cpu", mesh), placements, src_data_rank=None)
        finally:
            dist.destroy_process_group()


@pytest.mark.parametrize("case", CASES)
def test_slices_are_the_parts_of_the_tensor_that_a_worker_has(case: str):
    mesh, placements, shape = CASES[case]
    full = torch.arange(torch.Size(shape).numel()).view(shape)
    times = torch.zeros_like(full)
    for value in on_each_rank(mesh, placements, full):
        assert is_interleaved(value)
        [(name, saved)] = saved_tensors({"weight": value}, ())
        assert isinstance(saved, InterleavedDTensor)
        items = saved.__create_write_items__(name, saved)
        assert len(items) > 1
        for item in items:
            assert item.tensor_data is not None
            chunk = item.tensor_data.chunk
            place = tuple(
                slice(start, start + size) for start, size in zip(chunk.offsets, chunk.sizes, strict=True)
            )
            part = saved.__get_tensor_shard__(MetadataIndex(name, chunk.offsets))
            assert torch.equal(part, full[place])
            # Where it lies in the worker's shard, and no copy.
            assert part.untyped_storage().data_ptr() == local_part(value).untyped_storage().data_ptr()
            times[place] += 1
    replicas = torch.Size(mesh).numel() // (4 if "FSDP" in case or case == "experts" else mesh[-1])
    assert (times == replicas).all()


def test_a_copy_in_host_memory_has_the_same_slices_and_reading_fills_the_shard():
    mesh, placements, shape = CASES["experts"]
    full = torch.rand(shape)
    for value in on_each_rank(mesh, placements, full):
        copy = to_host(value)
        assert isinstance(copy, InterleavedDTensor)
        assert copy.__create_chunk_list__() == _chunks(value)
        assert local_part(copy).data_ptr() != local_part(value).data_ptr()
        local_part(value).zero_()
        content, finish = to_load({"weight": value}, {})
        assert not finish
        for chunk in _chunks(value):
            index = MetadataIndex("weight", chunk.offsets)
            content["weight"].__get_tensor_shard__(index).copy_(copy.__get_tensor_shard__(index))  # pyright: ignore[reportAttributeAccessIssue]
        assert torch.equal(local_part(value), local_part(copy))


def _chunks(value: DTensor) -> list[Any]:
    [(_, saved)] = saved_tensors({"weight": value}, ())
    return saved.__create_chunk_list__()  # pyright: ignore[reportAttributeAccessIssue]


def test_what_fsdp_shards_of_a_tensor_parallel_slice_is_one_slice():
    full = torch.rand(16, 4)
    for value in on_each_rank((2, 2), (_StridedShard(0, split_factor=2), Shard(0)), full):
        assert not is_interleaved(value)
        [(_, saved)] = saved_tensors({"weight": value}, ())
        assert saved is value
