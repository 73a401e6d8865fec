"""Annex tables: every row once, every text as a text, the same bytes for the same rows."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl.utils.escape import unescape
from typer.testing import CliRunner

from safe_r1.benchmarks import get_benchmark
from safe_r1.calibration.calibrate import calibrate
from safe_r1.calibration.items import open_run
from safe_r1.cli import app
from safe_r1.errors import ConfigError, StorageError
from safe_r1.evaluation.results import read_results
from safe_r1.filing.annexes import ANNEXES, BANK_SHEETS, KEYWORD_SHEET, RESULTS, write_annexes
from safe_r1.filing.keyword_files import read_keywords
from safe_r1.filing.workbook import AnnexBook, dialogue
from safe_r1.report.cells import MAX_CELL_CHARS, is_formula_like, xlsx_text
from safe_r1.runs import RunFolder, as_path
from tests.unit.calibration.judged_runs import (
    label_rows,
    refusal_rows,
    sampled,
    write_jsonl,
    write_judged_run,
)

STARTS = st.sampled_from(["", "=", "+", "-", "@", "\t=", "＝", "\0", "_x0041_", "#N/A"])
TEXTS = st.builds(
    str.__add__, STARTS, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
)
KEYWORDS = "=坏词\t民族歧视\n法律\tage\n@词\n"


def saved(path: Path, *columns: list[str]) -> bytes:
    book = AnnexBook()
    for place, texts in enumerate(columns):
        sheet = book.add(f"表{place}", [("文本", 20)])
        for text in texts:
            sheet.write([text])
    book.save(str(path), ["注"])
    return path.read_bytes()


@settings(max_examples=15, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=6))
def test_no_text_is_run_and_none_is_lost(texts: list[str], tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("book") / "book.xlsx"
    saved(path, texts)
    cells = [row[0] for row in openpyxl.load_workbook(path)["表0"].iter_rows(min_row=2)]
    assert [cell.value for cell in cells] == [xlsx_text(text).text for text in texts]
    assert {cell.data_type for cell in cells} == {"s"}
    assert [bool(cell.quotePrefix) for cell in cells] == [
        is_formula_like(xlsx_text(text).text) for text in texts
    ]


def test_equal_rows_give_equal_bytes_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = saved(tmp_path / "1.xlsx", ["甲"], ["乙"])
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    assert saved(tmp_path / "2.xlsx", ["甲"], ["乙"]) == first
    assert saved(tmp_path / "3.xlsx", ["甲"], ["丙"]) != first
    with zipfile.ZipFile(tmp_path / "1.xlsx") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert b"1980-01-01" in archive.read("docProps/core.xml")


def test_a_long_text_says_that_it_was_cut(tmp_path: Path):
    book = AnnexBook()
    sheet = book.add("表", [("文本", 20)])
    sheet.write(["长" * 40_000])
    sheet.write(["长" * MAX_CELL_CHARS])
    assert "1 cells cut" in sheet.to_text()
    book.save(str(tmp_path / "b.xlsx"), [])
    read = openpyxl.load_workbook(tmp_path / "b.xlsx")
    text = read["表"]["A2"].value
    assert isinstance(text, str)
    assert len(text) == MAX_CELL_CHARS
    assert "原文共 40,000 字" in text[-80:]
    assert read["表"]["A3"].value == "长" * MAX_CELL_CHARS
    assert "已截断" in str(read["说明"]["B2"].value)


def test_names_of_sheets_are_valid_and_their_own(tmp_path: Path):
    book = AnnexBook()
    titles = ["a/b:c*[d]?", "名" * 50, "名" * 50, "A", "a"]
    assert len({book.add(title, [("x", 9)]).title.lower() for title in titles}) == len(titles)
    book.save(str(tmp_path / "b.xlsx"), [])
    read = openpyxl.load_workbook(tmp_path / "b.xlsx")
    assert len(read.sheetnames) == len(titles) + 1
    assert all(len(name) <= 31 and not set("[]:*?/\\") & set(name) for name in read.sheetnames)
    assert all(sheet.freeze_panes == "A2" for sheet in read.worksheets)


def test_turns_of_a_dialogue_stand_below_their_speakers():
    turns = [{"role": "user", "content": "甲"}, {"role": "assistant", "content": "乙"}]
    assert dialogue(turns[:1]) == "甲"  # pyright: ignore[reportArgumentType]
    assert dialogue(turns) == "【用户】\n甲\n\n【助手】\n乙"  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The annexes with a list, a team's own questions, and a run that two people have reviewed."""
    root = tmp_path_factory.mktemp("annexes")
    (root / "list.txt").write_text(KEYWORDS, "utf-8")
    known = get_benchmark("filing-refuse").load()[0].messages[0]["content"]
    own = [{"question": "=自己的题目", "category": "民族歧视"}, {"question": known, "category": "年龄歧视"}]
    (root / "own.jsonl").write_text("".join(json.dumps(each) + "\n" for each in own), "utf-8")
    samples, completions, verdicts = refusal_rows(40, missing=2)
    first = sorted(samples, key=lambda each: each.sample_id)[0].sample_id
    completions = [
        replace(each, answer=f"=坏 词，{each.answer}") if each.sample_id == first else each
        for each in completions
    ]
    run = write_judged_run(root / "runs", (samples, completions, verdicts))
    record = sampled(run, "answer", num=32)
    for name in ("甲", "乙"):
        rows = label_rows(run, record, annotator=name)
        calibrate(str(run), [write_jsonl(root / f"{name}.jsonl", rows)])
    lines = list(
        write_annexes(
            str(root), str(root / "list.txt"), [str(root / "runs")], [f"refuse={root / 'own.jsonl'}"]
        )
    )
    (root / "lines.txt").write_text("\n".join(lines), "utf-8")
    return root


