"""A weight file in the format of safetensors, written block by block to an object store.

The library writes to local files, or gives a whole file as bytes, of which the client of the store then makes
another copy.

Source: the description of the format in safetensors' README.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import BinaryIO, cast

import torch
from torch import Tensor
from upath import UPath

from safe_r1.runs import storage_error

BLOCK_BYTES = 16 * 2**20
"""Of one upload: above the 5 MiB at least that S3 takes, and of its 10,000 parts a file of 5 GB needs 300."""
# In this order tensors stand in a file, those of a type by their names.
_TYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ALIGNMENT = 8


def write_blocks(path: UPath, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write a file, which the store shows when all of it is there; gives its SHA-256.

    Args:
        path: In an object store.
        tensors: Contiguous ones on the CPU, in fp32, bf16 or fp16.
        metadata: Of the file.

    Raises:
        StorageError: It cannot be written.
    """
    store = path.fs
    digest = hashlib.sha256()
    try:
        # Outside of a transaction, a file that is closed because of an error would be complete.
        with store.transaction, store.open(path.path, "wb", block_size=BLOCK_BYTES) as opened:
            file = cast("BinaryIO", opened)
            for block in file_blocks(tensors, metadata):
                digest.update(block)
                file.write(block)
    except OSError as error:
        raise storage_error(path, error) from None
    return digest.hexdigest()


def file_blocks(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The content of a file: its header, and then parts of the tensors' own memory."""
    types = list(_TYPE_NAMES)
    names = sorted(tensors, key=lambda name: (types.index(tensors[name].dtype), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        tensor = tensors[name]
        start = end
        end += tensor.nbytes
        header[name] = {
            "dtype": _TYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    content += b" " * (-len(content) % _ALIGNMENT)
    yield len(content).to_bytes(8, "little") + content
    for name in names:
        values = tensors[name].flatten().view(torch.uint8).numpy().data
        for start in range(0, len(values), BLOCK_BYTES):
            yield values[start : start + BLOCK_BYTES]
