"""Workbooks that are made to harm whoever opens them."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from upath import UPath

from safe_r1.errors import DataError
from safe_r1.records import sheets
from safe_r1.records.layout import find_layout
from safe_r1.records.location import DataLocation
from safe_r1.records.sources import list_parts, read_part
from tests.unit.benchmarks.own_files import write_records

SHEET = "xl/worksheets/sheet1.xml"
EXTERNAL = b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
NESTED = (
    b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaaaaaaaa"><!ENTITY b "'
    + b"&a;" * 60
    + b'"><!ENTITY c "'
    + b"&b;" * 60
    + b'"><!ENTITY d "'
    + b"&c;" * 60
    + b'"><!ENTITY e "'
    + b"&d;" * 60
    + b'">]>'
)


def changed(folder: Path, change: Callable[[bytes], bytes]) -> DataLocation:
    """A workbook whose sheet's XML was edited."""
    plain = write_records(folder / "plain.xlsx", [{"q": "MARK"}])
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(folder / "a.xlsx", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, change(content) if name == SHEET else content)
    return DataLocation(name="a", path="a.xlsx")


@pytest.mark.parametrize("declaration", [EXTERNAL, NESTED])
def test_no_entity_is_expanded(declaration: bytes, tmp_path: Path):
    location = changed(tmp_path, lambda content: declaration + content.replace(b"MARK", b"&e;"))
    with pytest.raises(DataError, match="no readable xlsx workbook"):
        list_parts(location, str(tmp_path), 10)


def test_what_unpacks_to_far_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    location = changed(tmp_path, lambda content: content.replace(b"MARK", b"a" * (8 << 20)))
    [part] = list_parts(location, str(tmp_path), 10)
    assert len(str(next(read_part(location, part)).value)) > 8 << 20
    monkeypatch.setattr(sheets, "_SMALL_BYTES", 1 << 20)
    with pytest.raises(DataError, match="0 MiB that unpack to 8 MiB"):
        list_parts(location, str(tmp_path), 10)


@pytest.mark.slow
def test_a_large_table_of_texts_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = write_records(tmp_path / "plain.xlsx", [{"q": "MARK"}])
    shared = tmp_path / "shared.xlsx"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(shared, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        # 60 MiB, of which the workbook's own sheet uses nothing.
        target.writestr("xl/sharedStrings.xml", "<sst>" + " " * (60 << 20) + "</sst>")
    monkeypatch.setattr(sheets, "_MANY_BYTES", 32 << 20)
    location = DataLocation(name="a", path="shared.xlsx")
    assert find_layout(location, UPath(plain)).notes == ()
    [note] = find_layout(location, UPath(shared)).notes
    assert note == (
        "shared.xlsx: its table of texts is held in memory, up to 0.1 GiB; save it as CSV or Parquet, which "
        "are read row by row"
    )
