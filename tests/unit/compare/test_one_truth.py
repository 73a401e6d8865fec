"""A comparison speaks of one set of rows, and says what it does not compare."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safe_r1.compare.run import compare
from safe_r1.errors import DataError
from safe_r1.evaluation.publish import rewrite_report
from safe_r1.gate.policy import load_policy
from safe_r1.gate.run import run_gate
from tests.unit.compare.runs import refusal_samples, write_run

pytestmark = pytest.mark.slow


def label_all(run: Path, label: str) -> None:
    """Edit the verdicts of a run by hand."""
    [shard] = (run / "verdicts").glob("*.parquet")
    table = pq.read_table(shard)
    place = table.column_names.index("label")
    labels = pa.array([label] * len(table), table.schema.field(place).type)
    pq.write_table(table.set_column(place, "label", labels), shard)


def compared(runs: Path) -> object:
    return compare([str(runs)], "a", str(runs.parent / "report")).data.comparisons


def gated(runs: Path) -> object:
    return run_gate([str(runs / "main" / "b")], load_policy(None, ["rr-1=50"], [])).checks


@pytest.mark.parametrize("call", [compared, gated])
def test_rates_of_rows_that_were_edited_since_are_refused(tmp_path: Path, call: Callable[[Path], object]):
    runs = tmp_path / "runs"
    for variant in ("a", "b"):
        run = write_run(runs, variant, "asked", samples=refusal_samples(40))
        rewrite_report(str(run))
    assert call(runs)
    label_all(run, "直接拒绝")
    with pytest.raises(DataError, match="run safe-r1 report on it first"):
        call(runs)
    rewrite_report(str(run))
    assert call(runs)
