"""`safe-r1 report` after verdicts were edited: one report never holds two truths."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from safe_r1.evaluation.publish import rewrite_report
from safe_r1.metrics.rates import find_rate, read_rates
from safe_r1.report.terminal import headline
from safe_r1.runs import RunFolder
from tests.unit.compare.runs import refusal_samples, write_run

pytestmark = pytest.mark.slow


def test_figures_and_hash_are_those_of_the_edited_verdicts(tmp_path: Path):
    run = write_run(tmp_path / "runs", "m", "asked", samples=refusal_samples(40), skill=0.5)
    folder = RunFolder(UPath(run))
    rewrite_report(str(run))
    before = folder.read_json("run.json") or {}
    rewrite_report(str(run))
    assert (folder.read_json("run.json") or {}) == before
    [shard] = (run / "verdicts").glob("*.parquet")
    table = pq.read_table(shard)
    label = table.column("label")
    edited = pa.array(["直接拒绝"] * len(label), label.type)
    pq.write_table(table.set_column(table.column_names.index("label"), "label", edited), shard)
    page = Path(rewrite_report(str(run)))
    after = folder.read_json("run.json") or {}
    assert after["results_sha256"] != before["results_sha256"]
    assert after["recomputed_at"]
    rate = find_rate(read_rates(folder.read_json("metrics.json") or {}), "rejection_rate")
    assert rate
    assert (rate.numerator, rate.denominator) == (40, 40)
    assert ">100.0<" in page.read_text("utf-8")


def test_a_run_without_any_outcome_has_rows_with_their_missing_ones_and_bounds(tmp_path: Path):
    run = write_run(tmp_path / "runs", "m", "asked", samples=refusal_samples(10), unscored=10)
    page = Path(rewrite_report(str(run))).read_text("utf-8")
    markdown = (run / "report.md").read_text("utf-8")
    table = markdown.partition("## Main results")[2].partition("Missing:")[0]
    rows = [line.split(" | ") for line in table.splitlines() if "0 / 0" in line]
    assert len(rows) == 3
    for row in rows:
        assert row[2:] == ["–", "0.0 – 100.0 [0.0, 100.0]", "0 / 0", "10", "10 |"]
    assert page.count("0 / 0") == 3
    assert "nan" not in markdown + page.partition('<script type="application/json"')[0]
    metrics = RunFolder(UPath(run)).read_json("metrics.json") or {}
    assert {each["metric"] for each in metrics["without_outcome"]} == {
        "rejection_rate",
        "responsible_rate",
        "harm_rate",
    }
    lines = list(headline(metrics))
    assert sum("none of 10 rows has an outcome" in line for line in lines) == 3
    some = write_run(tmp_path / "runs", "n", "asked", samples=refusal_samples(10), unscored=9)
    rewrite_report(str(some))
    assert "without_outcome" not in (RunFolder(UPath(some)).read_json("metrics.json") or {})
