"""Checkpoints of a run: sharded, written asynchronously, atomic.

``CHECKPOINTS/step-000050/`` holds torch's distributed checkpoint (model and optimizer), and ``state.json``,
which is written when everything else is: a folder without that file is an interrupted write and is ignored.
A checkpoint can be loaded by any number of workers.
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
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter
from upath import UPath

from safe_r1.errors import StorageError
from safe_r1.runs import is_local, write_bytes
from safe_r1.train.sharded_state import requantize, to_contiguous_shards

STATE_FILE = "state.json"
_PREFIX = "step-"

CheckpointState = dict[str, Any]
"""Content of ``state.json``: the fields of ``loop.TrainState``, and the validation losses."""


def list_checkpoints(folder: UPath) -> list[tuple[int, UPath]]:
    """The complete checkpoints with their steps, oldest first."""
    paths = folder.iterdir() if folder.exists() else ()
    return sorted(
        (int(path.name.removeprefix(_PREFIX)), path)
        for path in paths
        if path.name.startswith(_PREFIX) and (path / STATE_FILE).exists()
    )


def read_state(checkpoint: UPath) -> CheckpointState:
    """The training state that was saved with a checkpoint."""
    return json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))


def best_checkpoint(folder: UPath) -> UPath | None:
    """The complete checkpoint with the lowest validation loss, the latest of equals.

    Without validation it is the latest one; None if there is no checkpoint.
    """
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        return None
    losses = [read_state(path).get("validation_loss") for _, path in checkpoints]
    # Negative steps: of equal losses the later step is the smaller tuple.
    ranked = [
        (loss, -step, path)
        for loss, (step, path) in zip(losses, checkpoints, strict=True)
        if loss is not None
    ]
    return min(ranked)[2] if ranked else checkpoints[-1][1]


def open_reader(checkpoint: UPath) -> StorageReader:
    """The reader of a checkpoint on a local disk or in an object store."""
    if is_local(checkpoint):
        return FileSystemReader(checkpoint.path)
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

    return FsspecReader(str(checkpoint))


def _open_writer(checkpoint: UPath) -> StorageWriter:
    if is_local(checkpoint):
        return FileSystemWriter(checkpoint.path)
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

    return FsspecWriter(str(checkpoint))


@dataclass
class Checkpoints:
    """Writes, keeps and loads the checkpoints of one run.

    Attributes:
        folder: Folder of the checkpoints.
        rank: This worker; rank 0 writes ``state.json`` and removes old checkpoints.
    """

    folder: UPath
    rank: int
    _pending: Future[None] | None = field(default=None, init=False)
    _marker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), init=False)
    _group: dist.ProcessGroup | None = field(default=None, init=False)

    def __post_init__(self):
        # A process group of its own: collectives of the writer thread must not mix with those of training.
        if dist.is_initialized():
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup)  # an int only on ranks outside of the group
            self._group = group

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, state: CheckpointState
    ) -> None:
        """Start writing a checkpoint; training may continue at once.

        Args:
            model: The model, whose shards are copied before the call returns.
            optimizer: Its optimizer.
            step: Number of finished optimizer steps.
            state: Training state for ``state.json``.

        Raises:
            StorageError: This or the previous checkpoint cannot be written.
        """
        # One at a time: a second pending checkpoint would need another copy of the state in host memory.
        self.finish()
        path = self.folder / f"{_PREFIX}{step:06d}"
        model_state, optimizer_state = get_state_dict(model, optimizer)
        content = to_contiguous_shards({"model": model_state, "optimizer": optimizer_state})
        with self._storage_errors():
            if is_local(path):
                path.mkdir(parents=True, exist_ok=True)
            written = async_save(
                content,
                storage_writer=_open_writer(path),
                process_group=self._group,
                no_dist=self._group is None,
            )
        assert isinstance(written, Future)
        self._pending = self._marker.submit(self._complete, written, path, state | {"step": step})

    def _complete(self, written: Future[object], path: UPath, state: CheckpointState) -> None:
        """Wait for the write, then mark the checkpoint as complete; runs in a thread."""
        # On rank 0 this future finishes after all ranks have written their shards and the metadata lists
        # them.
        written.result()
        if self.rank == 0:
            write_bytes(path / STATE_FILE, json.dumps(state).encode())
            self._remove_old()

    def finish(self) -> None:
        """Wait until the pending checkpoint is written.

        Raises:
            StorageError: It cannot be written.
        """
        if self._pending is None:
            return
        pending = self._pending
        self._pending = None
        with self._storage_errors():
            pending.result()
        # Without it, a worker could end, or load, before rank 0 has written state.json.
        if self._group is not None:
            dist.barrier(self._group)

    @contextlib.contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (Exception, CheckpointException) as error:  # noqa: BLE001 - torch passes on any error of the storage
            free = ""
            if is_local(self.folder):
                free = f", {shutil.disk_usage(self.folder.path).free / 2**30:.3f} GiB free"
            raise StorageError(
                f"cannot write a checkpoint to {self.folder}: {_root_cause(error)}{free}; free disk space or "
                "choose another --output"
            ) from None

    def _remove_old(self) -> None:
        """Keep the latest checkpoint and the one with the lowest validation loss."""
        best = best_checkpoint(self.folder)
        for _, path in list_checkpoints(self.folder)[:-1]:
            if path != best:
                # Without state.json, a removal that is interrupted leaves an incomplete checkpoint.
                (path / STATE_FILE).unlink()
                path.fs.rm(path.path, recursive=True)

    def load_latest(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> CheckpointState | None:
        """Load the latest complete checkpoint into model and optimizer.

        Returns:
            The state that was passed to ``save``, with the step; None if there is no checkpoint.
        """
        checkpoints = list_checkpoints(self.folder)
        if not checkpoints:
            return None
        _, path = checkpoints[-1]
        model_state, optimizer_state = get_state_dict(model, optimizer)
        reference = {"model": model_state, "optimizer": optimizer_state}
        content = to_contiguous_shards(reference)
        load(content, storage_reader=open_reader(path), no_dist=not dist.is_initialized())
        content = to_contiguous_shards(content, reference)
        # `set_state_dict` replaces the moments; 8-bit ones are needed afterwards.
        moments = {parameter: dict(state) for parameter, state in optimizer.state.items()}
        set_state_dict(
            model, optimizer, model_state_dict=content["model"], optim_state_dict=content["optimizer"]
        )
        requantize(optimizer, moments)
        return read_state(path)


def _root_cause(error: BaseException) -> str:
    """The first line of the original error.

    torch wraps the storage's error, and closing the file may raise another one on top of it.
    """
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
