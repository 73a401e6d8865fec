"""Checkpoints of a run: sharded, in bounded host memory, atomic, verified before they are loaded.

A checkpoint is torch's distributed checkpoint of model and optimizer, which any number of workers can load,
and ``state.json`` (``checkpoint_files``). Where the memory of each node has room for a copy of its workers'
states, these are copied and written while training goes on. Otherwise they are written shard by shard while
training waits.
"""

import contextlib
import json
import logging
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
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
from safe_r1.train.checkpoint_storage import (
    ConvertingLoadPlanner,
    DequantizingSavePlanner,
    open_reader,
    open_writer,
)
from safe_r1.train.host_memory import available_bytes, fullest_node
from safe_r1.train.parallel import COLLECTIVE_TIMEOUT
from safe_r1.train.sharded_state import (
    Tensors,
    has_row_blocks,
    named_tensors,
    num_bytes,
    saved_tensors,
    to_host,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

# The best one may be older; if the latest is damaged, the one before is there.
_NUM_LATEST = 2
# Metadata of torch's distributed checkpoint, which rank 0 writes; the shards of rank 3 begin with `__3_`.
_METADATA_FILE = ".metadata"
# Of the free memory of a node, for copies of its workers' states; the rest is for data and the page cache.
_COPY_SHARE = 0.8


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
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), init=False)
    _was_room: bool = field(default=True, init=False)
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
        """Write a checkpoint, or start to: training may continue at once.

        Args:
            model: The model; its shards are copied or written before the call returns.
            optimizer: Its optimizer.
            step: Number of finished optimizer steps.
            state: Training state for ``state.json``.

        Raises:
            StorageError: This or the previous checkpoint cannot be written.
        """
        # One at a time: a second pending checkpoint would need another copy of the state in host memory.
        self.finish()
        path = checkpoint_path(self.folder, step)
        tensors = named_tensors(model, optimizer)
        coded = self._coded(tensors)
        content = saved_tensors(tensors, coded)
        with self._storage_errors():
            self._prepare(path)
        state = state | {"step": step}
        if self._is_room_for(sum(num_bytes(value, name in coded) for name, value in tensors.items())):
            copied = {name: to_host(value) for name, value in content}
            self._pending = self._writer.submit(self._write, copied, path, state)
            return
        with self._storage_errors():
            self._write_tensors(dict(content), path)
        self._pending = self._writer.submit(self._complete, path, state)

    def _coded(self, tensors: Tensors) -> set[str]:
        """Names of the 8-bit moments whose codes any number of workers can read: the same on all workers."""
        # Not the names: they would be megabytes from each worker.
        own = bytes(has_row_blocks(value) for value in tensors.values())
        everywhere = map(all, zip(*self._gather(own), strict=True)) if any(own) else ()
        return {name for name, is_coded in zip(tensors, everywhere, strict=False) if is_coded}

    def _prepare(self, path: UPath) -> None:
        """Make the folder, or remove what an earlier write of the step has left in it."""
        if is_local(path):
            path.mkdir(parents=True, exist_ok=True)
        if self.rank == 0:
            # The step is written again: until that is done it is no checkpoint.
            (path / STATE_FILE).unlink(missing_ok=True)
            (path / DAMAGE_FILE).unlink(missing_ok=True)
        for file in self._own_files(path):
            file.unlink(missing_ok=True)

    def _is_room_for(self, size: int) -> bool:
        """True if each node has room for copies of its workers' states; the same on all workers.

        Args:
            size: Bytes of this worker's.
        """
        node, needed, free = fullest_node(self._gather((socket.gethostname(), size, available_bytes())))
        is_room = needed <= _COPY_SHARE * free
        if self.rank == 0 and is_room != self._was_room:
            logger.warning(
                "checkpoints are written while training %s: a copy of the states takes %.1f GiB on %s, which "
                "has %.3g GiB free",
                "goes on" if is_room else "waits",
                needed / 2**30,
                node,
                free / 2**30,
            )
        self._was_room = is_room
        return is_room

    def _write(self, content: Tensors, path: UPath, state: CheckpointState) -> None:
        """Write copied tensors and mark the checkpoint as complete; runs in a thread."""
        self._write_tensors(content, path)
        # The copy is not needed any more while the files are read back.
        content.clear()
        self._complete(path, state)

    def _write_tensors(self, content: Tensors, path: UPath) -> None:
        save(
            content,
            storage_writer=open_writer(path),
            planner=DequantizingSavePlanner(),
            process_group=self._group,
            no_dist=self._group is None,
        )

    def _complete(self, path: UPath, state: CheckpointState) -> None:
        """Mark a checkpoint as complete whose tensors all workers have written; runs in a thread."""
        files = self._gather(self._own_records(path))
        if self.rank == 0:
            records = {name: record for part in files for name, record in part.items()}
            write_bytes(path / STATE_FILE, json.dumps(state | {"files": records}).encode())
            self._remove_old()

    def _own_records(self, path: UPath) -> dict[str, FileRecord]:
        """Size and hash of the files that this worker has written, read back."""
        own = [file.name for file in self._own_files(path)]
        return file_records(path, own + [_METADATA_FILE] * (self.rank == 0))

    def _own_files(self, path: UPath) -> list[UPath]:
        files = path.iterdir() if path.exists() else ()
        return [file for file in files if file.name.startswith(f"__{self.rank}_")]

    def _gather(self, value: T) -> list[T]:
        """The value of every worker, on every worker."""
        if self._group is None:
            return [value]
        values: list[T] = [value] * dist.get_world_size(self._group)
        dist.all_gather_object(values, value, group=self._group)
        return values

    def finish(self, together: bool = True, timeout_s: float | None = None) -> None:
        """Wait until the pending checkpoint is written.

        Args:
            together: Also wait for the other workers, all of which call this.
            timeout_s: Wait at most so long for the writing.

        Raises:
            StorageError: It cannot be written.
        """
        if self._pending is None:
            return
        pending = self._pending
        self._pending = None
        with self._storage_errors():
            pending.result(timeout_s)
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
                free = f", {shutil.disk_usage(self.folder.path).free / 2**30:.3g} GiB free"
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

        Raises:
            StorageError: None can be read, though some are there.
        """
        is_overwritten = False
        while path := self._latest_sound():
            planner = ConvertingLoadPlanner()
            try:
                self._load(path, named_tensors(model, optimizer), planner)
                return read_state(path)
            except CheckpointException as error:
                # One of an earlier release, without hashes of its files.
                is_overwritten |= planner.has_begun
                if self.rank == 0:
                    pass_over(path, _root_cause(error))
                self._gather(None)
        if is_overwritten:
            raise StorageError(
                f"no checkpoint in {self.folder} can be read, and one has overwritten a part of the model; "
                "run the same command again to train from the beginning"
            )
        return None

    def _load(self, path: UPath, tensors: Tensors, planner: ConvertingLoadPlanner) -> None:
        reader = open_reader(path)
        load(
            tensors,
            storage_reader=reader,
            planner=planner,
            process_group=self._group,
            no_dist=self._group is None,
        )
        planner.convert()

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
