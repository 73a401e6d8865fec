import json
from pathlib import Path

import pytest
from upath import UPath

from safe_r1.records.formats import read_values
from safe_r1.records.layout import Layout
from safe_r1.records.location import DataLocation


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (r'{"q": "\ud800"}', "not Unicode"),
        (r'{"\udfff": 1}', "not Unicode"),
        ("[" * 100_000, "nested more than 100 deep"),
        ("1" * 5_000, "more than 4,300 digits"),
        (r'{"a": [{"q": "\u0000"}]}', "NUL character in a[0].q: "),
    ],
)
def test_hostile_json_is_malformed(text: str, error: str, tmp_path: Path):
    location = DataLocation(name="a", path="a.jsonl")
    (tmp_path / "a.jsonl").write_text(f'{text}\n{{"q": "\\ud83d\\ude00"}}\n', "utf-8")
    [malformed, good] = read_values(UPath(tmp_path / "a.jsonl"), Layout("jsonl"), 0, location)
    assert malformed[0] is None
    assert error in malformed[1]
    assert len(malformed[1]) < 200
    malformed[1].encode()
    assert good == ({"q": "😀"}, "")


def test_a_lone_surrogate_spoils_one_record_of_a_json_file(tmp_path: Path):
    location = DataLocation(name="a", path="a.json")
    (tmp_path / "a.json").write_text(json.dumps([{"q": "一"}, {"q": "\ud800"}]), "utf-8")
    [good, malformed] = read_values(UPath(tmp_path / "a.json"), Layout("json"), 0, location)
    assert good == ({"q": "一"}, "")
    assert malformed[0] is None
