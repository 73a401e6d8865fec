"""What is published: nothing where a rate has nothing behind it, and exports before the marker."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from upath import UPath

from safe_r1.config import EvaluateConfig
from safe_r1.errors import ConfigError, NoResultError, RunConflictError
from safe_r1.evaluation.publish import check_published
from safe_r1.evaluation.results import completion_key, read_completions, read_verdicts, verdict_key
from safe_r1.evaluation.sample_index import store_samples
from safe_r1.evaluation.stage_index import index_completions, index_verdicts
from safe_r1.evaluation.units import scoring_units
from safe_r1.metrics.coverage import CoverageFold
from safe_r1.metrics.rows import ScoredRow
from safe_r1.report.export import export_run
from safe_r1.runs import read_table
from safe_r1.schema import COMPLETION_SCHEMA, VERDICT_SCHEMA, Completion, Sample, Verdict
from safe_r1.settings import load_config
from tests.unit.evaluation.published import NAME, make_plan, publish_here, results_of, scored_rows, unscored


def test_labels_are_published(tmp_path: Path):
    plan = make_plan(tmp_path, {NAME: scored_rows()})
    [result] = results = results_of(plan)
    publish_here(plan, results)
    check_published(results)
    assert result.folder.is_complete
    assert result.exports == []


@pytest.mark.parametrize("task", ["mcq", "refusal"])
@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("truncated", "larger generation.max_tokens (now 48; engine.max_model_len, now 1024"),
        ("blocked", "another endpoint"),
        ("no_verdict", "another --judge: the same completions are judged again"),
        ("judge_error", "the same command tries these rows again"),
        ("empty", "look at the answers in"),
    ],
)
def test_a_task_without_a_label_is_no_result(task: str, reason: str, remedy: str, tmp_path: Path):
    rows = unscored(scored_rows(), task, reason)
    plan = make_plan(tmp_path, {NAME: rows}, export=["csv"])
    [result] = results = results_of(plan)
    publish_here(plan, results)
    with pytest.raises(NoResultError) as error:
        check_published(results)
    message = str(error.value)
    num = {"mcq": 8, "refusal": 6}[task]
    assert f"0 of {num} answers of task {task} have a label ({num} {reason})" in message
    assert remedy in message
    assert str(result.folder.path) in message
    assert "\n" not in message
    assert error.value.exit_code == 3
    assert not result.folder.is_complete
    assert not (result.folder.path / "results.csv").exists()
    assert result.folder.read_json("metrics.json") is None
    assert len(read_completions(result.folder)) == len(rows[1])
    assert len(read_verdicts(result.folder)) == len(rows[2])


@pytest.mark.slow
def test_one_benchmark_without_a_result_holds_back_no_other(tmp_path: Path):
    rows = {"first": unscored(scored_rows(), "mcq", "truncated"), "second": scored_rows()}
    plan = make_plan(tmp_path, rows)
    first, second = results = results_of(plan)
    publish_here(plan, results)
    assert not first.folder.is_complete
    assert second.folder.is_complete
    with pytest.raises(NoResultError, match="first: not published"):
        check_published(results)


@pytest.mark.slow
@pytest.mark.parametrize(("floor", "is_published"), [(0.0, True), (0.25, True), (0.26, False), (1.0, False)])
def test_the_floor_of_labels_is_a_setting(floor: float, is_published: bool, tmp_path: Path):
    rows = unscored(scored_rows(), "mcq", "truncated", keep=2)
    plan = make_plan(tmp_path, {NAME: rows}, min_scored_share=floor)
    [result] = results = results_of(plan)
    publish_here(plan, results)
    assert result.folder.is_complete == is_published
    if not is_published:
        assert "2 of 8 answers of task mcq have a label (6 truncated, min_scored_share=" in result.problem
        assert "lower min_scored_share" in result.problem
        # It is no part of the fingerprint, so that a lower one publishes the same rows.
        lower = make_plan(tmp_path, {NAME: rows}, min_scored_share=0.25)
        again = results_of(lower)
        publish_here(lower, again)
        check_published(again)
        assert result.folder.is_complete


def test_harmless_and_harmful_requests_are_covered_apart():
    def sample(number: int, area: str) -> Sample:
        return Sample(f"x/{number}", "xstest", "over_refusal", area, area, [{"role": "user", "content": "q"}])

    samples = [sample(0, "safe"), sample(1, "unsafe"), sample(2, "unsafe")]
    labelled = Verdict("x/1", "v", 0, "answer", "full refusal", 2, "j", None)
    verdicts = [
        replace(labelled, sample_id="x/0", label=None, degree=None, unscored_reason="truncated"),
        labelled,
        replace(labelled, sample_id="x/2"),
    ]
    completion = Completion("x/0", "v", 0, 1, 1, "", "", "a", "stop", None)
    fold = CoverageFold()
    fold.add(ScoredRow(*each) for each in zip(samples, [completion] * 3, verdicts, strict=True))
    assert [(each.name, each.num_rows, each.num_scored) for each in fold.result()] == [
        ("over_refusal/safe", 1, 0),
        ("over_refusal/unsafe", 2, 2),
    ]


def test_the_remedies_work(tmp_path: Path):
    """Another limit of tokens is another run; without its verdicts, a run may get another judge."""
    plan = make_plan(tmp_path, {NAME: unscored(scored_rows(), "refusal", "no_verdict")})
    folder = plan.folders[NAME]
    fingerprint = {"seed": 0, "generation": {"max_tokens": [48]}, "judge": {"name": "a"}}
    folder.write_json("run.json", {"fingerprint": fingerprint})
    with pytest.raises(RunConflictError, match="--set run=NAME"):
        folder.open({**fingerprint, "generation": {"max_tokens": [96]}}, {}, mutable=())
    shutil.rmtree(Path(folder.path.path) / "verdicts")
    assert read_verdicts(folder) == {}
    folder.open({**fingerprint, "judge": {"name": "b"}}, {}, mutable=("judge",))
    assert len(read_completions(folder)) == 14


def test_a_completion_that_failed_and_came_later_is_scored(tmp_path: Path):
    samples, completions, verdicts = unscored(scored_rows(), "mcq", "failed")
    mcq = [each.sample_id for each in samples if each.task == "mcq"]
    lost = [
        replace(each, answer=None, error="lost") if each.sample_id in mcq else each for each in completions
    ]
    plan = make_plan(tmp_path, {NAME: (samples, lost, verdicts)}, max_failed_share=0.9)
    folder = plan.folders[NAME]
    retried = [asdict(each) for each in completions if each.sample_id in mcq]
    folder.write_shard("completions", retried, COMPLETION_SCHEMA, completion_key)
    index = store_samples(folder, samples)
    stages = (index_completions(folder, index), index_verdicts(folder, index))
    units = scoring_units(NAME, index, *stages, num_repeats=1, parts=("answer", "reasoning"))
    pending = [each for unit in units for each in unit.read()]
    assert sorted(each.sample.sample_id for each in pending) == sorted(mcq)
    assert all(each.completion.error is None for each in pending)
    _, _, scored = scored_rows()
    found = [asdict(each) for each in scored if each.sample_id in mcq]
    folder.write_shard("verdicts", found, VERDICT_SCHEMA, verdict_key)
    assert {row["unscored_reason"] for row in read_verdicts(folder).values()} == {None}
    [file] = export_run(folder, ["parquet"], UPath(tmp_path) / "out")
    assert file.num_rows == 14
    assert not any(row["failed"] for row in read_table(file.path).to_pylist())


def test_exports_are_written_before_the_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = make_plan(tmp_path, {NAME: scored_rows()}, export=["csv", "parquet"])
    [result] = results = results_of(plan)

    def publish_marker(folder):
        assert {"results.csv", "results.parquet"} <= {path.name for path in folder.path.iterdir()}

    monkeypatch.setattr(type(result.folder), "publish", publish_marker)
    publish_here(plan, results)
    assert [each.path.name for each in result.exports] == ["results.csv", "results.parquet"]
    assert [each.num_rows for each in result.exports] == [14, 14]


@pytest.mark.parametrize("value", ["csv,xlsx", ["csv", "xlsx"], ["csv, xlsx", "csv"]])
def test_formats_come_as_a_list_or_with_commas(value: object):
    assert load_config(EvaluateConfig, None, [], variant="v", export=value).export == ("csv", "xlsx")


def test_formats_as_settings():
    assert load_config(EvaluateConfig, None, ["variant=v", "export=csv,xlsx"]).export == ("csv", "xlsx")
    with pytest.raises(ConfigError, match="export"):
        load_config(EvaluateConfig, None, ["variant=v", "export=xls"])
