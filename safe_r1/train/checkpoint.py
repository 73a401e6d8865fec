"""Checkpoints of a run: sharded, written asynchronously, atomic, verified before they are loaded.

A checkpoint is torch's distributed checkpoint of model and optimizer, which any number of workers can load,
and ``state.json`` (``checkpoint_files``).
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

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
from safe_r1.train.checkpoint_files import (
    DAMAGE_FILE,
    STATE_FILE,
    CheckpointState,
    FileRecord,
    best_checkpoint,
    checkpoint_path,
    file_records,
    find_damage,
    list_checkpoints,
    pass_over,
    read_state,
    remove_checkpoint,
)
from safe_r1.train.parallel import COLLECTIVE_TIMEOUT
from safe_r1.train.sharded_state import requantize, to_contiguous_shards

T = TypeVar("T")

# The best one may be older; if the latest is damaged, the one before is there.
_NUM_LATEST = 2
# Metadata of torch's distributed checkpoint, which rank 0 writes; the shards of rank 3 begin with `__3_`.
_METADATA_FILE = ".metadata"


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
        scores: See ``best_checkpoint``.
    """

    folder: UPath
    rank: int
    scores: str | None = None
    _pending: Future[None] | None = field(default=None, init=False)
    _marker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), init=False)
    _group: dist.ProcessGroup | None = field(default=None, init=False)

    def __post_init__(self):
        # A process group of its own: collectives of the writer thread must not mix with those of training.
        if dist.is_initialized():
            group = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
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
        path = checkpoint_path(self.folder, step)
        model_state, optimizer_state = get_state_dict(model, optimizer)
        content = to_contiguous_shards({"model": model_state, "optimizer": optimizer_state})
        with self._storage_errors():
            if is_local(path):
                path.mkdir(parents=True, exist_ok=True)
            if self.rank == 0:
                # The step is written again: until that is done it is no checkpoint.
                (path / STATE_FILE).unlink(missing_ok=True)
                (path / DAMAGE_FILE).unlink(missing_ok=True)
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
        files = self._gather(self._own_records(path))
        if self.rank == 0:
            records = {name: record for part in files for name, record in part.items()}
            write_bytes(path / STATE_FILE, json.dumps(state | {"files": records}).encode())
            self._remove_old()

    def _own_records(self, path: UPath) -> dict[str, FileRecord]:
        """Size and hash of the files that this worker has written, read back."""
        own = [file.name for file in path.iterdir() if file.name.startswith(f"__{self.rank}_")]
        return file_records(path, own + [_METADATA_FILE] * (self.rank == 0))

    def _gather(self, value: T) -> list[T]:
        """The value of every worker, on every worker."""
        if self._group is None:
            return [value]
        values: list[T] = [value] * dist.get_world_size(self._group)
        dist.all_gather_object(values, value, group=self._group)
        return values

    def finish(self, together: bool = True) -> None:
        """Wait until the pending checkpoint is written.

        Args:
            together: Also wait for the other workers, all of which call this.

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
        if together and self._group is not None:
            dist.barrier(self._group)

    @contextlib.contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (Exception, CheckpointException) as error:  # noqa: BLE001 - torch passes on any error of the storage
            free = ""
            with contextlib.suppress(OSError):
                free = f", {shutil.disk_usage(self.folder.path).free / 2**30:.3f} GiB free"
            raise StorageError(
                f"cannot write a checkpoint to {self.folder}: {_root_cause(error)}{free}; free disk space or "
                "choose another --output"
            ) from None

    def _remove_old(self) -> None:
        """Keep the latest two checkpoints and the best one."""
        best = best_checkpoint(self.folder, self.scores)
        for _, path in list_checkpoints(self.folder)[:-_NUM_LATEST]:
            if path != best:
                remove_checkpoint(path)

    def load_latest(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> CheckpointState | None:
        """Load the latest complete checkpoint into model and optimizer; a damaged one is passed over.

        Returns:
            The state that was passed to ``save``, with the step; None if there is no checkpoint.
        """
        while path := self._latest_sound():
            try:
                return self._load(path, model, optimizer)
            except CheckpointException as error:
                # One of an earlier release, without hashes of its files.
                if self.rank == 0:
                    pass_over(path, _root_cause(error))
                self._gather(None)
        return None

    def _load(
        self, path: UPath, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> CheckpointState | None:
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

    def _latest_sound(self) -> UPath | None:
        """The latest checkpoint whose files are as they were written; each worker reads its share of them."""
        parts = dist.get_world_size(self._group) if self._group else 1
        # The list of rank 0: a shared file system may show another one to others.
        for path in self._gather([path for _, path in reversed(list_checkpoints(self.folder))])[0]:
            found = self._gather(_try_find_damage(path, self.rank, parts))
            if unreadable := next((each for each in found if isinstance(each, StorageError)), None):
                # On all workers: a single one that fails would leave the others waiting.
                raise unreadable
            damage = next(filter(None, found), None)
            if damage is None:
                return path
            if self.rank == 0:
                pass_over(path, str(damage))
        return None


def _try_find_damage(path: UPath, part: int, parts: int) -> str | StorageError | None:
    """Like ``find_damage``; an error of the storage is no damage, and is returned."""
    try:
        return find_damage(path, part, parts)
    except OSError as error:
        return StorageError(f"cannot read the checkpoint {path}: {error.strerror or error}; try again later")


def _root_cause(error: BaseException) -> str:
    """The first line of the original error.

    torch wraps the storage's error, and closing the file may raise another one on top of it.
    """
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
