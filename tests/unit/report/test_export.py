"""Exports: every row once, every text as documented, and nothing that a spreadsheet would run."""

import csv
import re
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl.utils.escape import unescape
from typer.testing import CliRunner
from upath import UPath

from safe_r1.cli import app
from safe_r1.errors import ConfigError, IntegrityError, StorageError
from safe_r1.evaluation.results import completion_key, sample_key, verdict_key
from safe_r1.metrics.rates import compute_metrics
from safe_r1.report import export_files
from safe_r1.report.cells import MAX_CELL_CHARS, csv_text, is_formula_like, text_of_csv, xlsx_text
from safe_r1.report.export import FORMATS, export_missing, export_run, export_runs
from safe_r1.report.export_files import TABLES
from safe_r1.report.result_rows import RESULT_SCHEMA, dialogue_text
from safe_r1.runs import RunFolder
from safe_r1.schema import COMPLETION_SCHEMA, SAMPLE_SCHEMA, VERDICT_SCHEMA
from tests.unit.compare.runs import write_run
from tests.unit.report.report_rows import Rows, make_rows

# Texts that begin like formulas are rare among random ones; surrogates cannot be in a Parquet file.
ANY_TEXT = st.builds(
    str.__add__,
    st.sampled_from(
        ["", "", "=", "+", "-", "@", "\t", "\r", "\n", "'", "＝", " =", "\ufeff=", "_x0041_", "\0"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
FORMULAS = [
    "=1+1",
    "+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1+1",
    "＋1",
    "－1",
    "＠A",
    " =1",
    "\ufeff=1",
]
FORMULAS += ["\u200b=1", "\u3000=1", "﹣1", "\u22121", "=cmd|' /C calc'!A0", '=HYPERLINK("http://x","y")']
HARMLESS = ["", "1+1=2", "拒绝", "'t is", "a@b.c", "不=是", "0"]


def write(output: Path, rows: Rows, complete: bool = True) -> RunFolder:
    """A run folder with these rows, as an evaluation leaves it."""
    samples, completions, verdicts = rows
    folder = RunFolder.locate(str(output), "main", "v", "chisafetybench")
    folder.write_json("run.json", {"benchmark": "chisafetybench", "variant": {"name": "v"}})
    # Several shards, and the verdicts in another order than their completions.
    for start in range(0, len(samples), 7):
        folder.write_shard(
            "samples", [each.to_row() for each in samples[start : start + 7]], SAMPLE_SCHEMA, sample_key
        )
    for start in range(0, len(completions), 5):
        shard = [asdict(each) for each in completions[start : start + 5]]
        folder.write_shard("completions", shard, COMPLETION_SCHEMA, completion_key)
    for start in range(0, len(verdicts), 11):
        shard = [asdict(each) for each in verdicts[::-1][start : start + 11]]
        folder.write_shard("verdicts", shard, VERDICT_SCHEMA, verdict_key)
    folder.write_json("metrics.json", compute_metrics(samples, completions, verdicts))
    if complete:
        folder.publish()
    return folder


def hostile() -> Rows:
    """Rows with hostile texts, without the lone surrogate that no Parquet file can hold."""
    samples, completions, verdicts = make_rows(20, 12, repeats=2, nasty=True)

    def clean(text: str | None) -> Any:
        return None if text is None else text.replace("\ud800", "?")

    samples = [
        replace(
            each,
            messages=[{"role": turn["role"], "content": clean(turn["content"])} for turn in each.messages],
            options={letter: clean(text) for letter, text in each.options.items()},
        )
        for each in samples
    ]
    texts = ("completion", "reasoning", "answer", "error")
    completions = [
        replace(each, **{name: clean(getattr(each, name)) for name in texts}) for each in completions
    ]
    completions = [
        replace(each, answer=f"{FORMULAS[place % len(FORMULAS)]}{each.answer}") if each.answer else each
        for place, each in enumerate(completions)
    ]
    return samples, completions, [replace(each, explanation="") for each in verdicts]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write(tmp_path_factory.mktemp("exported"), hostile())
    export_run(folder, FORMATS)
    return Path(folder.path.path)


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def xlsx_cells(path: Path) -> Iterator[tuple[Any, ...]]:
    book = openpyxl.load_workbook(path)
    for sheet in book.worksheets:
        yield from sheet.iter_rows()


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_recognised(text: str):
    assert is_formula_like(text)
    assert csv_text(text) == f"'{text}"


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay(text: str):
    assert not is_formula_like(text)
    assert text_of_csv(csv_text(text)) == text


@given(ANY_TEXT)
def test_a_csv_cell_gives_its_text_back(text: str):
    cell = csv_text(text)
    assert not is_formula_like(cell)
    assert text_of_csv(cell) == text.replace("\0", "␀")


@given(ANY_TEXT)
def test_an_xlsx_cell_gives_its_text_back(text: str):
    fitted = xlsx_text(text)
    expected = re.sub("\r\n?", "\n", text)
    shown = unescape(fitted.text)
    assert not fitted.is_cut
    assert len(shown) == len(expected)
    for before, after in zip(expected, shown, strict=True):
        assert after == before or unicodedata.category(before) in ("Cc", "Cn")
    assert fitted.is_replaced == (re.sub("\r", "\n", shown) != expected)


@given(st.integers(0, 3), st.sampled_from(["a", "字", "😀", "_x0041_"]))
def test_a_long_cell_is_cut_with_a_mark(over: int, unit: str):
    text = unit * (MAX_CELL_CHARS // len(unit.encode("utf-16-le")) * 2 + over * 7000 // len(unit))
    fitted = xlsx_text(text)
    assert len(fitted.text.encode("utf-16-le")) // 2 <= MAX_CELL_CHARS
    assert fitted.is_cut == (f"[cut: {len(text):,} characters" in fitted.text)
    if not fitted.is_cut:
        assert unescape(fitted.text) == text


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=8))
def test_files_give_their_texts_back(texts: list[str], tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("tables")
    schema = pa.schema([("number", pa.int32()), ("text", pa.string())])
    rows = [{"number": number, "text": text} for number, text in enumerate(texts)]
    for name, make in TABLES.items():
        table = make(str(folder / f"t.{name}"), schema)
        table.write(rows)
        table.close()
    assert pq.read_table(folder / "t.parquet").to_pylist() == rows
    of_csv = csv_rows(folder / "t.csv")
    assert [text_of_csv(row["text"]) for row in of_csv] == [text.replace("\0", "␀") for text in texts]
    sheet = openpyxl.load_workbook(folder / "t.xlsx")["results"]
    of_xlsx = [cell.value or "" for cell in next(sheet.iter_cols(2, 2, 2))]
    assert of_xlsx == [xlsx_text(text).text for text in texts]


def test_every_completion_is_one_row(exported: Path):
    samples, completions, verdicts = hostile()
    rows = pq.read_table(exported / "results.parquet").to_pylist()
    keys = [(row["sample_id"], row["repeat"]) for row in rows]
    assert keys == sorted((each.sample_id, each.repeat) for each in completions)
    assert len(set(keys)) == len(samples) * 2
    by_key = {(each.sample_id, each.repeat): each for each in completions}
    labels = {(each.sample_id, each.repeat, each.part): each for each in verdicts}
    for row in rows:
        key = (row["sample_id"], row["repeat"])
        answer = labels[*key, "answer"]
        assert row["answer"] == by_key[key].answer
        assert (row["label"], row["unscored_reason"]) == (answer.label, answer.unscored_reason)
        assert row["truncated"] == by_key[key].has_open_reasoning
        assert row["cut"] == by_key[key].is_cut
        assert row["failed"] == (by_key[key].error is not None)
        assert row["error"] == by_key[key].error
        assert row["blocked"] is False
        assert row["confidence"] is None
        reasoning = labels.get((*key, "reasoning"))
        assert row["reasoning_label"] == (reasoning.label if reasoning else None)
    assert {row["category_zh"] for row in rows} >= {"侵犯他人知识产权"}


def test_all_formats_have_the_same_rows(exported: Path):
    rows = pq.read_table(exported / "results.parquet").to_pylist()
    table = csv_rows(exported / "results.csv")
    assert list(table[0]) == RESULT_SCHEMA.names
    assert len(table) == len(rows)
    for row, of_csv in zip(rows, table, strict=True):
        assert text_of_csv(of_csv["answer"]) == (row["answer"] or "").replace("\0", "␀")
        assert of_csv["truncated"] == str(row["truncated"]).lower()
        assert of_csv["completion_tokens"] == str(row["completion_tokens"])
    sheet = openpyxl.load_workbook(exported / "results.xlsx")["results"]
    head, *body = sheet.iter_rows(values_only=True)
    assert list(head) == RESULT_SCHEMA.names
    answer = RESULT_SCHEMA.names.index("answer")
    assert [each[answer] or "" for each in body] == [xlsx_text(row["answer"] or "").text for row in rows]


def test_no_cell_is_run(exported: Path):
    content = (exported / "results.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    assert content.count(b"\r\n") >= 64
    for row in csv_rows(exported / "results.csv"):
        assert not any(map(is_formula_like, row.values()))
    kinds = {cell.data_type for row in xlsx_cells(exported / "results.xlsx") for cell in row}
    assert kinds <= {"s", "n", "b"}
    quoted = [
        cell
        for row in xlsx_cells(exported / "results.xlsx")
        for cell in row
        if isinstance(cell.value, str) and is_formula_like(cell.value)
    ]
    assert len(quoted) > 20
    assert all(cell.style and cell.quotePrefix for cell in quoted)
    with zipfile.ZipFile(exported / "results.xlsx") as archive:
        sheets = b"".join(archive.read(name) for name in archive.namelist() if "worksheets" in name)
    assert b"<f" not in sheets.replace(b"<freeze", b"")
    assert b"hyperlink" not in sheets


def test_pandas_and_datasets_load_it(exported: Path, tmp_path: Path):
    rows = pq.read_table(exported / "results.parquet").to_pylist()
    keys = [(row["sample_id"], row["repeat"]) for row in rows]
    for name, read in (("parquet", pd.read_parquet), ("csv", pd.read_csv), ("xlsx", pd.read_excel)):
        frame = read(exported / f"results.{name}")
        assert list(zip(frame["sample_id"], frame["repeat"], strict=True)) == keys
        assert frame["truncated"].tolist() == [row["truncated"] for row in rows]
        assert list(frame.columns) == RESULT_SCHEMA.names
    for name in ("parquet", "csv"):
        loaded = datasets.load_dataset(
            name, data_files=str(exported / f"results.{name}"), split="train", cache_dir=str(tmp_path)
        )
        assert isinstance(loaded, datasets.Dataset)
        assert list(zip(loaded["sample_id"], loaded["repeat"], strict=True)) == keys
        assert loaded.column_names == RESULT_SCHEMA.names


def test_a_row_that_was_tried_again_is_one_row(tmp_path: Path):
    samples, completions, verdicts = make_rows(6, 0)
    folder = write(tmp_path, (samples, completions, verdicts))
    lost = [replace(each, answer=None, completion="", error="node lost") for each in completions[:2]]
    folder.write_shard("completions", [asdict(each) for each in lost], COMPLETION_SCHEMA, completion_key)
    [file] = export_run(folder, ["parquet"])
    rows = pq.read_table(file.path.path).to_pylist()
    assert file.num_rows == len(rows) == 6
    assert {row["answer"] for row in rows} == {each.answer for each in completions}


@pytest.mark.parametrize(
    ("stage", "problem"),
    [
        ("samples", "completions of unknown samples"),
        ("completions", "verdicts without a completion"),
        ("verdicts", "completions without a verdict"),
    ],
)
def test_lost_rows_are_an_error_and_leave_no_file(stage: str, problem: str, tmp_path: Path):
    folder = write(tmp_path, make_rows(20, 4))
    folder.shards(stage)[0].unlink()
    with pytest.raises(IntegrityError, match=problem):
        export_run(folder, FORMATS)
    assert [path.name for path in folder.path.iterdir() if path.name.startswith("results")] == []


def test_rows_that_the_metrics_do_not_know_are_an_error(tmp_path: Path):
    folder = write(tmp_path, make_rows(8, 0))
    metrics = folder.read_json("metrics.json") or {}
    metrics["counts"]["mcq"]["num_rows"] += 1
    folder.write_json("metrics.json", metrics)
    with pytest.raises(IntegrityError, match=r"8 completions, but metrics.json counts 9"):
        export_run(folder, ["csv"])


def test_the_files_do_not_depend_on_the_shards(tmp_path: Path):
    samples, completions, verdicts = make_rows(20, 8)
    contents = []
    for place, step in enumerate((1, -1)):
        folder = write(tmp_path / str(place), (samples[::step], completions[::step], verdicts[::step]))
        files = export_run(folder, ["parquet", "csv"])
        contents.append([Path(file.path.path).read_bytes() for file in files])
    assert contents[0] == contents[1]


def test_a_damaged_shard_is_named(tmp_path: Path):
    folder = write(tmp_path, make_rows(8, 0))
    shard = folder.shards("verdicts")[0]
    shard.write_bytes(b"PAR1 no")
    with pytest.raises(StorageError, match=shard.name):
        export_run(folder, ["csv"])


def test_a_full_sheet_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export_files, "MAX_SHEET_ROWS", 10)
    folder = write(tmp_path, make_rows(25, 0))
    [file] = export_run(folder, ["xlsx"])
    book = openpyxl.load_workbook(file.path.path)
    assert book.sheetnames == ["results", "results 2", "results 3", "about"]
    assert [book[name].max_row for name in book.sheetnames[:3]] == [11, 11, 6]


def test_cut_cells_are_counted(tmp_path: Path):
    samples, completions, verdicts = make_rows(5, 0)
    completions[3] = replace(completions[3], reasoning="想" * 40_000)
    folder = write(tmp_path, (samples, completions, verdicts))
    files = {each.path.suffix: each for each in export_run(folder, FORMATS)}
    assert {suffix: each.num_cut for suffix, each in files.items()} == {".parquet": 0, ".csv": 0, ".xlsx": 1}
    assert "1 cells cut" in files[".xlsx"].to_text()
    about = openpyxl.load_workbook(files[".xlsx"].path.path)["about"]
    assert [tuple(row) for row in about.iter_rows(values_only=True)][1][1] == 1
    assert pd.read_csv(files[".csv"].path.path)["reasoning"].str.len().max() == 40_000


def test_only_what_is_missing_is_written_for_a_finished_run(tmp_path: Path):
    folder = write(tmp_path, make_rows(4, 0))
    assert [each.path.name for each in export_missing(folder, ["csv"])] == ["results.csv"]
    assert [each.path.name for each in export_missing(folder, ["csv", "xlsx"])] == ["results.xlsx"]
    assert export_missing(folder, ["csv"]) == []


def test_all_runs_of_a_folder(tmp_path: Path):
    write_run(tmp_path / "runs", "a")
    write_run(tmp_path / "runs", "b", "math-500")
    write_run(tmp_path / "runs", "c", complete=False)
    files = list(export_runs(str(tmp_path / "runs"), ["csv"], str(tmp_path / "out")))
    assert [str(each.path.relative_to(UPath(tmp_path))) for each in files] == [
        "out/main/a/chisafetybench-sample/results.csv",
        "out/main/b/math-500/results.csv",
    ]
    with pytest.raises(StorageError, match="none is finished"):
        list(export_runs(str(tmp_path / "runs" / "main" / "c"), ["csv"]))
    with pytest.raises(StorageError, match="no run"):
        list(export_runs(str(tmp_path / "nowhere"), ["csv"]))
    with pytest.raises(ConfigError, match="expected parquet, csv, xlsx"):
        list(export_runs(str(tmp_path / "runs"), ["xls"]))


def test_a_uri_is_read_and_written(tmp_path: Path):
    source = Path(write(tmp_path, make_rows(9, 3)).path.path)
    target = UPath("memory://export-test/main/v/chisafetybench")
    for path in source.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(source).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    files = list(export_runs("memory://export-test", FORMATS))
    assert [each.num_rows for each in files] == [12, 12, 12]
    assert {path.name for path in target.iterdir()} >= {f"results.{name}" for name in FORMATS}


def test_the_command(tmp_path: Path):
    run = write_run(tmp_path, "a")
    done = CliRunner().invoke(app, ["export", str(run), "--format", "csv,parquet", "--format", "csv"])
    assert done.exit_code == 0, done.output
    assert [line.split(":")[1].strip() for line in done.output.splitlines()] == [
        str(run / "results.csv"),
        str(run / "results.parquet"),
    ]


def test_a_run_of_the_first_schema_version_is_exported(tmp_path: Path):
    run = write_run(tmp_path, "a", "gpqa-diamond")
    for shard in RunFolder(UPath(run)).shards("samples"):
        rows = pq.read_table(shard.path).to_pylist()
        for row in rows:
            row["task"] = "science"
            row["metadata"] = [each for each in row["metadata"] if each["name"] != "shuffle_options"]
        pq.write_table(pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA), shard.path)
    [file] = export_run(RunFolder(UPath(run)), ["parquet"])
    assert {row["task"] for row in pq.read_table(file.path.path).to_pylist()} == {"mcq"}


def test_a_dialogue_is_readable():
    assert dialogue_text([{"role": "user", "content": "问"}]) == "问"
    turns = [{"role": "system", "content": "守则"}, {"role": "user", "content": "问"}]
    assert dialogue_text(turns) == "[system]\n守则\n\n[user]\n问"  # pyright: ignore[reportArgumentType]
