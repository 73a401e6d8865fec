"""Files that are written whole or not at all, on a disk or in an object store."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from safe_r1.errors import StorageError

# Given, as another version's default would give the same rows other bytes.
_ROW_GROUP = 1 << 20
# A full disk, a quota, and a limit on the size of files.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TEMPORARY_SUFFIX = ".tmp"
"""Of a file that is being written, or was when its process was killed."""


def sha256(value: object) -> str:
    """Hash of a value by its canonical JSON, in hexadecimal."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()
    ).hexdigest()


def is_local(path: UPath) -> bool:
    """True for a path in this machine's file system."""
    return path.protocol in ("", "file", "local")


def as_path(place: str) -> UPath:
    """The path or URI that a user gave.

    Raises:
        StorageError: Its scheme is unknown, or the package of its file system is missing.
    """
    try:
        path = UPath(place)
        if not is_local(path):
            _ = path.fs
        elif "://" in place and not place.startswith(("file://", "local://")):
            raise ValueError("no known scheme")
        else:
            # A name that is too long, or below a folder that may not be read, is told at once.
            path.exists()
        return path
    # A file system may also refuse its settings at first use.
    except (ValueError, ImportError, TypeError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StorageError(
            f"{place}: cannot be opened ({reason}); give a local path, or a URI such as s3://BUCKET/FOLDER "
            "whose package is installed"
        ) from None


def is_regular(path: UPath) -> bool:
    """False for a folder, and for a pipe or a device, which would be waited for."""
    return not is_local(path) or not path.exists() or path.is_file()


def write_bytes(path: UPath, content: bytes) -> None:
    """Write a file atomically.

    An object store shows an object when its upload is complete; on a file system a rename does the same.

    Raises:
        StorageError: The path cannot be written.
    """
    if is_local(path):
        with writing(path) as temporary, open(temporary, "wb") as file:
            file.write(content)
        return
    try:
        path.write_bytes(content)
    except OSError as error:
        raise storage_error(path, error) from None


@contextlib.contextmanager
def writing(path: UPath) -> Iterator[str]:
    """The name of a temporary file, which becomes a file of the local disk when the body has written it.

    Raises:
        StorageError: It cannot be written.
    """
    # A name of its own, as two workers may write the same shard; in the same folder, as a rename is atomic
    # only within a file system.
    temporary = f"{path.path}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path.path)
    except OSError as error:
        raise storage_error(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def storage_error(path: object, error: OSError) -> StorageError:
    """What a user reads of a file that cannot be written, with what helps."""
    if error.errno in _FULL:
        remedy = "nothing of it is left; free space, then the same command goes on"
    else:
        remedy = "make it writable or choose another --output"
    return StorageError(f"cannot write {path}: {error.strerror or error}; {remedy}")


def write_table(path: UPath, table: pa.Table) -> None:
    """Write a Parquet file atomically; equal tables give equal bytes.

    Raises:
        StorageError: The path cannot be written.
    """
    # Pages follow the chunks of a column, and these follow how the table came about.
    table = table.combine_chunks()
    # Through memory, so that the file is written by one call of `write_bytes`.
    sink = pa.BufferOutputStream()
    # With checksums, by which a reader tells a changed byte.
    pq.write_table(table, sink, compression="zstd", row_group_size=_ROW_GROUP, write_page_checksum=True)
    write_bytes(path, sink.getvalue().to_pybytes())


def remove(folder: UPath) -> None:
    """Remove a folder and its content; no error where there is none."""
    if is_local(folder):
        shutil.rmtree(folder.path, ignore_errors=True)
    elif folder.exists():
        folder.fs.rm(folder.path, recursive=True)
