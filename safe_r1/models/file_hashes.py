"""Hashes of whole files, kept in the cache folder by what the file system says of a file.

A kept hash is used again while path, size, inode, modification and change time of the file are the same. The
change time is set by the kernel alone: who sets the modification time back is seen too. This trusts the file
system's clock and inodes; ``SAFE_R1_TRUST_HASHES=0`` reads every file again, and keeps what it finds.

BLAKE3, as SHA-256 of a core is slower than a disk: 5 GB/s here where SHA-256 has 0.8. It is a tree of hashes
of blocks, in which every byte counts.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3
from tqdm import tqdm

from safe_r1.errors import ModelError
from safe_r1.models.files import cache_folder

logger = logging.getLogger(__name__)

TRUST_VARIABLE = "SAFE_R1_TRUST_HASHES"
"""Environment variable: ``0`` reads every file again whatever is kept of it."""
_THREADS = 8
_CHUNK = 4 << 20
# Smaller files are read faster than looked up.
_SMALLEST_KEPT = 1 << 20
# A file that was written within the resolution of a file system's clock may be written again unseen.
_SETTLED_NS = 3_000_000_000
_BAR_DELAY_S = 3.0


def hash_files(files: Iterable[Path]) -> dict[Path, str]:
    """The hash of each file's whole content, in hexadecimal; several files are read at once.

    Raises:
        ModelError: A file cannot be read, or changes while it is read.
    """
    found = list(files)
    try:
        total = sum(file.stat().st_size for file in found)
        bar = tqdm(
            total=total, desc="reading weights", unit="B", unit_scale=True, delay=_BAR_DELAY_S, disable=None
        )
        with bar, ThreadPoolExecutor(_THREADS) as pool:
            return dict(zip(found, pool.map(lambda file: _hash(file, bar), found), strict=True))
    except OSError as error:
        raise ModelError(
            f"{error.filename or found[0].parent}: cannot be read ({error.strerror or error}); "
            "make it readable or give another folder"
        ) from None


def _hash(file: Path, bar: tqdm) -> str:
    state = _state(file.stat())
    is_kept = state["size"] >= _SMALLEST_KEPT
    record = _record(file) if is_kept else None
    if record and os.environ.get(TRUST_VARIABLE) != "0" and (known := _read(record, state)):
        bar.update(state["size"])
        return known
    began = time.time_ns()
    digest = blake3()
    buffer = memoryview(bytearray(min(_CHUNK, state["size"] + 1)))
    with file.open("rb", buffering=0) as stream:
        while num := stream.readinto(buffer):
            digest.update(buffer[:num])
            bar.update(num)
        after = _state(os.fstat(stream.fileno()))
    if after != state:
        raise ModelError(f"{file} changed while it was read: wait until it is written, and run again")
    found = digest.hexdigest()
    if record and began - max(state["mtime_ns"], state["ctime_ns"]) > _SETTLED_NS:
        _keep(record, {**state, "blake3": found})
    return found


def _state(stat: os.stat_result) -> dict[str, int]:
    return {
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
    }


def _record(file: Path) -> Path:
    key = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()
    return cache_folder() / "hashes" / f"{key[:32]}.json"


def _read(record: Path, state: dict[str, int]) -> str | None:
    """The hash that is kept of a file in this state."""
    try:
        kept = json.loads(record.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(kept, dict) or any(kept.get(name) != value for name, value in state.items()):
        return None
    found = kept.get("blake3")
    return found if isinstance(found, str) and len(found) == blake3.digest_size * 2 else None


def _keep(record: Path, content: dict[str, object]) -> None:
    temporary = record.with_name(f".{record.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, record)
    except OSError as error:
        # The next run reads the file again, which is slow and not wrong.
        logger.warning("hashes cannot be kept in %s: %s", record.parent, error.strerror or error)
        with contextlib.suppress(OSError):
            temporary.unlink()
