from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from safe_r1.corpus.accounting import account, sum_rows
from safe_r1.corpus.index import RowIndex
from safe_r1.corpus.mixing import RowSummary
from safe_r1.corpus.plan import CorpusPlan
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.corpus.rows import ROW_SCHEMA, Drop
from safe_r1.corpus.selection import Selection
from safe_r1.errors import IntegrityError, NoResultError
from safe_r1.records.layout import Layout
from safe_r1.records.sources import SourcePart
from safe_r1.runs import RunFolder

SOURCE = {
    "name": "a",
    "path": "a.jsonl",
    "kind": "safety",
    "language": "zh",
    "licence": "MIT",
    "mapping": {"prompt": "q"},
}
COLUMNS = ("row_id", "source", "kind", "language", "area", "category")


def table_row(number: int, drop: Drop | None = None) -> dict[str, Any]:
    values = (f"a/{number}", "a", "safety", "zh", "rights", "privacy")
    return {
        **dict(zip(COLUMNS, values, strict=True)),
        "drop_stage": drop and drop.stage,
        "drop_reason": drop and drop.reason,
        "drop_detail": drop and drop.detail,
    }


def count(
    folder: Path,
    rows: list[dict[str, Any]],
    kept: list[str],
    drops: dict[str, Drop],
    num_read: int | None = None,
    held_out: bool = False,
):
    recipe = CorpusRecipe.model_validate(
        {"name": "t", "licences": ["MIT"], "sources": [SOURCE], "rows_per_part": 2}
    )
    num_read = len(rows) if num_read is None else num_read
    plan = CorpusPlan(recipe, [SourcePart("a", 0, 0, num_read, "a.jsonl", 0, 1, Layout("jsonl"))], [])
    names = [*COLUMNS, "repairs", "drop_stage", "drop_reason", "drop_detail"]
    schema = pa.schema([ROW_SCHEMA.field(name) for name in names])
    table = pa.Table.from_pylist(rows, schema)
    index = RowIndex([], np.array([0, len(rows)]), table, np.zeros(0, np.int64))
    train = [RowSummary(row_id, "a", "safety", "zh", "rights", "privacy", 0, 0) for row_id in kept]
    selection = Selection(
        dict.fromkeys(kept),
        {"train": [], "validation": train} if held_out else {"train": train, "validation": []},
        drops,
    )
    return account(plan, RunFolder(UPath(folder)), index, selection)


def test_every_row_is_kept_or_dropped_with_a_reason(tmp_path: Path):
    rows = [table_row(0), table_row(1, Drop("filter", "language", "en")), table_row(2), table_row(3)]
    counts = count(tmp_path, rows, ["a/0"], {"a/2": Drop("deduplicate", "exact_duplicate", "a/0")})
    assert (counts["num_read"], counts["num_kept"], counts["num_dropped"]) == (4, 1, 3)
    assert sum_rows(counts["kept"], "category", "kind") == {("privacy", "safety"): 1}
    assert counts["splits"] == {"train": 1, "validation": 0}
    drops = pq.read_table(tmp_path / "drops").to_pylist()
    assert [(drop["row_id"], drop["stage"], drop["reason"], drop["detail"]) for drop in drops] == [
        ("a/1", "filter", "language", "en"),
        ("a/2", "deduplicate", "exact_duplicate", "a/0"),
        ("a/3", "mix", "over_quota", "not drawn"),
    ]


def test_a_row_that_is_missing_is_an_error(tmp_path: Path):
    with pytest.raises(IntegrityError, match="3 rows read, 1 kept and 1 dropped"):
        count(tmp_path, [table_row(0), table_row(1)], ["a/0"], {}, num_read=3)


def test_a_corpus_without_rows_is_an_error(tmp_path: Path):
    rows = [table_row(0, Drop("filter", "language", "en")), table_row(1, Drop("filter", "language", "en"))]
    with pytest.raises(NoResultError, match=r"none of 2 rows is kept \(filter: language 2\)"):
        count(tmp_path, rows, [], {})
    assert pq.read_table(tmp_path / "drops").num_rows == 2


@pytest.mark.parametrize(("num_lost", "is_refused"), [(5, False), (6, True)])
def test_a_reason_that_takes_most_rows_is_an_error(tmp_path: Path, num_lost: int, is_refused: bool):
    rows = [
        table_row(number, Drop("filter", "empty_reasoning") if number < num_lost else None)
        for number in range(10)
    ]
    kept = [f"a/{number}" for number in range(num_lost, 10)]
    if not is_refused:
        assert count(tmp_path, rows, kept, {})["num_kept"] == 5
        return
    with pytest.raises(
        NoResultError, match=r"6 of 10 rows .* filter: empty_reas.*filters\.reasoning=optional"
    ):
        count(tmp_path, rows, kept, {})


def test_rows_that_no_quota_needs_are_not_lost(tmp_path: Path):
    assert count(tmp_path, [table_row(number) for number in range(10)], ["a/3"], {})["num_dropped"] == 9


def test_a_corpus_without_a_row_to_train_on_is_an_error(tmp_path: Path):
    with pytest.raises(NoResultError, match="no row to train on: all 1 rows are held out"):
        count(tmp_path, [table_row(0)], ["a/0"], {}, held_out=True)


def test_repairs_are_counted_by_source(tmp_path: Path):
    rows = [table_row(0) | {"repairs": ["joined_parts"]}, table_row(1) | {"repairs": ["joined_parts", "x"]}]
    counts = count(tmp_path, rows, ["a/0", "a/1"], {})
    assert sum_rows(counts["repaired"], "source", "repair") == {("a", "joined_parts"): 2, ("a", "x"): 1}
