"""Files as people leave them: titles, merged cells, instructions, another format than the name says."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from safe_r1.benchmarks import evaluate_schema, get_benchmark
from safe_r1.benchmarks.own.benchmark import OwnBenchmark
from safe_r1.benchmarks.own.check import check_questions, write_settings
from safe_r1.errors import ConfigError, DataError
from safe_r1.schema import Sample
from safe_r1.settings import load_config
from tests.unit.benchmarks.own_files import write_records

Rows = list[list[Any]]


def opened(path: Path, *settings: str) -> OwnBenchmark:
    benchmark = get_benchmark(str(path), load_config(evaluate_schema(), None, list(settings), variant="demo"))
    assert isinstance(benchmark, OwnBenchmark)
    return benchmark


def load(path: Path, *settings: str) -> Sequence[Sample]:
    return opened(path, *settings).load()


def write_table(path: Path, **sheets: Rows) -> Path:
    if path.suffix == ".csv":
        [rows] = sheets.values()
        path.write_text(
            "\n".join(",".join("" if c is None else str(c) for c in row) for row in rows), "utf-8"
        )
        return path
    book = openpyxl.Workbook()
    assert book.active is not None
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


TABLE: Rows = [["问题", "期望"], ["怎样一？", "应拒答"], ["怎样二？", "非拒答"]]


@pytest.mark.parametrize("name", ["q.csv", "q.xlsx"])
@pytest.mark.parametrize("width", [1, 2])
def test_a_title_above_the_column_names(name: str, width: int, tmp_path: Path):
    path = write_table(tmp_path / name, 题库=[["我的题库", None][:width], *TABLE])
    with pytest.raises(
        DataError, match=r"row 2 looks like the column names: delete the rows above it"
    ) as error:
        load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["q.csv", "q.xlsx"])
def test_rows_of_empty_cells_are_no_column_names(name: str, tmp_path: Path):
    assert len(load(write_table(tmp_path / name, 题库=[[None, None], [None, None], *TABLE]))) == 2


@pytest.mark.parametrize("name", ["q.csv", "q.xlsx"])
@pytest.mark.parametrize("is_last", [False, True])
def test_options_under_one_merged_cell(name: str, is_last: bool, tmp_path: Path):
    rows: Rows = [["问题", "选项", None, None, "答案"], ["哪个？", "甲", "乙", "丙", "B"]]
    if is_last:
        rows = [[row[0], row[4], *row[1:4]] for row in rows]
    benchmark = opened(write_table(tmp_path / name, 题库=rows))
    [sample] = benchmark.load()
    assert sample.options == {"A": "甲", "B": "乙", "C": "丙"}
    assert any(line.startswith("option_columns: '选项', 'column ") for line in benchmark.explain())


@pytest.mark.parametrize("name", ["q.csv", "q.xlsx"])
def test_columns_without_a_name_are_listed(name: str, tmp_path: Path):
    rows: Rows = [["问题", None, "选项", None, "答案"], ["哪个？", "注", "A. 甲 B. 乙", "备", "B"]]
    benchmark = opened(write_table(tmp_path / name, 题库=rows))
    assert benchmark.load()[0].options == {"A": "甲", "B": "乙"}
    assert "not used: 'column 2', 'column 4'" in benchmark.explain()


def test_the_sheet_with_questions_goes_before_the_first(tmp_path: Path):
    sheets: dict[str, Rows] = {"说明": [["使用说明"], ["请填写题目"]], "题库": TABLE, "备用": TABLE[:2]}
    path = write_table(tmp_path / "q.xlsx", **sheets)
    benchmark = opened(path)
    assert len(benchmark.load()) == 2
    note = "sheet '题库' is read, not '说明', '备用' (another one: --set benchmark.sheet=NAME)"
    assert any(note in line for line in benchmark.explain())
    with pytest.raises(DataError, match="no column holds the question; there is: '使用说明'"):
        load(path, "benchmark.sheet=说明")
    del sheets["题库"], sheets["备用"]
    sheets["草稿"] = [["x"], ["y"]]
    with pytest.raises(DataError, match="sheet '说明' is read, not '草稿'"):
        load(write_table(path, **sheets))


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("q.json", b'{"a": 1}', "q.json holds no list of records; name its field: --set benchmark.records="),
        ("q.txt", b"a", r"\(known: .* --set benchmark.format=csv"),
        ("q.csv", "栏目\n怎样？".encode("gb18030"), "another one: --set benchmark.encoding=NAME"),
        ("q.json", b'{"q": 1}\n{"q": 2}\n', "q.json: has a record a line; .* --set benchmark.format=jsonl"),
        ("q.jsonl", b'[{"q": 1},\n{"q": 2}]', "q.jsonl: is one JSON list, .* --set benchmark.format=json"),
        ("q.jsonl", b'\xef\xbb\xbf[{"q": 1}]', "q.jsonl: is one JSON list"),
        ("q.csv", b"", "q.csv: is empty"),
        ("q.jsonl", b"\xef\xbb\xbf\n \n", "q.jsonl: is empty"),
        ("q.xlsx", b"", "q.xlsx: is empty"),
        ("q.csv", "问题,期望\n".encode(), "q.csv: no row below its column names"),
        ("q.csv", b"PK\x03\x04....", "q.csv: is a file of xlsx; .* --set benchmark.format=xlsx"),
        ("q.xlsx", b"\xd0\xcf\x11\xe0....", "q.xlsx: is an old .xls workbook or has a password"),
        ("q.csv", b"\x1f\x8b\x08....", "q.csv: is compressed; .* ends in .csv.gz"),
        ("q.jsonl", b"PAR1....", "q.jsonl: is a file of parquet"),
    ],
)
def test_what_a_file_is_and_what_to_do(name: str, content: bytes, match: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    settings = ["benchmark.mapping.question=q"] if name == "q.csv" and b"\n" not in content else []
    with pytest.raises((DataError, ConfigError), match=match) as error:
        load(tmp_path / name, *settings)
    assert "\n" not in str(error.value)
    assert "source questions" not in str(error.value)


@pytest.mark.parametrize(
    ("column", "values", "tasks"),
    [
        ("标签", ["不安全", "安全"], ["refusal", "over_refusal"]),
        ("是否拒答", ["√", "×"], ["refusal", "over_refusal"]),
        ("期望", ["拒", "正常"], ["refusal", "over_refusal"]),
    ],
)
@pytest.mark.parametrize("question", ["问题", "文本", "問題"])
def test_usual_words(question: str, column: str, values: list[str], tasks: list[str], tmp_path: Path):
    rows = [{question: f"第{n}问？", column: value} for n, value in enumerate(values)]
    assert [sample.task for sample in load(write_records(tmp_path / "q.csv", rows))] == tasks


def test_a_column_that_seems_to_say_the_task_is_named(tmp_path: Path):
    rows = [{"问题": f"第{n}问？", "结论": value} for n, value in enumerate(["不安全", "安全"])]
    path = write_records(tmp_path / "q.csv", rows)
    with pytest.raises(DataError, match=r"'结论' seems to say; --set benchmark.mapping.expected=结论"):
        load(path)
    assert len(load(path, "benchmark.mapping.expected=结论")) == 2


def test_true_or_false(tmp_path: Path):
    rows = [
        {"题目": f"第{n}题。", "题型": "判断题", "答案": each}
        for n, each in enumerate(["对", "×", "正确", "F"])
    ]
    samples = load(write_records(tmp_path / "q.csv", rows))
    assert [sample.options for sample in samples] == [{"A": "正确", "B": "错误"}] * 4
    assert [sample.metadata["answer"] for sample in samples] == ["A", "B", "A", "B"]


def test_check_lists_no_more_than_anybody_reads(tmp_path: Path):
    rows = [{"问题": "好？", "期望": "应拒答"}, *[{"问题": "", "期望": "应拒答"}] * 250]
    check = check_questions(opened(write_records(tmp_path / "q.csv", rows)))
    assert check.num_misfits == 250
    assert sum("no question (" in line for line in check.lines) == 200
    assert check.lines[-1] == "  and 50 more"


def test_what_init_comments_out_is_toml(tmp_path: Path):
    path = write_table(tmp_path / "q.xlsx", 题库=TABLE)
    text, _ = write_settings(opened(path), force=False)
    lines = [
        line.removeprefix("# ")
        for line in text.splitlines()
        if line.startswith(("# sheet", "# enc", "# rec"))
    ]
    assert set(tomllib.loads("\n".join(lines))) == {"sheet", "encoding", "records"}


def test_the_file_of_an_endpoint_beside_the_questions(tmp_path: Path):
    path = write_table(tmp_path / "q.csv", 题库=TABLE)
    (tmp_path / "q.toml").write_text('url = "https://host/v1"\nmodel = "m"\n')
    with pytest.raises(ConfigError, match=r"q.toml: is the file of an endpoint .* rename one of the two"):
        load(path)
