import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safe_r1.errors import DataError
from safe_r1.records.location import DataLocation
from safe_r1.records.sources import list_parts, read_part


def rows(location: DataLocation, data: Path, size: int = 3, limit: int | None = None) -> list:
    return [
        record
        for part in list_parts(location, str(data), size, limit)
        for record in read_part(location, part)
    ]


def write_lines(path: Path, count: int) -> None:
    path.write_text(
        "".join(json.dumps({"q": f"问题{i}"}, ensure_ascii=False) + "\n" for i in range(count)), "utf-8"
    )


@pytest.mark.parametrize("size", [1, 3, 7, 8, 100])
def test_parts_of_any_size_give_the_same_records(size: int, tmp_path: Path):
    write_lines(tmp_path / "a.jsonl", 8)
    found = rows(DataLocation(name="a", path="a.jsonl"), tmp_path, size)
    assert [record.value for record in found] == [{"q": f"问题{i}"} for i in range(8)]
    assert [record.index for record in found] == list(range(8))
    assert found[4].where == "a.jsonl:5"


def test_every_format_gives_the_same_records(tmp_path: Path):
    values = [{"q": "一,“二”\n三", "r": "x"}, {"q": "四", "r": "y"}]
    (tmp_path / "a.json").write_text(json.dumps(values), "utf-8")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(v) + "\n" for v in values), "utf-8")
    (tmp_path / "c.csv").write_text('\ufeffq,r\n"一,“二”\n三",x\n四,y\n', "utf-8")
    pq.write_table(pa.Table.from_pylist(values), tmp_path / "d.parquet", row_group_size=1)
    (tmp_path / "e.json").write_text(json.dumps({"x": {"rows": values}}), "utf-8")
    (tmp_path / "f.json").write_text(json.dumps({"x": values[:1], "n": 1, "y": values[1:]}), "utf-8")
    for name, records in [
        ("a.json", None),
        ("b.jsonl", None),
        ("c.csv", None),
        ("d.parquet", None),
        ("e.json", "x.rows"),
        ("f.json", "*"),
    ]:
        found = rows(DataLocation(name="s", path=name, records=records), tmp_path, size=1)
        assert [record.value for record in found] == values, name


def test_a_folder_and_a_glob_are_read_in_the_order_of_their_names(tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_text(json.dumps({"q": name}) + "\n")
    (tmp_path / "notes.txt").write_text("no data")
    for path in (".", "*.jsonl"):
        assert [r.value["q"] for r in rows(DataLocation(name="s", path=path), tmp_path)] == [
            "a.jsonl",
            "b.jsonl",
        ]


def test_malformed_records_are_quoted_with_their_line(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"q": 1}\n{"q": \n[1, 2]\n"text"\n{"q": 5}')
    found = rows(DataLocation(name="a", path="a.jsonl"), tmp_path)
    assert [record.value is None for record in found] == [False, True, True, True, False]
    assert found[1].where == "a.jsonl:2"
    assert '{"q":' in found[1].error
    assert "got list" in found[2].error
    (tmp_path / "b.csv").write_text("q,r\n1,2\n3\n4,5,6\n")
    assert ["columns" in r.error for r in rows(DataLocation(name="b", path="b.csv"), tmp_path)] == [
        False,
        True,
        True,
    ]


def test_a_limit_ends_in_the_middle_of_a_part(tmp_path: Path):
    write_lines(tmp_path / "a.jsonl", 8)
    assert len(rows(DataLocation(name="a", path="a.jsonl"), tmp_path, size=3, limit=5)) == 5


def test_what_is_missing_or_changed_is_said(tmp_path: Path):
    with pytest.raises(DataError, match="no file at"):
        list_parts(DataLocation(name="a", path="a.jsonl"), str(tmp_path), 3)
    (tmp_path / "a.bin").write_text("x")
    with pytest.raises(DataError, match="cannot tell the format"):
        list_parts(DataLocation(name="a", path="a.bin"), str(tmp_path), 3)
    (tmp_path / "o.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match="no list of records"):
        list_parts(DataLocation(name="a", path="o.json"), str(tmp_path), 3)
    write_lines(tmp_path / "c.jsonl", 4)
    location = DataLocation(name="c", path="c.jsonl")
    parts = list_parts(location, str(tmp_path), 3)
    write_lines(tmp_path / "c.jsonl", 2)
    with pytest.raises(DataError, match="has changed"):
        list(read_part(location, parts[0]))
