"""Quotation marks too many: no row disappears without being counted."""

import csv
import io
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from safe_r1.errors import DataError
from safe_r1.records.csv_files import read_csv
from safe_r1.records.layout import Layout
from safe_r1.records.parsed import Parsed
from safe_r1.records.sheets import MAX_COLUMNS, column_names

HUNDRED = ["q,a", *(f"question {number},A" for number in range(2, 102))]


def read(folder: Path, lines: list[str]) -> list[Parsed]:
    (folder / "q.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return list(read_csv(UPath(folder / "q.csv"), Layout("csv")))


def test_a_pair_of_stray_quotes_is_noted(tmp_path: Path):
    lines = list(HUNDRED)
    lines[50] = '"question 51,A'
    lines[60] = 'question 61",A'
    rows = read(tmp_path, lines)
    assert len(rows) == 90
    [noted] = [row for row in rows if row.note]
    assert noted.number == 51
    assert "spans lines 51 to 61" in noted.note
    assert rows[-1].number == 101


@pytest.mark.parametrize("line", [2, 51, 101])
def test_a_quote_that_is_never_closed_is_an_error_of_the_file(line: int, tmp_path: Path):
    lines = list(HUNDRED)
    lines[line - 1] = f'"{lines[line - 1]}'
    with pytest.raises(DataError, match=rf"begins in line {line} opens a quotation mark that is never"):
        read(tmp_path, lines)


@pytest.mark.parametrize("end", [51, 55, 90])
def test_every_line_of_a_row_that_cannot_be_read_is_counted(end: int, tmp_path: Path):
    lines = list(HUNDRED)
    lines[50] = f'"{lines[50]}'
    lines[end - 1] += '" more'
    rows = read(tmp_path, lines)
    assert len(rows) == 100
    assert [row.number for row in rows if row.error] == list(range(51, end + 1))


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.text(alphabet='ab,;"\n\r\t 是“', max_size=8), min_size=3, max_size=3),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]]):
    text = io.StringIO()
    csv.writer(text).writerows([["x", "y", "z"], *cells])
    path = tmp_path_factory.mktemp("csv") / "q.csv"
    path.write_bytes(text.getvalue().encode())
    rows = read_csv(UPath(path), Layout("csv"))
    assert [row.value for row in rows] == [dict(zip("xyz", row, strict=True)) for row in cells]


def test_rows_of_empty_cells_above_the_column_names(tmp_path: Path):
    assert [row.value for row in read(tmp_path, [",", " ,", "q,", "1,2"])] == [{"q": "1", "column 2": "2"}]


@given(st.lists(st.sampled_from(["a", "a.2", "a.2.2", "b", "", None]), max_size=12))
def test_names_of_columns_are_unique_and_given_ones_stay(header: list[str | None]):
    names = column_names(header, "q")
    assert len(set(names)) == len(names) == len(header)
    assert {name for name in header if name} <= set(names)


@pytest.mark.parametrize("header", [["a"] * MAX_COLUMNS, [f"a{n}" for n in range(MAX_COLUMNS)]])
def test_wide_files_take_linear_time_and_have_a_limit(header: list[str]):
    began = time.monotonic()
    assert len(set(column_names(header, "q.csv"))) == MAX_COLUMNS
    assert time.monotonic() - began < 5
    with pytest.raises(DataError, match=r"q.csv: 16385 columns, more than 16384"):
        column_names([*header, "b"], "q.csv")
