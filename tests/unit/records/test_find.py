"""Files of a location: subfolders, globs, suffixes in upper case, names that look like patterns."""

import random
from pathlib import Path

import pytest

from safe_r1.errors import DataError
from safe_r1.records.find import find_all, find_files
from safe_r1.records.location import DataLocation

DATA = ("a.jsonl", "B.JSONL", "sub/c.csv.gz", "sub/deep/d.Parquet", "sub/deep/e.json", "中文/问题.xlsx")
OTHER = ("notes.txt", "sub/README.md", "sub/deep/model.bin")
HIDDEN = (".git/x.jsonl", "__MACOSX/z.jsonl", "~$lock.xlsx", ".DS_Store", "_SUCCESS")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*DATA, *OTHER, *HIDDEN):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return tmp_path


def found(path: str, folder: Path) -> list[str]:
    files = find_files(DataLocation(name="s", path=path), str(folder))
    return sorted(str(Path(str(file)).relative_to(folder)) for file in files)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".", DATA),
        ("sub", [name for name in DATA if name.startswith("sub/")]),
        ("**/*", DATA),
        ("**/*.json*", ["a.jsonl", "sub/deep/e.json"]),
        ("sub/**/*", [name for name in DATA if name.startswith("sub/")]),
        ("sub/*/e.json", ["sub/deep/e.json"]),
        ("*.jsonl", ["a.jsonl"]),
        ("*.JSONL", ["B.JSONL"]),
        ("?.jsonl", ["a.jsonl"]),
        ("中文/*", ["中文/问题.xlsx"]),
    ],
)
def test_folders_are_read_to_their_end_and_globs_as_a_shell_does(
    path: str, expected: list[str], folder: Path
):
    assert found(path, folder) == sorted(expected)


def test_what_is_not_read_is_named(folder: Path):
    everything = find_all(DataLocation(name="s", path="."), str(folder))
    assert everything.skipped == sorted(OTHER)
    assert everything.note.endswith("notes.txt, sub/README.md, sub/deep/model.bin")
    with pytest.raises(DataError, match="no file with a known format"):
        find_files(DataLocation(name="s", path="*.txt"), str(folder))


@pytest.mark.parametrize("name", ["data[1].jsonl", "a*b.jsonl", "why?.jsonl"])
def test_a_file_whose_name_looks_like_a_pattern_is_that_file(name: str, tmp_path: Path):
    (tmp_path / name).write_text("{}")
    (tmp_path / "axb.jsonl").write_text("{}")
    assert found(name, tmp_path) == [name]


def test_the_order_is_that_of_the_paths(tmp_path: Path):
    names = [f"{folder}/{number}.jsonl" for folder in "cab" for number in (2, 10, 1)]
    random.Random(0).shuffle(names)
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    files = find_files(DataLocation(name="s", path="."), str(tmp_path))
    assert [str(file) for file in files] == sorted(map(str, files))
