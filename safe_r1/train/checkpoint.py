"""Checkpoints of a run: sharded, written while training goes on, complete or not there.

``CHECKPOINTS/step-000050/`` holds torch's distributed checkpoint (model and optimizer), and ``state.json``
once all of it is written: a folder without that file is a write that was cut short, and nobody reads it. Any
number of workers reads what any other number wrote.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map
from upath import UPath

from safe_r1.errors import StorageError
from safe_r1.runs import is_local, write_bytes
from safe_r1.train.optim import is_quantized

_STATE = "state.json"


def list_checkpoints(folder: UPath) -> list[tuple[int, UPath]]:
    """The complete checkpoints by step, oldest first."""
    places = folder.iterdir() if folder.exists() else ()
    return sorted(
        (int(place.name[5:]), place)
        for place in places
        if place.name[:5] == "step-" and (place / _STATE).exists()
    )


def read_state(checkpoint: UPath) -> dict[str, Any]:
    """What the loop noted beside a checkpoint."""
    return json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))


def reader(checkpoint: UPath) -> Any:
    """Reads a checkpoint from wherever it lies."""
    if is_local(checkpoint):
        return FileSystemReader(checkpoint.path)
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

    return FsspecReader(str(checkpoint))


def _writer(checkpoint: UPath) -> Any:
    if is_local(checkpoint):
        return FileSystemWriter(checkpoint.path)
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

    return FsspecWriter(str(checkpoint))


def _plain_shards(state: Any, reference: Any = None) -> Any:
    """Tensor-parallel shards interleave with FSDP's, and a checkpoint knows contiguous ones alone;
    ``reference`` undoes it.
    """
    state = tree_map(_dequantized, state)
    if not dist.is_initialized():
        return state
    from transformers.distributed.checkpoint import _redistribute_state_dict

    return tree_map(_fresh, _redistribute_state_dict(state, reference))


@torch.no_grad()
def _dequantized(value: Any) -> Any:
    """Moments in 8 bits as fp32 in host memory: their blocks are those of a shard, which another number of
    workers lacks.
    """
    local = value.to_local() if isinstance(value, DTensor) else value
    if not is_quantized(local):
        return value
    plain = local.dequantize().cpu()
    if not isinstance(value, DTensor):
        return plain
    # Wrapping moves a shard to the mesh's device, and one after the other has room there.
    return _sharded_like(value, plain).cpu()


@torch.no_grad()
def _requantize(optimizer: torch.optim.Optimizer, quantized: dict[Any, dict[str, Any]]) -> None:
    """Put moments that were read as fp32 back into their 8 bits."""
    for parameter, state in optimizer.state.items():
        for name, before in quantized.get(parameter, {}).items():
            local, read = (
                value.to_local() if isinstance(value, DTensor) else value for value in (before, state[name])
            )
            if is_quantized(local):
                local.copy_(_with_full_scale(read, local))
                state[name] = before


def _with_full_scale(read: Tensor, quantized: Any) -> Tensor:
    """What gives the same codes and scales again: signed codes end short of -1, so a block led by a negative
    value shrinks.
    """
    if not quantized.signed:
        return read
    lowest = quantized.qmap.min()
    blocks = read.reshape(-1, quantized.block_size)
    least = blocks.amin(1, keepdim=True)
    full = torch.maximum(blocks.amax(1, keepdim=True), least / lowest)
    return torch.where((blocks == least) & (least / lowest == full), -full, blocks).view_as(read)


@torch.no_grad()
def _fresh(value: Any) -> Any:
    """A sharded tensor with storage of its own: torch 2.13 cannot copy a view into a larger one on CPU, as
    FSDP's are.
    """
    if not isinstance(value, DTensor):
        return value
    local = value.to_local()
    local = local.wait() if isinstance(local, AsyncCollectiveTensor) else local
    return _sharded_like(value, local.clone() if local.device.type == "cpu" else local)


def _sharded_like(value: DTensor, local: Tensor) -> DTensor:
    return DTensor.from_local(
        local, value.device_mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride()
    )


@dataclass
class Checkpoints:
    """Writes, keeps and loads the checkpoints of one run.

    Attributes:
        folder: Where they lie.
        rank: This worker; the first one writes the marker and removes what is not kept.
    """

    folder: UPath
    rank: int
    _pending: Future | None = field(default=None, init=False)
    _marker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), init=False)
    _group: Any = field(default=None, init=False)

    def __post_init__(self):
        # A group of its own: the writing thread's messages must not meet those of the training.
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def save(self, model: Any, optimizer: torch.optim.Optimizer, step: int, state: dict[str, Any]) -> None:
        """Begin to write a checkpoint; training may go on at once. It is marked complete as soon as it is.

        Raises:
            StorageError: The one before could not be written.
        """
        self.finish()
        place = self.folder / f"step-{step:06d}"
        model_state, optimizer_state = get_state_dict(model, optimizer)
        content = _plain_shards({"model": model_state, "optimizer": optimizer_state})
        with self._storage_errors():
            if is_local(place):
                place.mkdir(parents=True, exist_ok=True)
            future = async_save(
                content, storage_writer=_writer(place), process_group=self._group, no_dist=self._group is None
            )

        def mark() -> None:
            # The first worker's part ends when all parts are written and named in the metadata.
            future.result()  # pyright: ignore[reportAttributeAccessIssue]
            if self.rank == 0:
                write_bytes(place / _STATE, json.dumps(state | {"step": step}).encode())
                self._remove_others()

        self._pending = self._marker.submit(mark)

    def finish(self) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            StorageError: It could not be written.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        with self._storage_errors():
            pending.result()
        if self._group is not None:
            dist.barrier(self._group)

    @contextlib.contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (Exception, CheckpointException) as error:  # noqa: BLE001 - the writer passes on whatever the storage raises
            free = (
                f", {shutil.disk_usage(self.folder.path).free / 2**30:.3f} GiB free"
                if is_local(self.folder)
                else ""
            )
            raise StorageError(
                f"cannot write a checkpoint to {self.folder}: {_reason(error)}{free}; free the place or choose another --output"
            ) from None

    def _remove_others(self) -> None:
        """Keep the last checkpoint and the one with the best validation loss."""
        found = list_checkpoints(self.folder)
        best = best_checkpoint(self.folder)
        for _, place in found[:-1]:
            if place != best:
                (place / _STATE).unlink()
                place.fs.rm(place.path, recursive=True)

    def load_last(self, model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Take up the last complete checkpoint; gives what ``save`` was told, None where there is none."""
        found = list_checkpoints(self.folder)
        if not found:
            return None
        model_state, optimizer_state = get_state_dict(model, optimizer)
        reference = {"model": model_state, "optimizer": optimizer_state}
        content = _plain_shards(reference)
        load(content, storage_reader=reader(found[-1][1]), no_dist=not dist.is_initialized())
        content = _plain_shards(content, reference)
        moments = {parameter: dict(state) for parameter, state in optimizer.state.items()}
        set_state_dict(
            model, optimizer, model_state_dict=content["model"], optim_state_dict=content["optimizer"]
        )
        _requantize(optimizer, moments)
        return read_state(found[-1][1])


def _reason(error: BaseException) -> str:
    """The first line of what began it: torch wraps the storage's error, and closing the file then raises
    another one.
    """
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def best_checkpoint(folder: UPath) -> UPath | None:
    """The complete checkpoint with the lowest validation loss, the latest of equals; None where there is
    none.
    """
    found = [
        (read_state(place).get("validation_loss"), -step, place) for step, place in list_checkpoints(folder)
    ]
    scored = [(loss, step, place) for loss, step, place in found if loss is not None]
    return min(scored or [(0, step, place) for _, step, place in found], default=(0, 0, None))[2]
