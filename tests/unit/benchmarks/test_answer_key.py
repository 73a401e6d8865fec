import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

import safe_r1.benchmarks as package
from safe_r1.benchmarks import get_benchmark
from safe_r1.errors import DataError

SAMPLE = get_benchmark("chisafetybench-sample")
Rows = list[dict[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_shipped_keys_are_named_after_their_benchmark():
    for name in ("chisafetybench", "chisafetybench-sample"):
        identity = get_benchmark(name).key_identity()
        assert identity.name == f"{name}/shipped"
        assert identity.sha256[:12] in str(identity)


def test_the_shipped_key_is_the_project_s_own(real_data: Path):
    content = (real_data / "answer_key.jsonl").read_bytes()
    assert get_benchmark("chisafetybench").key_identity().sha256 == hashlib.sha256(content).hexdigest()


def test_the_note_beside_the_shipped_key_stays_inside_the_package():
    text = (Path(package.__file__).parent / "data" / "chisafetybench" / "ANSWER_KEY.md").read_text("utf-8")
    assert "No human annotated it" in text
    assert "../" not in text


def test_another_key_replaces_the_shipped_one(folder: Path):
    rows = read(folder / "answer_key.jsonl")
    rows[0] |= {"answer": "B", "confidence": "low"}
    mine = write(folder / "mine.jsonl", rows)
    assert SAMPLE.load(answer_key=mine)[0].metadata["answer"] == "B"
    assert SAMPLE.load(answer_key=str(mine))[0].metadata["key_confidence"] == "low"
    assert SAMPLE.load()[0].metadata["answer"] == "A"
    assert SAMPLE.key_identity(mine).name == "mine.jsonl"
    assert SAMPLE.key_identity(mine).sha256 == hashlib.sha256(mine.read_bytes()).hexdigest()


def test_a_key_from_memory(folder: Path):
    place = UPath("memory://keys/key.jsonl")
    place.write_bytes((folder / "answer_key.jsonl").read_bytes())
    assert SAMPLE.load(answer_key="memory://keys/key.jsonl") == SAMPLE.load()


def test_order_and_blank_lines_do_not_matter(folder: Path):
    key = folder / "answer_key.jsonl"
    write(key, read(key)[::-1])
    key.write_text("\n" + key.read_text("utf-8") + "\r\n\n", "utf-8")
    assert SAMPLE.load(answer_key=key) == SAMPLE.load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop(4), "item 5: has no answer, the key is partial"),
        (lambda rows: rows.append(rows[0] | {"id": 900}), "item 900: the data have no such question"),
        (lambda rows: rows.append(rows[2]), "line 77: item 3 occurs twice"),
        (lambda rows: rows[1].update(question_sha256="0" * 64), "item 2: belongs to another question text"),
        (lambda rows: rows[1].update(answer="C"), "item 2: answer 'C' is not among the options A, B"),
        (lambda rows: rows[1].update(answer=""), "line 2: field 'answer' is empty"),
        (lambda rows: rows[1].pop("answer"), "line 2: field 'answer' is missing"),
        (lambda rows: rows[1].update(id="2"), "line 2: field 'id' is str, expected int"),
        (
            lambda rows: rows[1].update(confidence="sure"),
            "line 2: confidence is 'sure', expected one of high, medium, low",
        ),
        (lambda rows: rows.clear(), "holds no item"),
    ],
)
def test_a_key_that_does_not_fit_is_refused(folder: Path, change: Callable[[Rows], Any], message: str):
    rows = read(folder / "answer_key.jsonl")
    change(rows)
    key = write(folder / "key.jsonl", rows)
    with pytest.raises(DataError, match=message) as caught:
        SAMPLE.load(answer_key=key)
    assert "key.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"<html>", b'{"id": 1, "question_sha', b"[1, 2]", b"17"]
)
def test_a_file_that_is_no_key_is_refused(folder: Path, content: bytes):
    key = folder / "key.jsonl"
    key.write_bytes(content)
    with pytest.raises(DataError, match=r"answer key key\.jsonl, line 1"):
        SAMPLE.load(answer_key=key)


def test_the_key_of_another_benchmark_is_refused():
    foreign = Path(package.__file__).parent / "data" / "chisafetybench" / "answer_key.jsonl"
    with pytest.raises(DataError, match="item 1: belongs to another question text"):
        SAMPLE.load(answer_key=foreign)


def test_a_missing_key_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.jsonl: no such file; give --answer-key"):
        SAMPLE.load(answer_key=tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no regular file"):
        SAMPLE.key_identity(tmp_path)
