"""The identity of a model folder: a hash that changes when any byte changes that can change a result.

It has two parts, ``sha256:…+blake3:…``. The second is of the whole content of every file (``file_hashes``).
The first is the identity that releases up to 0.1 gave, of blocks of the weights: runs that they began are
known by it, and go on (``runs.RunFolder.open``).
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safe_r1.models.file_hashes import hash_files
from safe_r1.models.files import MAX_HEADER, SMALL_SUFFIXES, TEMPLATE_FOLDER, WEIGHT_SUFFIXES
from safe_r1.models.hashes import HASHES_FILE

_BLOCK = 4096
# Blocks of a safetensors file beside those at the ends and in the middle of each tensor.
_BLOCKS_PER_SAFETENSORS = 4096
# Of a file whose tensors are not known, more: up to 256 MiB it is read whole.
_BLOCKS_PER_OPAQUE = 65536
# torch.save writes a zip archive, whose directory at the end holds a checksum of every tensor.
_OPAQUE_TAIL = 4 << 20
_THREADS = 8
_PAPER_SUFFIXES = frozenset({".md", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".log", ".tmp"})
_PAPERS = frozenset({"LICENSE", "LICENCE", "NOTICE", "README", "USE_POLICY"})

_Span = tuple[int, int]
"""Offset and number of bytes in a file."""


def folder_identity(folder: Path) -> str:
    """Hash of the files in a model folder that can change what the model does.

    The folder's own name and place and the times of its files do not matter, nor do its papers.

    Raises:
        ModelError: A file cannot be read, or changes while it is read.
    """
    files = {
        file.relative_to(folder).as_posix(): file for file in _contents(folder) if not _is_paper(file, folder)
    }
    hashes = hash_files(files.values())
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(os.fsencode(f"{name} {hashes[files[name]]}\n"))
    return f"{_sampled_identity(folder)}+blake3:{digest.hexdigest()}"


def _contents(folder: Path) -> Iterator[Path]:
    """Files that loaders read: those of the folder itself, further templates, and code in any folder."""
    code = (file for file in folder.glob("*/**/*.py") if not _is_hidden(file.relative_to(folder)))
    for file in (*folder.iterdir(), *(folder / TEMPLATE_FOLDER).glob("*.jinja"), *code):
        if file.is_file():
            yield file


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_paper(file: Path, folder: Path) -> bool:
    """True for files that no loader reads."""
    return (
        _is_hidden(file.relative_to(folder))
        or file.name == HASHES_FILE
        or file.suffix.lower() in _PAPER_SUFFIXES
        or file.stem.upper() in _PAPERS
    )


def _sampled_identity(folder: Path) -> str:
    """The identity of earlier releases: small files are hashed whole, weights by blocks."""
    files = [
        file
        for file in [*folder.iterdir(), *(folder / TEMPLATE_FOLDER).glob("*.jinja")]
        if file.suffix.lower() in (*SMALL_SUFFIXES, *WEIGHT_SUFFIXES) and file.is_file()
    ]
    names = {file.relative_to(folder).as_posix(): file for file in files}
    with ThreadPoolExecutor(_THREADS) as pool:
        hashes = dict(zip(names, pool.map(_file_hash, names.values()), strict=True))
    digest = hashlib.sha256()
    for name in sorted(hashes):
        digest.update(os.fsencode(f"{name} {names[name].stat().st_size} {hashes[name]}\n"))
    return f"sha256:{digest.hexdigest()}"


def _file_hash(file: Path) -> str:
    suffix = file.suffix.lower()
    with file.open("rb") as stream:
        if suffix in SMALL_SUFFIXES:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        descriptor = stream.fileno()
        size = os.fstat(descriptor).st_size
        # Read-ahead would read many times what is hashed.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        tensors = _read_header(descriptor, size) if suffix == ".safetensors" else None
        spans = _opaque_spans(size) if tensors is None else _tensor_spans(tensors, size)
        digest = hashlib.sha256()
        for offset, length in spans:
            digest.update(os.pread(descriptor, length, offset))
        return digest.hexdigest()


def _read_header(descriptor: int, size: int) -> list[_Span] | None:
    """Where the tensors of a safetensors file are, after the header: its length in 8 bytes, then JSON.

    Returns:
        The header itself, then each tensor; None where the file is no safetensors file.
    """
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if not 0 < length <= min(size - 8, MAX_HEADER):
        return None
    try:
        header = json.loads(os.pread(descriptor, length, 8))
        header.pop("__metadata__", None)
        ends = [tensor["data_offsets"] for tensor in header.values()]
        spans = [(8 + length + start, end - start) for start, end in ends]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    is_whole = all(offset >= 8 and 0 <= num <= size - offset for offset, num in spans)
    return [(0, 8 + length), *spans] if is_whole else None


def _tensor_spans(tensors: list[_Span], size: int) -> list[_Span]:
    """The header whole, and blocks all over each tensor, in the order of the file."""
    header, *rest = tensors
    distance = max(_BLOCK, size // _BLOCKS_PER_SAFETENSORS)
    return sorted({header, *(block for start, num in rest for block in _blocks(start, num, distance))})


def _opaque_spans(size: int) -> list[_Span]:
    """Blocks at regular distances, and the end of the file whole."""
    tail = min(size, _OPAQUE_TAIL)
    distance = max(_BLOCK, size // _BLOCKS_PER_OPAQUE)
    return sorted({*_blocks(0, size, distance), (size - tail, tail)})


def _blocks(start: int, num: int, distance: int) -> list[_Span]:
    """First, middle and last block of a part of a file, and one at every ``distance``; short parts whole."""
    if num <= 3 * _BLOCK:
        return [(start, num)]
    offsets = {*range(0, num - _BLOCK, distance), (num - _BLOCK) // 2, num - _BLOCK}
    return [(start + offset, _BLOCK) for offset in sorted(offsets)]
