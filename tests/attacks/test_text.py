"""Text that cannot be stored or sent on, at every border: replaced in replies, refused by field elsewhere."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from safe_r1.benchmarks.files import parse_json
from safe_r1.benchmarks.own.cells import RowError, parsed
from safe_r1.calibration.label_files import read_labels
from safe_r1.corpus.candidates import TeacherReply
from safe_r1.errors import DataError
from safe_r1.inference.endpoint_reply import Reply, read_completion
from safe_r1.judge.base import JudgeItem
from safe_r1.judge.labelled import read_labelled
from safe_r1.judge.policy import BUILT_IN
from safe_r1.judge.prompt_file import PromptFile
from safe_r1.records import text as border
from safe_r1.records.formats import read_all
from safe_r1.records.layout import Layout
from safe_r1.records.location import DataLocation
from safe_r1.schema import Message
from safe_r1.serve.batch_input import read_requests
from tests.unit.serve.batch_files import URL, make_content, make_line
from tests.unit.serve.fakes import post

# As JSON escapes them, with what a refusal says.
TEXTS = {
    "high half": (r"\ud83d", "lone surrogate"),
    "low half": (r"\ude00", "lone surrogate"),
    "halves the wrong way": (r"\ude00\ud83d", "lone surrogate"),
    "NUL": (r"\u0000", "NUL"),
}
VALUES = {
    **{name: (f'"a{escaped}b"', reason) for name, (escaped, reason) in TEXTS.items()},
    "5,000 digits": ("7" * 5_000, "4,300 digits"),
    "depth": ("[" * 101 + "]" * 101, "nested more than 100 deep"),
    "great depth": ("[" * 100_000, "nested more than 100 deep"),
}
BIDI = "\u202e\u2066مرحبا\u200f"
all_values = pytest.mark.parametrize(("value", "reason"), VALUES.values(), ids=VALUES)
all_texts = pytest.mark.parametrize(("escaped", "reason"), TEXTS.values(), ids=TEXTS)


def read(path: Path, format_: Any) -> list[Any]:
    return list(read_all(UPath(path), Layout(format_), DataLocation(name="x", path=str(path))))


@given(st.text(st.characters(codec=None), max_size=20))
def test_a_cleaned_text_is_unicode_without_nul_and_otherwise_the_same(text: str):
    cleaned = border.clean(text)
    cleaned.encode()
    assert border.clean(cleaned) == cleaned
    is_faulty = any("\ud800" <= char <= "\udfff" or char == "\0" for char in text)
    assert is_faulty == bool(border.fault_in(text))
    assert is_faulty == (cleaned != text)


def test_two_halves_are_one_character():
    assert border.clean("\ud83d\ude00\ud83d\0") == "😀\ufffd\ufffd"


@all_values
def test_a_row_of_a_file_is_refused_by_its_field(value: str, reason: str, tmp_path: Path):
    lines = ['{"q": 1}', f'{{"m": [{{"q": {value}}}]}}', '{"q": 2}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf-8")
    rows = read(tmp_path / "a.jsonl", "jsonl")
    assert [row.value for row in rows] == [{"q": 1}, None, {"q": 2}]
    assert reason in rows[1].error
    # Of a number and of depth, the parser stops before there are fields.
    assert "in m[0].q" in rows[1].error or not value.startswith('"')
    rows[1].error.encode()


@all_texts
def test_a_record_of_a_json_list_is_refused_alone(escaped: str, reason: str, tmp_path: Path):
    (tmp_path / "a.json").write_text(f'[{{"q": 1}}, {{"q": "{escaped}"}}]', "utf-8")
    good, bad = read(tmp_path / "a.json", "json")
    assert good.value == {"q": 1}
    assert reason in bad.error
    assert "in q:" in bad.error


@all_texts
def test_the_names_of_fields_are_text_as_well(escaped: str, reason: str):
    with pytest.raises(border.TextError, match=f"{reason}.* in the name of a field of a"):
        border.parse_json(f'{{"a": {{"x{escaped}": 1}}}}')


def test_nul_in_tables_is_refused_by_its_column(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b"q,r\n1,2\n3,a\0b\n")
    pq.write_table(pa.table({"q": ["1", "3"], "r": ["2", "a\0b"]}), tmp_path / "a.parquet")
    for format_ in ("csv", "parquet"):
        good, bad = read(tmp_path / f"a.{format_}", format_)
        assert good.value == {"q": "1", "r": "2"}
        assert bad.value is None
        assert "NUL character in r" in bad.error


def test_bidirectional_controls_are_kept(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"q": BIDI}), "utf-8")
    assert [row.value for row in read(tmp_path / "a.jsonl", "jsonl")] == [{"q": BIDI}]
    assert border.clean(BIDI) == BIDI


@all_values
def test_data_of_benchmarks_are_refused_by_file_and_line(value: str, reason: str):
    with pytest.raises(DataError, match=f"a.jsonl, line 3: .*{reason}"):
        parse_json(f'{{"q": {value}}}'.encode(), "a.jsonl, line 3")


@all_texts
def test_a_cell_of_own_questions_is_refused(escaped: str, reason: str):
    with pytest.raises(RowError, match=reason):
        parsed(f'["a", "{escaped}"]')


@all_values
def test_labelled_answers_are_refused_by_line(value: str, reason: str, tmp_path: Path):
    row = '{"messages": [{"role": "user", "content": "q"}], "label": "直接拒绝", "answer": '
    (tmp_path / "gold.jsonl").write_text(f'{row}"a"}}\n{row}{value}}}\n', "utf-8")
    with pytest.raises(DataError, match=f"line 2.*{reason}"):
        read_labelled(str(tmp_path / "gold.jsonl"))


@all_values
def test_labels_of_people_are_refused_by_line(value: str, reason: str, tmp_path: Path):
    row = '{"item": "a", "label": "直接拒绝", "note": '
    (tmp_path / "labels.jsonl").write_text(f'{row}"n"}}\n{row}{value}}}\n', "utf-8")
    with pytest.raises(DataError, match=f"labels.jsonl:2: .*{reason}"):
        read_labels(str(tmp_path / "labels.jsonl"))


@all_values
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", '{"model": "demo", "messages": [{"role": "user", "content": VALUE}]}'),
        ("completions", '{"model": "demo", "prompt": VALUE}'),
        ("moderations", '{"input": [VALUE]}'),
    ],
)
def test_the_service_refuses_a_request(path: str, body: str, value: str, reason: str):
    reply = post(f"/v1/{path}", body.replace("VALUE", value))
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] in ("invalid_request", "invalid_json", "json_too_deep")


@all_values
def test_a_line_of_a_batch_is_refused_by_its_number(value: str, reason: str):
    bad = make_line("2").replace('"2"', value, 1)
    rows, [error] = read_requests(make_content(make_line("1"), bad), URL)
    assert [row["custom_id"] for row in rows] == ["1"]
    assert error["line"] == 2
    assert reason in error["message"]


@all_texts
def test_replies_of_models_and_teachers_are_cleaned(escaped: str, reason: str):
    text = json.loads(f'"a{escaped}b"')
    message = type("Message", (), {"content": text, "reasoning_content": text})
    choice = type("Choice", (), {"message": message, "finish_reason": text})
    reply = read_completion(type("Answer", (), {"choices": [choice], "model": text}), (), str)
    assert isinstance(reply, Reply)
    for each in (reply.text, reply.reasoning, reply.finish_reason, reply.served_by):
        assert each == border.clean(text) != text
    row = TeacherReply.from_text(("row", 0), text, None, (1, 1))
    assert row.response is not None
    assert row.response.answer == border.clean(text)


@all_texts
def test_prompts_of_judges_can_be_sent(escaped: str, reason: str):
    text = json.loads(f'"a{escaped}b"')
    item = JudgeItem([Message(role="user", content=text)], text)
    for policy in (BUILT_IN, PromptFile.of("{question} {answer}", "own")):
        assert all(border.fault_in(turn["content"]) == "" for turn in policy.messages(item, 1000))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-32-be"])
@all_values
def test_json_in_every_encoding_that_its_parser_takes(encoding: str, value: str, reason: str):
    with pytest.raises(border.TextError, match=reason):
        border.parse_json(f'{{"a": {value}}}'.encode(encoding))
