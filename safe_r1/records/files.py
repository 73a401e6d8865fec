"""Opens files of any file system, decompressed, and reads format and compression off their names."""

import contextlib
import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, AnyStr, BinaryIO, cast

import zstandard
from upath import UPath

from safe_r1.errors import DataError
from safe_r1.records.location import FileFormat
from safe_r1.runs import is_regular

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

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
_MAX_LINE = 64 << 20
_LINE_ENDS = ("\n", "\r", b"\n")
# Beyond these, compressed data are no records but made to fill memory and time.
_SMALL_BYTES = 256 << 20
_MAX_RATIO = 200
_BUFFER = 1 << 20


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
                    yield _limited(cast(BinaryIO, unpacked), raw, file)
            elif compression == "zst":
                reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
                yield _limited(cast(BinaryIO, reader), raw, file)
            else:
                yield raw
        except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise DataError(
                f"{file}: its compressed data are damaged ({error}); copy or compress it again"
            ) from None


class _Limited(io.RawIOBase):
    """What is unpacked, as long as it is no more than compressed records can be."""

    def __init__(self, unpacked: BinaryIO, packed: BinaryIO, file: UPath) -> None:
        self._unpacked = unpacked
        self._packed = packed
        self._file = file
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        chunk = self._unpacked.read(len(view))
        view[: len(chunk)] = chunk
        self._count += len(chunk)
        if self._count > _SMALL_BYTES and self._count > _MAX_RATIO * self._packed.tell():
            raise DataError(
                f"{self._file}: more than {_SMALL_BYTES >> 20} MiB, and over {_MAX_RATIO} times what is "
                "packed; unpack the file if this is right"
            )
        return len(chunk)


def _limited(unpacked: BinaryIO, packed: BinaryIO, file: UPath) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Limited(unpacked, packed, file), _BUFFER))


def lines_of(opened: IO[AnyStr], file: UPath) -> Iterator[AnyStr]:
    """The lines of a file.

    Raises:
        DataError: One is longer than any record.
    """
    # Files of fsspec read no part of a line.
    if not isinstance(opened, io.BufferedIOBase | io.TextIOBase):
        opened = cast("IO[AnyStr]", io.BufferedReader(cast(io.RawIOBase, opened), _BUFFER))
    while line := opened.readline(_MAX_LINE):
        # The last line may have no end either, and nothing behind it.
        if len(line) >= _MAX_LINE and line[-1:] not in _LINE_ENDS and opened.read(1):
            raise DataError(
                f"{file}: a line of more than {_MAX_LINE >> 20} MiB; write one record a line, or .json"
            )
        yield line


def _open(file: UPath) -> BinaryIO:
    try:
        if not is_regular(file):
            raise DataError(f"{file}: no regular file")
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
