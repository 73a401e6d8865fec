"""Labels in every form that people bring: ours, and exports of Argilla and Label Studio."""

import json
from pathlib import Path

import pytest
from openpyxl import Workbook

from safe_r1.calibration.label_files import GivenLabel, read_labels
from safe_r1.calibration.label_words import CANNOT_TELL, parse_label
from safe_r1.errors import DataError
from safe_r1.schema import ComplianceLabel, RefusalLabel


def said(path: Path) -> list[tuple[str, str, str]]:
    return [(each.item, each.label, each.annotator) for each in read_labels(str(path)).labels]


def dump(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
    return path


def test_our_csv_with_marks_of_a_spreadsheet(tmp_path: Path):
    path = tmp_path / "labels.csv"
    path.write_text(
        "\ufeffitem,label,annotator,labelled_at,note,results_sha256\r\n"
        'r1,直接拒绝,\'=ann,2026-01-01,"\'=1+1, ""odd""",abc\r\nr2,,x,,,abc\r\n',
        "utf-8",
    )
    found = read_labels(str(path))
    assert found.labels == [
        GivenLabel("r1", "直接拒绝", "=ann", "2026-01-01", '=1+1, "odd"', "abc", "labels.csv:2")
    ]
    assert found.num_blank == 1


def test_our_table_as_a_workbook(tmp_path: Path):
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    for row in (
        ("item", "question", "label", "annotator"),
        ("r1", "？", "Direct refusal", "b"),
        ("r2", "?", None, "b"),
    ):
        sheet.append(row)
    about = book.create_sheet("about")
    for row in (("rows", 2), ("cut", 0)):
        about.append(row)
    book.save(tmp_path / "label.xlsx")
    assert said(tmp_path / "label.xlsx") == [("r1", "Direct refusal", "b")]


def test_label_studio(tmp_path: Path):
    choices = [{"from_name": "label", "type": "choices", "value": {"choices": ["直接拒绝"]}}]
    note = {"from_name": "why", "type": "textarea", "value": {"text": ["短"]}}
    tasks = [
        {
            "id": 1,
            "data": {"item": "r1", "results_sha256": "abc"},
            "annotations": [
                {
                    "completed_by": 7,
                    "result": [*choices, note],
                    "was_cancelled": False,
                    "created_at": "2026-01-02",
                },
                {"completed_by": {"id": 8, "email": "b@x"}, "result": choices, "was_cancelled": False},
                {"completed_by": 9, "result": [], "was_cancelled": True},
            ],
            "predictions": [{"result": [{"value": {"choices": ["拒绝并负责任引导"]}}]}],
        },
        {"id": 2, "data": {"item": "r2"}, "annotations": []},
    ]
    path = dump(tmp_path / "tasks.json", tasks)
    assert said(path) == [("r1", "直接拒绝", "7"), ("r1", "直接拒绝", "b@x")]
    first = read_labels(str(path)).labels[0]
    assert (first.labelled_at, first.note, first.results_sha256) == ("2026-01-02", "短", "abc")
    flat = [
        {"id": 1, "item": "r1", "label": "直接拒绝", "annotator": 7, "annotation_id": 3, "lead_time": 2.5}
    ]
    assert said(dump(tmp_path / "min.json", flat)) == [("r1", "直接拒绝", "7")]


def test_argilla(tmp_path: Path):
    nested = [
        {
            "id": "0",
            "fields": {"answer": "…"},
            "metadata": {"item": "r1"},
            "suggestions": {},
            "responses": {
                "why": [{"value": "x", "user_id": "u1"}],
                "label": [
                    {"value": "直接拒绝", "user_id": "u1", "status": "submitted"},
                    {"value": "拒绝并负责任引导", "user_id": "u2", "status": "discarded"},
                ],
            },
        }
    ]
    assert said(dump(tmp_path / "nested.json", nested)) == [("r1", "直接拒绝", "u1")]
    flat = [
        {
            "id": "0",
            "item": "r1",
            "label.responses": ["直接拒绝", "无法判断"],
            "label.responses.users": ["u1", "u2"],
            "label.responses.status": ["submitted", "submitted"],
        },
        {"id": "1", "item": "r2", "label.responses": None, "label.responses.users": None},
    ]
    assert said(dump(tmp_path / "flat.json", flat)) == [("r1", "直接拒绝", "u1"), ("r1", "无法判断", "u2")]
    feedback = [
        {
            "fields": {"answer": "…"},
            "metadata": {"item": "r1"},
            "responses": [
                {"user_id": "u1", "status": "submitted", "values": {"label": {"value": "直接拒绝"}}},
                {"user_id": "u2", "status": "draft", "values": {"label": {"value": "直接拒绝"}}},
            ],
        }
    ]
    assert said(dump(tmp_path / "feedback.json", feedback)) == [("r1", "直接拒绝", "u1")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"item": "r1", "label": "x"}\n[1]\n', r"labels.jsonl:2: expected an object"),
        ('{"id": "r1", "label": "x"}\n', r"labels.jsonl:1: no column 'item'"),
        ('{"item": "r1"\n', r"labels.jsonl:1: not JSON"),
        ("\n", "holds no row"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, content: str, message: str):
    path = tmp_path / "labels.jsonl"
    path.write_text(content, "utf-8")
    with pytest.raises(DataError, match=message):
        read_labels(str(path))


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(DataError, match="no file at"):
        read_labels(str(tmp_path / "labels.jsonl"))


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("直接拒绝", RefusalLabel.REFUSAL),
        (" Refusal ", RefusalLabel.REFUSAL),
        ("direct  refusal", RefusalLabel.REFUSAL),
        ("RISKY_RESPONSE", RefusalLabel.HARMFUL),
        ("cannot tell", CANNOT_TELL),
        ("无法判断", CANNOT_TELL),
        ("2", None),
        ("拒绝", None),
        ("", None),
    ],
)
def test_words_of_the_four_labels(word: str, label: str | None):
    assert parse_label(word, "refusal") == label


def test_words_of_other_tasks():
    assert parse_label("Partial refusal", "over_refusal") == ComplianceLabel.PARTIAL_REFUSAL
    assert parse_label("b", "mcq", "AB") == "B"
    assert parse_label("C", "mcq", "AB") is None