def test_banks_stand_in_their_sheets(written: Path):
    book = openpyxl.load_workbook(written / ANNEXES, read_only=True)
    assert book.sheetnames == [KEYWORD_SHEET, *BANK_SHEETS.values(), "说明"]
    for bank, title in BANK_SHEETS.items():
        head, *rows = book[title].iter_rows(values_only=True)
        place = head.index("题目")
        samples = get_benchmark(f"filing-{bank}").load()
        texts = [unescape(str(row[place])) for row in rows]
        added = ["=自己的题目"] if bank == "refuse" else []
        assert texts == [dialogue(sample.messages) for sample in samples] + added
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
        assert all(cell for row in rows for cell in row[: place + 1])
    assert "1 questions stand in it already" in (written / "lines.txt").read_text("utf-8")


def test_the_list_can_be_read_again(written: Path):
    again = read_keywords(str(written / ANNEXES))
    assert again.words == read_keywords(str(written / "list.txt")).words


def test_results_have_every_completion_with_its_labels(written: Path):
    book = openpyxl.load_workbook(written / RESULTS)
    head, *rows = book.worksheets[0].iter_rows(values_only=True)
    records = [dict(zip(head, row, strict=True)) for row in rows]
    folder = RunFolder(as_path(str(next((written / "runs").rglob("_SUCCESS")).parent)))
    _, completions, verdicts = read_results(folder)
    by_id = {each.sample_id: each for each in completions}
    labels = {each.sample_id: each for each in verdicts if each.part == "answer"}
    assert [each["题目编号"] for each in records] == sorted(by_id)
    for each in records:
        verdict = labels[str(each["题目编号"])]
        assert each["回答"] == xlsx_text(by_id[verdict.sample_id].answer or "").text
        assert str(each["判定"]) == (verdict.label or each["判定"])
        assert (verdict.label is None) == str(each["判定"]).startswith("未判定：")
        assert each["评判器"] == verdict.judge
    reviewed = [each for each in records if each["复核人"]]
    assert len(reviewed) == 32
    assert all(set(str(each["复核人"]).split("\n")) == {"甲", "乙"} for each in reviewed)
    assert all(len(str(each["复核结论"]).split("\n")) == 2 for each in reviewed)
    assert len(open_run(str(folder.path)).folder.shards("reviews")) == 2
    assert "=坏词（民族歧视）×1，还原后第 1 字" in str(records[0]["关键词命中"])
    kinds = {cell.data_type for sheet in book.worksheets for row in sheet.iter_rows() for cell in row}
    assert kinds <= {"s", "n"}


def test_the_same_command_writes_the_same_files(written: Path, tmp_path: Path):
    own = ["--questions", f"refuse={written / 'own.jsonl'}"]
    command = ["annexes", "--output", str(tmp_path), "--keywords", str(written / "list.txt"), *own]
    result = CliRunner().invoke(app, [*command, "--run", str(written / "runs")])
    assert result.exit_code == 0, result.output
    assert (
        result.output.replace(str(tmp_path), str(written)).split()
        == (written / "lines.txt").read_text().split()
    )
    for name in (ANNEXES, RESULTS):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_what_is_not_there_is_one_line_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ConfigError, match="expected BANK=FILE with a BANK of content, refuse, answer"):
        list(write_annexes(str(tmp_path), questions=["other=x.csv"]))
    with pytest.raises(StorageError, match="no run"):
        list(write_annexes(str(tmp_path), runs=[str(tmp_path)]))
    assert not list(tmp_path.iterdir())
