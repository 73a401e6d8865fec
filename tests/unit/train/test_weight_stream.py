"""A weight file for an object store: the library's bytes, in blocks, and no half of it after an error."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import save
from upath import UPath

from safe_r1.errors import StorageError
from safe_r1.train import weight_stream
from safe_r1.train.weight_stream import file_blocks, write_blocks

METADATA = {"format": "pt"}
TENSORS = {
    "model.b.weight": torch.arange(70, dtype=torch.float32).view(7, 10).bfloat16(),
    "model.a.weight": torch.randn(33, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "model.gate.e_score_correction_bias": torch.tensor([0.1, 0.2, 0.3]),
    "model.empty": torch.empty(0, 4, dtype=torch.bfloat16),
    "model.scalar": torch.tensor(2.0, dtype=torch.float16),
}


def test_a_file_has_the_bytes_that_the_library_writes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weight_stream, "BLOCK_BYTES", 64)
    blocks = list(file_blocks(TENSORS, METADATA))
    assert b"".join(blocks) == save(TENSORS, METADATA)
    assert max(map(len, blocks[1:])) == 64


def test_an_error_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch):
    path = UPath("memory://weights/model.safetensors")
    write_blocks(path, TENSORS, METADATA)
    assert path.read_bytes() == save(TENSORS, METADATA)

    def fail(*_: Any):
        yield b"the beginning"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weight_stream, "file_blocks", fail)
    with pytest.raises(StorageError, match=r"cannot write memory://\S+: No space left"):
        write_blocks(path, TENSORS, METADATA)
    assert path.read_bytes() == save(TENSORS, METADATA)
    # The next file is not part of the transaction that failed.
    assert not fsspec.filesystem("memory")._intrans


_MEASURE = """
import json
import fsspec
import torch
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from upath import UPath
from safe_r1.train.weight_stream import write_blocks
from tests.peak_memory import PeakMemory

sizes = []

class Upload(AbstractBufferedFile):
    # As the client of a store: each part is sent, and forgotten.
    def _initiate_upload(self):
        pass

    def _upload_chunk(self, final=False):
        sizes.append(self.buffer.getbuffer().nbytes)
        return True

    def commit(self):
        sizes.append("complete")

class Store(AbstractFileSystem):
    protocol = "store"

    def _open(self, path, mode="rb", block_size=None, autocommit=True, **kwargs):
        return Upload(self, path, mode, block_size, autocommit)

fsspec.register_implementation("store", Store)

tensors = {str(number): torch.ones(2**24) for number in range(4)}
write_blocks(UPath("store://bucket/small"), {"a": torch.ones(2**20)}, {})
sizes.clear()
with PeakMemory() as peak:
    write_blocks(UPath("store://bucket/model.safetensors"), tensors, {"format": "pt"})
print(json.dumps([peak.added, sizes]))
"""


@pytest.mark.slow
def test_memory_is_taken_for_blocks_whatever_the_size_of_the_file():
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peak, [*sizes, last] = json.loads(done.stdout)
    assert last == "complete"
    assert sum(sizes) > 4 * 2**26
    # Of a file of 256 MiB; with the whole file as bytes it was that much and more.
    assert peak < 4 * weight_stream.BLOCK_BYTES
