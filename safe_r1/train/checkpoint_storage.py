"""Reading and writing the files of torch's distributed checkpoints, in bounded host memory."""

import math
import queue
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import DEFAULT_SUFFIX, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future
from upath import UPath

from safe_r1.runs import is_local
from safe_r1.train.sharded_state import Tensors, dequantize, to_load

MAX_FILE_BYTES = 2**30
"""Size of a file of a checkpoint, unless a single shard is larger.

torch 2.13 keeps the host copies of all tensors of a file until it is closed, so this is also what a worker
needs in host memory to write its shards one by one.
"""


def open_reader(checkpoint: UPath) -> FileSystemReader:
    """The reader of a checkpoint on a local disk or in an object store, which reads the metadata once."""
    return _LocalReader(checkpoint.path) if is_local(checkpoint) else _RemoteReader(str(checkpoint))


def open_writer(checkpoint: UPath) -> FileSystemWriter:
    """The writer of a checkpoint; a worker writes files of ``MAX_FILE_BYTES``, one after the other."""
    return _LocalWriter(checkpoint.path) if is_local(checkpoint) else _RemoteWriter(str(checkpoint))


class _LocalReader(FileSystemReader):
    _metadata: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._metadata is None:
            self._metadata = super().read_metadata(*args, **kwargs)
        return self._metadata


class _RemoteReader(_LocalReader, FsspecReader):
    pass


class _LocalWriter(FileSystemWriter):
    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        files: queue.Queue[tuple[object, str, list[WriteItem]]] = queue.Queue()
        for number, items in enumerate(_split(plan.items)):
            name = f"{plan.storage_data.prefix}{number}{DEFAULT_SUFFIX}"
            files.put((self.fs.concat_path(self.path, name), name, items))
        return self._write_data(planner, files)


class _RemoteWriter(_LocalWriter, FsspecWriter):
    pass


class DequantizingSavePlanner(DefaultSavePlanner):
    """Dequantizes 8-bit moments one at a time, when they are written."""

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:
        """What is written of an object."""
        return super().transform_object(write_item, dequantize(object))


class ConvertingLoadPlanner(DefaultLoadPlanner):
    """Reads most tensors in place, and those that the checkpoint has in another form beside it.

    Attributes:
        has_begun: Something may have been overwritten.
    """

    def __init__(self):
        super().__init__()
        self.has_begun = False
        self._conversions: list[Callable[[], None]] = []

    def set_up_planner(
        self, state_dict: Tensors, metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Find the form in which each tensor is in the checkpoint."""
        saved = metadata.state_dict_metadata if metadata else {}
        content, self._conversions = to_load(state_dict, saved)
        super().set_up_planner(content, metadata, is_coordinator)

    def finish_plan(self, new_plan: LoadPlan) -> LoadPlan:
        """Called before the first tensor is read."""
        self.has_begun = True
        return super().finish_plan(new_plan)

    def convert(self) -> None:
        """Convert what was read beside; all workers call it after loading."""
        while self._conversions:
            # Each holds what it has read.
            self._conversions.pop(0)()


def _split(items: Iterable[WriteItem]) -> Iterator[list[WriteItem]]:
    """The shards of each file, in their order."""
    group: list[WriteItem] = []
    size = 0
    for item in items:
        item_size = _num_bytes(item)
        if group and size + item_size > MAX_FILE_BYTES:
            yield group
            group = []
            size = 0
        group.append(item)
        size += item_size
    if group:
        yield group


def _num_bytes(item: WriteItem) -> int:
    """Size of a shard; torch's own function gives that of the whole tensor."""
    data = item.tensor_data
    return math.prod(data.chunk.sizes) * data.properties.dtype.itemsize if data else 0
