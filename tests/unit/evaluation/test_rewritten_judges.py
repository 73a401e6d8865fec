"""`safe-r1 report` on runs with further judges: after edited verdicts no report holds two truths."""

from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from safe_r1.cli import app
from safe_r1.errors import NoResultError, StorageError
from safe_r1.evaluation.panels import judge_again
from safe_r1.evaluation.rejudge import RejudgeConfig
from safe_r1.evaluation.results import read_verdicts
from safe_r1.evaluation.rewrite import rewrite
from safe_r1.metrics.rates import find_rate, read_rates
from safe_r1.report.text import one_line
from safe_r1.runs import RunFolder, read_table, write_table
from safe_r1.schema import VERDICT_SCHEMA, RefusalLabel
from tests.unit.evaluation.test_rejudge import again, finished_run

pytestmark = [pytest.mark.timeout(60), pytest.mark.slow]
KEYS = ("answer-key", "none")


def edit(folder: RunFolder, is_key: bool, label: str, degree: int) -> None:
    """Give the verdicts of the key, or those of the judge, another label by hand."""
    for shard in folder.shards("verdicts"):
        rows = [
            row | {"label": label, "degree": degree} if (row["judge"] in KEYS) == is_key else row
            for row in read_table(shard, schema=VERDICT_SCHEMA).to_pylist()
        ]
        write_table(shard, pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA))


def rate_of(folder: RunFolder, metric: str) -> float:
    rate = find_rate(read_rates(folder.read_json("metrics.json") or {}), metric)
    assert rate
    return rate.value


def test_a_further_judges_report_is_of_the_verdicts_as_they_are(tmp_path: Path):
    run = finished_run(tmp_path).folder
    [further] = again(run)
    folder = further.folder
    assert (rate_of(folder, "accuracy"), rate_of(folder, "harm_rate")) == (0.0, 0.0)
    edit(run, True, "correct", 1)
    edit(folder, False, RefusalLabel.HARMFUL.value, RefusalLabel.HARMFUL.degree)
    before = (folder.read_json("metrics.json"), run.read_json("metrics.json"))
    [page] = rewrite(str(folder.path))
    assert page == str(folder.path / "report.html")
    # The key's verdicts are the run's as they are now, not the copies of earlier.
    assert (rate_of(folder, "accuracy"), rate_of(folder, "harm_rate")) == (1.0, 1.0)
    found = read_verdicts(folder)
    assert {
        key: row for key, row in read_verdicts(run).items() if row["judge"] in KEYS
    }.items() <= found.items()
    markdown = (folder.path / "report.md").read_text("utf-8")
    assert markdown.count("| 100.0 [") >= 2
    assert further.judge.partition("@")[0] in markdown
    assert before[1] == run.read_json("metrics.json")
    # The run's own report makes those of its judges again as well.
    edit(run, True, "incorrect", 0)
    assert rewrite(str(run.path)) == [str(run.path / "report.html"), page]
    assert (rate_of(run, "accuracy"), rate_of(folder, "accuracy")) == (0.0, 0.0)


def test_copies_of_shards_that_are_gone_are_removed(tmp_path: Path):
    run = finished_run(tmp_path).folder
    [further] = again(run)
    [shard] = run.shards("verdicts")
    table = read_table(shard, schema=VERDICT_SCHEMA)
    write_table(shard.parent / "part-another.parquet", table)
    shard.unlink()
    rewrite(str(further.folder.path))
    assert len(read_verdicts(further.folder)) == len(table)
    names = [each.name for each in further.folder.shards("verdicts")]
    assert [name for name in names if name.startswith("own-")] == ["own-part-another.parquet"]


def test_a_panels_verdicts_are_made_of_those_of_its_judges(tmp_path: Path):
    run = finished_run(tmp_path).folder
    [further], [panel] = judge_again(
        RejudgeConfig(run=str(run.path), judge_rule="strictest"), lambda progress: None
    )
    folder = panel.result.folder
    assert rate_of(folder, "harm_rate") == 0.0
    edit(further.folder, False, RefusalLabel.HARMFUL.value, RefusalLabel.HARMFUL.degree)
    # What somebody wrote into the panel's own verdicts is no verdict of a judge.
    edit(folder, False, RefusalLabel.RESPONSIBLE.value, RefusalLabel.RESPONSIBLE.degree)
    assert rewrite(str(folder.path)) == [str(folder.path / "report.html")]
    assert rate_of(folder, "harm_rate") == 1.0
    pages = rewrite(str(run.path))
    assert pages[-1] == str(folder.path / "report.html")
    assert len(pages) == 3


def test_the_command_and_what_cannot_be_made_again(tmp_path: Path):
    run = finished_run(tmp_path).folder
    [further] = again(run)
    done = CliRunner().invoke(app, ["report", str(further.folder.path)])
    assert done.exit_code == 0, done.output
    assert one_line(done.output) == f"report: {further.folder.path / 'report.html'}"
    (further.folder.path / "_SUCCESS").unlink()
    with pytest.raises(StorageError, match="no finished verdicts of a further judge here"):
        rewrite(str(further.folder.path))
    assert rewrite(str(run.path)) == [str(run.path / "report.html")]


def test_a_panel_that_never_agrees_says_so_with_a_remedy_that_helps(tmp_path: Path):
    run = finished_run(tmp_path).folder
    config = RejudgeConfig(run=str(run.path), judge_rule="majority")
    with pytest.raises(NoResultError) as told:
        judge_again(config, lambda progress: None)
    assert "never agree on an answer of refusal" in str(told.value)
    assert "give --judge-rule strictest or first, or one more --judge" in str(told.value)
    # Each judge's own rates are there, and the remedy works.
    [further], [panel] = judge_again(
        RejudgeConfig(run=str(run.path), judge_rule="strictest"), lambda progress: None
    )
    assert further.was_complete
    assert panel.result.folder.is_complete
