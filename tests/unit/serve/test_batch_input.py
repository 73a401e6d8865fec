import json

import pytest

from safe_r1.serve.batch_input import read_requests
from tests.unit.serve.batch_files import URL, make_content, make_line


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not JSON"),
        ("7", "an object"),
        (make_line("1", {"items": [{"prompt": "x"}], "temperature": float("nan")}), "not JSON"),
        (make_line("\ud83d"), "lone surrogate in custom_id"),
        (make_line(3), "custom_id"),
        (make_line(""), "custom_id"),
        (make_line("1"), "earlier line"),
        (make_line("2", method="GET"), "POST"),
        (make_line("2", url="/v1/chat/completions"), "POST and url"),
        (make_line("2", body=[]), "object body"),
        (make_line("2", body={"stream": True}), "stream"),
        ("[" * 100_000, "nested more than"),
    ],
)
def test_an_invalid_line_is_reported_with_its_number(bad: str, message: str):
    rows, [error] = read_requests(make_content(make_line("1"), "", bad), URL)
    assert [row["custom_id"] for row in rows] == ["1"]
    assert error["line"] == 3
    assert message in error["message"]


def test_an_empty_file():
    assert read_requests(b"\n", URL)[1][0]["code"] == "empty_file"


def test_unicode_line_separators_do_not_end_a_line():
    body = {"items": [{"prompt": "一\u2028二\x85三"}]}
    text = json.dumps({"custom_id": "1", "method": "POST", "url": URL, "body": body}, ensure_ascii=False)
    rows, errors = read_requests(text.encode(), URL)
    assert errors == []
    assert rows[0]["body"] == body
