"""Opens files of any file system, decompressed, and reads format and compression off their names."""

import contextlib
import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

import zstandard
from upath import UPath

from safe_r1.errors import DataError
from safe_r1.records.location import FileFormat

SUFFIXES: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
}
COMPRESSIONS = {".gz": "gz", ".zst": "zst"}
"""Suffix to compression; it follows the suffix of the format, as in ``questions.jsonl.gz``."""
# A lock file that a spreadsheet program leaves beside an open file.
_LOCK_PREFIX = "~$"


def split_name(name: str) -> tuple[str, FileFormat | None, str]:
    """A file name without its suffixes, its format (None: unknown) and its compression (empty: none)."""
    stem, dot, last = name.rpartition(".")
    compression = COMPRESSIONS.get(f"{dot}{last.lower()}", "")
    if not compression:
        stem = name
    base, dot, last = stem.rpartition(".")
    format_ = SUFFIXES.get(f"{dot}{last.lower()}") if base else None
    return base if format_ else stem, format_, compression


def is_data_file(file: UPath) -> bool:
    """Whether a file of a folder is one of the known formats, by its name."""
    return split_name(file.name)[1] is not None and not file.name.startswith(_LOCK_PREFIX)


@contextlib.contextmanager
def open_bytes(file: UPath, compression: str = "") -> Iterator[BinaryIO]:
    """The file's decompressed bytes, to be read from their start.

    Raises:
        DataError: The file cannot be read, or its compressed data are damaged.
    """
    with _open(file) as raw:
        try:
            if compression == "gz":
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield cast(BinaryIO, unpacked)
            elif compression == "zst":
                reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
                yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, reader)))
            else:
                yield raw
        except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise DataError(
                f"{file}: its compressed data are damaged ({error}); copy or compress it again"
            ) from None


def _open(file: UPath) -> BinaryIO:
    try:
        return cast(BinaryIO, file.open("rb"))
    # A file system of fsspec may miss its package or reject its settings at first use.
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{file}: cannot be read ({reason}); check its path and your rights") from None


@contextlib.contextmanager
def open_seekable(file: UPath, compression: str = "") -> Iterator[BinaryIO]:
    """The file's decompressed bytes in any order; a compressed file is unpacked onto the disk first."""
    with open_bytes(file, compression) as opened:
        if not compression:
            yield opened
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(opened, unpacked, 1 << 20)
            unpacked.seek(0)
            yield cast(BinaryIO, unpacked)


def skip_bytes(opened: BinaryIO, count: int) -> None:
    """Go forward; compressed streams cannot seek."""
    if count and opened.seekable() and not isinstance(opened, io.BufferedReader | gzip.GzipFile):
        opened.seek(count)
        return
    while count > 0 and (chunk := opened.read(min(count, 1 << 20))):
        count -= len(chunk)
