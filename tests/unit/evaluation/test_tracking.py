"""What experiment trackers receive of an evaluation."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from safe_r1.errors import ConfigError, StorageError
from safe_r1.evaluation.publish import BenchmarkResult
from safe_r1.evaluation.tracking import flat_metrics, metric_tables, record_results, run_name
from safe_r1.metrics.rates import compute_metrics, read_rates
from tests.unit.evaluation.published import NAME, make_plan, publish_here, results_of, scored_rows
from tests.unit.report.report_rows import make_rows
from tests.unit.report.test_trackers import FakeMLflow, FakeWandb, events


def published(tmp_path: Path, **settings: Any):
    plan = make_plan(tmp_path, {NAME: scored_rows()}, **settings)
    results = results_of(plan)
    publish_here(plan, results)
    for result in results:
        result.metrics = result.folder.read_json("metrics.json") or {}
    return plan.config, results


def test_every_rate_and_count_is_a_metric():
    metrics = compute_metrics(*make_rows(30, 20, repeats=2, swapped=True))
    flat = flat_metrics(metrics)
    rates = read_rates(metrics)
    overall = [rate for rate in rates if rate.scope == "overall"]
    assert len(flat) >= len(rates) + 2 * len(overall)
    for rate in overall:
        assert flat[f"{rate.part}/{rate.metric}"] == rate.value
        assert flat[f"{rate.part}/{rate.metric}.low"] <= rate.value <= flat[f"{rate.part}/{rate.metric}.high"]
    assert flat["counts/mcq/num_rows"] == 60
    # What MLflow takes as a name.
    assert all(re.fullmatch(r"[/\w.\- :]+", name) for name in flat)


def test_own_categories_may_have_any_name():
    samples, completions, verdicts = make_rows(4, 0)
    metrics = compute_metrics(samples, completions, verdicts)
    for rate in metrics["rates"]:
        if rate["scope"] == "category":
            rate["key"] = "诈骗（电信）?"
    assert "answer/accuracy/category/诈骗_电信__" in flat_metrics(metrics)


def test_tables_have_numerator_denominator_and_interval():
    metrics = compute_metrics(*make_rows(10, 10))
    tables = metric_tables(NAME, metrics, {})
    assert len(tables["rates"]) == len(metrics["rates"])
    assert all(list(row) == list(tables["rates"][0]) for row in tables["rates"])
    assert {row["task"]: row["rows"] for row in tables["counts"]} == {"mcq": 10, "refusal": 10}
    names = {row["key_zh"] for row in tables["rates"] if row["scope"] == "category"}
    assert "年龄歧视" in names


def test_nothing_is_sent_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mlflow", FakeMLflow())
    config, results = published(tmp_path)
    assert config.trackers == ()
    record_results(config, results)
    assert not (results[0].folder.path / "tensorboard").exists()


def test_all_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow = FakeMLflow()
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config, results = published(tmp_path, trackers=("tensorboard", "mlflow", "wandb"))
    record_results(config, results)
    expected = flat_metrics(results[0].metrics)
    assert [value for name, value in mlflow.calls if name == "metrics"] == [expected]
    assert {name for name, _ in mlflow.calls} >= {"rates.json", "counts.json", "end"}
    assert wandb.logged[0] == expected
    assert re.fullmatch(r"main-r1-distill-qwen-7b-chisafetybench-[0-9a-f]{8}", wandb.settings["id"])
    tags = {value.tag for value in events(Path(results[0].folder.path.path) / "tensorboard")}
    assert set(expected) <= tags


def test_the_name_tells_settings_apart(tmp_path: Path):
    config, [result] = published(tmp_path)
    names = {run_name(config, result, {"fingerprint": {"seed": seed}}) for seed in (0, 0, 1)}
    assert len(names) == 2
    hostile = BenchmarkResult("a/b:'c", result.folder, {"variant": "模型 x"})
    assert re.fullmatch(r"[A-Za-z0-9._-]+", run_name(config, hostile, {}))


def test_a_server_that_is_down_is_one_line_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow = FakeMLflow()

    class ServerError(Exception):
        """As MLflow's, of no common kind."""

    def fail(**_: object) -> None:
        raise ServerError("connection refused\nby the server")

    monkeypatch.setattr(mlflow, "search_runs", fail)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    config, results = published(tmp_path, trackers=("mlflow",))
    with pytest.raises(
        StorageError, match=r"did not take .* connection refused; they are published"
    ) as error:
        record_results(config, results)
    assert "\n" not in str(error.value)
    assert results[0].folder.is_complete


def test_a_missing_package_stays_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config, results = published(tmp_path, trackers=("wandb",))
    with pytest.raises(ConfigError, match="pip install wandb"):
        record_results(config, results)
