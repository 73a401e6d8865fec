"""Files that are made to take time and memory without end."""

import gzip
import io
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from safe_r1.errors import DataError
from safe_r1.records import files
from safe_r1.records.encodings import detect_encoding
from safe_r1.records.location import DataLocation
from safe_r1.records.sources import list_parts, read_part


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["a", "是", "a,", "是 "])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_a_long_line_without_quotes_takes_linear_time(piece: str, encoding: str):
    text = (piece * (48 << 20)).encode(encoding)[: 48 << 20]
    began = time.monotonic()
    found, _ = detect_encoding(io.BytesIO(text))
    assert time.monotonic() - began < 10
    if encoding == "utf-8":
        assert found == "utf-8-sig"


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json"])
@pytest.mark.parametrize(
    ("compression", "compress"), [("gz", gzip.compress), ("zst", zstandard.ZstdCompressor().compress)]
)
def test_what_unpacks_to_far_more_is_refused(
    suffix: str,
    compression: str,
    compress: Callable[[bytes], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(files, "_SMALL_BYTES", 4 << 20)
    (tmp_path / f"a.{suffix}.{compression}").write_bytes(compress(b"a" * (16 << 20)))
    with pytest.raises(DataError, match=r"more than 4 MiB, and over 200 times what is packed"):
        list_parts(DataLocation(name="a", path=f"a.{suffix}.{compression}"), str(tmp_path), 10)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_line_longer_than_any_record_is_refused(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "_MAX_LINE", 1000)
    location = DataLocation(name="a", path=f"a.{suffix}")
    (tmp_path / f"a.{suffix}").write_bytes(b"q\n" + b"1" * 999 + b"\n" + b"2" * 1000)
    list_parts(location, str(tmp_path), 10)
    (tmp_path / f"a.{suffix}").write_bytes(b"q\n" + b"1" * 1001)
    with pytest.raises(DataError, match=rf"a.{suffix}: a line of more than 0 MiB"):
        list_parts(location, str(tmp_path), 10)


def test_lines_of_files_of_any_file_system(tmp_path: Path):
    import fsspec

    with fsspec.open("memory://limits/a.jsonl.gz", "wb") as file:
        file.write(gzip.compress(b'{"q": 1}\n{"q": 2}'))  # pyright: ignore[reportAttributeAccessIssue]
    location = DataLocation(name="a", path="memory://limits/a.jsonl.gz")
    [part] = list_parts(location, None, 10)
    assert [record.value for record in read_part(location, part)] == [{"q": 1}, {"q": 2}]
