"""Trackers: TensorBoard for real; MLflow and Weights & Biases by fakes that record what they are sent."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboardX.proto import event_pb2
from upath import UPath

from safe_r1.config import TrackerName
from safe_r1.errors import ConfigError
from safe_r1.report.trackers import check_trackers, make_trackers

ROWS = [{"metric": "accuracy", "percent": 50.0}, {"metric": "harm_rate|x", "percent": None}]


class FakeMLflow(ModuleType):
    """Records calls; knows the runs that were started before."""

    def __init__(self):
        super().__init__("mlflow")
        self.calls: list[tuple[str, Any]] = []
        self.known: list[str] = []

    def search_runs(self, filter_string: str, output_format: str) -> list[Any]:
        name = filter_string.split("'")[1]
        return [SimpleNamespace(info=SimpleNamespace(run_id=f"id-{name}"))] if name in self.known else []

    def start_run(self, run_id: str | None, run_name: str) -> None:
        self.calls.append(("start", run_id))
        self.known.append(run_name)

    def log_params(self, params: dict[str, str]) -> None:
        self.calls.append(("params", params))

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        assert len(metrics) <= 1000
        self.calls.append(("metrics", metrics))

    def log_dict(self, content: dict[str, list[Any]], artifact_file: str) -> None:
        self.calls.append((artifact_file, content))

    def end_run(self) -> None:
        self.calls.append(("end", None))


class FakeWandb(ModuleType):
    """Records what a run logs."""

    def __init__(self):
        super().__init__("wandb")
        self.logged: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}

    def init(self, **settings: Any) -> "FakeWandb":
        self.settings = settings
        return self

    def Table(self, columns: list[str], data: list[list[Any]]) -> tuple[list[str], list[list[Any]]]:
        return columns, data

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.logged.append({})


@pytest.mark.parametrize("name", ["mlflow", "wandb", "tensorboard"])
def test_one_that_is_missing_is_named_before_any_work(name: TrackerName, monkeypatch: pytest.MonkeyPatch):
    for module in ("mlflow", "wandb", "tensorboardX"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"trackers: {name} needs .* pip install") as error:
        check_trackers([name])
    assert "\n" not in str(error.value)


def test_mlflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    check_trackers(["mlflow"])
    for _ in range(2):
        [tracker] = make_trackers(["mlflow"], "main", UPath(tmp_path), {"judge": {"kind": "x" * 900}})
        tracker.log(0, {f"m{number}": 1.0 for number in range(1500)})
        tracker.log_table("rates", ROWS)
        tracker.close()
    starts = [value for name, value in fake.calls if name == "start"]
    assert starts == [None, "id-main"]
    params = [value for name, value in fake.calls if name == "params"]
    assert [len(each["judge"]) for each in params] == [500]
    assert sum(len(value) for name, value in fake.calls if name == "metrics") == 3000
    assert fake.calls[-2] == (
        "rates.json",
        {"metric": ["accuracy", "harm_rate|x"], "percent": [50.0, None]},
    )


def test_weights_and_biases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    [tracker] = make_trackers(["wandb"], "main", UPath(tmp_path), {"seed": 0})
    tracker.log(0, {"answer/accuracy": 0.5})
    tracker.log_table("rates", ROWS)
    tracker.close()
    assert fake.settings["id"] == "main"
    assert fake.logged == [
        {"answer/accuracy": 0.5},
        {"rates": (["metric", "percent"], [["accuracy", 50.0], ["harm_rate|x", None]])},
        {},
    ]


def events(folder: Path) -> list[Any]:
    """Values in TensorBoard's event files, in order."""
    values = []
    for file in sorted(folder.rglob("events*")):
        content = file.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            values += event_pb2.Event.FromString(content[12 : 12 + size]).summary.value  # pyright: ignore[reportAttributeAccessIssue]
            content = content[12 + size + 4 :]
    return values


def test_tensorboard(tmp_path: Path):
    [tracker] = make_trackers(["tensorboard"], "main", UPath(tmp_path), {})
    tracker.log(0, {"answer/accuracy": 0.5})
    tracker.log_table("rates", ROWS)
    tracker.close()
    scalar, text = events(tmp_path / "tensorboard")
    assert (scalar.tag, scalar.simple_value) == ("answer/accuracy", 0.5)
    assert text.tag.startswith("rates")
    table = text.tensor.string_val[0].decode()
    assert table.splitlines() == [
        "| metric | percent |",
        "| --- | --- |",
        "| accuracy | 50.0 |",
        "| harm\\_rate\\|x | None |",
    ]


def test_tensorboard_needs_a_local_folder():
    assert make_trackers(["tensorboard"], "main", UPath("memory://somewhere"), {}) == []
