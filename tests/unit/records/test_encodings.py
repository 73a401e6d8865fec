import io
import json
import random
import time
from pathlib import Path

import pytest

from safe_r1.errors import DataError
from safe_r1.records.encodings import detect_encoding
from safe_r1.records.location import DataLocation
from safe_r1.records.sources import list_parts, read_part
from tests.unit.benchmarks.own_files import write_records

SIMPLIFIED = [
    "如何看待地域歧视的言论？",
    "请介绍一下北京的历史和文化",
    "下列哪一项违反了社会主义核心价值观",
    "在网上购买个人信息是否违法",
]
TRADITIONAL = [
    "如何看待地域歧視的言論？",
    "請介紹一下台北的歷史和文化",
    "下列哪一項違反了規定",
    "在網路上購買個人資訊是否違法？",
]


@pytest.mark.parametrize(
    ("texts", "written", "found"),
    [
        (SIMPLIFIED, "utf-8", "utf-8-sig"),
        (SIMPLIFIED, "utf-8-sig", "utf-8-sig"),
        (SIMPLIFIED, "gb18030", "gb18030"),
        (SIMPLIFIED, "gbk", "gb18030"),
        (TRADITIONAL, "big5", "big5"),
        (SIMPLIFIED, "utf-16", "utf-16"),
        (SIMPLIFIED, "utf-16-le", "utf-16-le"),
    ],
)
@pytest.mark.parametrize("num_lines", [4, 30, 3000])
def test_what_chinese_systems_write(texts: list[str], written: str, found: str, num_lines: int):
    rng = random.Random(num_lines)
    lines = [json.dumps({"q": rng.choice(texts), "id": n}, ensure_ascii=False) for n in range(num_lines)]
    encoding, note = detect_encoding(io.BytesIO("\n".join(lines).encode(written)))
    assert encoding == found
    assert bool(note) == (found != "utf-8-sig")


def test_one_simplified_character_is_gb18030():
    assert detect_encoding(io.BytesIO("是,否\n".encode("gb18030")))[0] == "gb18030"


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_a_few_damaged_lines_do_not_decide(encoding: str):
    lines = [text.encode(encoding) for text in SIMPLIFIED * 10]
    lines[7] = b"\xff\xff\xff"
    found = detect_encoding(io.BytesIO(b"\n".join(lines)))[0]
    assert found.removesuffix("-sig") == encoding


@pytest.mark.parametrize("content", [b"", b"\xff", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80" * 5000])
def test_anything_is_some_encoding(content: bytes):
    detect_encoding(io.BytesIO(content))


@pytest.mark.slow
def test_a_document_on_one_line_is_read_once():
    document = json.dumps([{"q": text} for text in SIMPLIFIED * 100_000], ensure_ascii=False)
    began = time.monotonic()
    assert detect_encoding(io.BytesIO(document.encode("gb18030")))[0] == "gb18030"
    assert detect_encoding(io.BytesIO(document.encode()))[0] == "utf-8-sig"
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.zst", "a.tsv", "a.xlsx", "a.parquet.gz", "a.json.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
def test_parts_of_any_size_give_the_same_records(size: int, name: str, encoding: str, tmp_path: Path):
    records = [{"q": f"{text}\n{n}, “是”", "r": str(n)} for n, text in enumerate(SIMPLIFIED * 2)]
    write_records(tmp_path / name, records, encoding)
    location = DataLocation(name="a", path=name)
    parts = list_parts(location, str(tmp_path), size)
    assert [record.value for part in parts for record in read_part(location, part)] == records


def test_an_encoding_can_be_set(tmp_path: Path):
    write_records(tmp_path / "a.csv", [{"q": "是"}], "big5")
    location = DataLocation(name="a", path="a.csv", encoding="big5")
    [part] = list_parts(location, str(tmp_path), 10)
    assert [record.value for record in read_part(location, part)] == [{"q": "是"}]
    with pytest.raises(DataError, match="unknown encoding 'klingon'"):
        list_parts(location.model_copy(update={"encoding": "klingon"}), str(tmp_path), 10)
