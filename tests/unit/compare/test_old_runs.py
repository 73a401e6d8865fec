"""Runs of schema version 1 stay readable: a stored one, and rows with tasks that were renamed since."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner
from upath import UPath

from safe_r1.cli import app
from safe_r1.compare.run import compare
from safe_r1.errors import ConfigError
from safe_r1.evaluation.publish import read_metrics, rewrite_report
from safe_r1.evaluation.results import read_results
from safe_r1.report.markdown import render_markdown
from safe_r1.runs import RunFolder
from safe_r1.schema import SAMPLE_SCHEMA
from tests.unit.compare.runs import write_run

# Eight questions, evaluated with the release before schema version 2; facts about the machine are removed.
STORED = Path(__file__).parents[2] / "data" / "run_v1" / "main" / "demo" / "chisafetybench-sample"
FORMER_GROUPS = {"mcq_shuffled": "science", "over_refusal": "compliance"}


def copy_run(output: Path, variant: str) -> Path:
    """The stored run under another variant's name."""
    folder = output / "main" / variant / STORED.name
    shutil.copytree(STORED, folder)
    for stage in ("completions", "verdicts"):
        for shard in (folder / stage).iterdir():
            table = pq.read_table(shard)
            names = pa.array([variant] * table.num_rows)
            pq.write_table(table.set_column(table.column_names.index("variant"), "variant", names), shard)
    for name in ("run.json", "metrics.json"):
        content = json.loads((folder / name).read_text("utf-8"))
        if name == "run.json":
            content["variant"]["name"] = variant
        else:
            content["variant"] = variant
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    return folder


def to_version_1(folder: Path) -> Path:
    """Rewrite a run as schema version 1 has it: other tasks, other groups."""
    for shard in (folder / "samples").iterdir():
        rows = pq.read_table(shard).to_pylist()
        for row in rows:
            added = {"name": "shuffle_options", "value": "true"}
            if added in row["metadata"]:
                row["task"] = "science"
                row["metadata"].remove(added)
            elif row["task"] == "over_refusal":
                row["task"] = "compliance"
        pq.write_table(pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA), shard)
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text("utf-8"))
    metrics["schema_version"] = 1
    metrics["counts"] = {
        FORMER_GROUPS.get(group, group): counts for group, counts in metrics["counts"].items()
    }
    path.write_text(json.dumps(metrics, ensure_ascii=False), "utf-8")
    return folder


def markdown_of(folder: Path) -> str:
    run = RunFolder(UPath(folder))
    samples, _, _ = read_results(run)
    return render_markdown(samples, read_metrics(run), {"benchmark": folder.name})


def test_the_report_of_a_stored_run_has_the_figures_and_the_judge_of_its_time(tmp_path: Path):
    folder = copy_run(tmp_path, "demo")
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0, result.output
    assert "report.html" in result.output
    markdown = (folder / "report.md").read_text("utf-8")
    assert "| Accuracy | 20.0 [3.6, 62.4] | – | 0.0 [0.0, 43.4] | 1 / 5 | 0 | 5 |" in markdown
    assert "| Harm rate HR | 100.0 [43.9, 100.0] | – | nothing is left | 3 / 3 | 0 | 3 |" in markdown
    # Its figures of then said "truncated 0".
    assert "8 of 8 completions were cut by the token limit" in markdown
    assert "8 questions only (--limit)" in markdown
    assert "- **Judge**: lexicon. Agreement with labelled answers: a small classifier" in markdown
    assert "Risk identification (multiple choice)" in markdown
    page = (folder / "report.html").read_text("utf-8")
    assert "<b>lexicon</b>" in page
    assert "风险内容识别（选择题）" in page


@pytest.mark.slow
def test_stored_runs_can_be_compared(tmp_path: Path):
    for variant in ("demo", "other"):
        copy_run(tmp_path / "runs", variant)
    output = tmp_path / "report"
    arguments = ["compare", str(tmp_path / "runs"), "--baseline", "demo", "--output", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "demo → other (against the baseline)" in result.output
    assert "Accuracy                          20.0 →  20.0 %" in result.output
    assert "mismatch" not in result.output
    assert "judge lexicon@a8d59732" in (output / "report.md").read_text("utf-8")


@pytest.mark.slow
def test_a_stored_run_compares_with_one_of_today_by_the_same_judge(tmp_path: Path):
    copy_run(tmp_path / "runs", "demo")
    other = copy_run(tmp_path / "runs", "other")
    info = json.loads((other / "run.json").read_text("utf-8"))
    identity = "a8d59732" + "0" * 56
    info["fingerprint"]["judge"] = {"name": "lexicon", "identity": identity, "parts": ["answer", "reasoning"]}
    (other / "run.json").write_text(json.dumps(info), "utf-8")
    assert not compare([str(tmp_path / "runs")], "demo", str(tmp_path / "report")).data.problems
    info["fingerprint"]["judge"]["identity"] = "b" * 64
    (other / "run.json").write_text(json.dumps(info), "utf-8")
    with pytest.raises(ConfigError, match=r"judge of other is \[judge lexicon@bbbbbbbb, parts"):
        compare([str(tmp_path / "runs")], "demo", str(tmp_path / "report"))


@pytest.mark.parametrize(
    ("benchmark", "metric"),
    [("gpqa-diamond", "pass@1"), ("xstest", "Unsafe prompts refused, full or partial")],
)
def test_former_tasks_are_read_as_todays(tmp_path: Path, benchmark: str, metric: str):
    today = write_run(tmp_path / "runs", "a", benchmark)
    former = to_version_1(write_run(tmp_path / "former", "a", benchmark))
    assert pq.read_table(next((former / "samples").iterdir())).column("task")[0].as_py() in (
        "science",
        "compliance",
    )
    assert markdown_of(former) == markdown_of(today)
    assert metric in markdown_of(former)


@pytest.mark.slow
def test_a_run_of_version_1_compares_with_one_of_today(tmp_path: Path):
    for benchmark in ("gpqa-diamond", "xstest"):
        to_version_1(write_run(tmp_path / "runs", "a", benchmark, skill=0.4))
        write_run(tmp_path / "runs", "b", benchmark, skill=0.8)
    report = compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"))
    assert not report.data.problems
    metrics = {each.metric for each in report.data.comparisons}
    assert {"pass_at_1", "over_refusal_rate", "unsafe_refusal_rate"} <= metrics
    links = {cell.link for table in report.data.tables for *_, cells in table.rows for cell in cells}
    assert any("#task=mcq_shuffled" in link for link in links)
    assert any("#task=over_refusal" in link for link in links)


def test_a_report_after_edited_verdicts_has_the_figures_of_today(tmp_path: Path):
    folder = copy_run(tmp_path, "demo")
    for shard in (folder / "verdicts").iterdir():
        rows = pq.read_table(shard).to_pylist()
        for row in rows:
            if row["label"] == "incorrect":
                row["label"] = "correct"
        pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(shard)), shard)
    rewrite_report(str(folder))
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert metrics["schema_version"] == 3
    accuracy = next(rate for rate in metrics["rates"] if rate["metric"] == "accuracy")
    assert (accuracy["numerator"], accuracy["denominator"]) == (5, 5)
    assert "| Accuracy | 100.0 [56.6, 100.0] |" in (folder / "report.md").read_text("utf-8")
