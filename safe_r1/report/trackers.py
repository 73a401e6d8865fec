"""Experiment trackers that receive a run's metrics and tables: TensorBoard, MLflow, Weights & Biases.

The ``trackers`` setting of training and of evaluation names them.
"""

import importlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from upath import UPath

from safe_r1.config import TrackerName
from safe_r1.errors import ConfigError
from safe_r1.redaction import hide_secrets
from safe_r1.report.text import markdown_text
from safe_r1.runs import is_local

_log = logging.getLogger(__name__)

# Older MLflow servers reject longer parameter values.
_MAX_PARAM_CHARS = 500
# Servers reject more metrics in one request.
_MAX_BATCH = 1000

Table = Sequence[Mapping[str, str | int | float | None]]
"""Rows of a table; each has the same columns in the same order."""

# What is imported and what is to be installed for each tracker.
_PACKAGES: dict[TrackerName, tuple[str, str]] = {
    "tensorboard": ("tensorboardX", "tensorboardX"),
    "mlflow": ("mlflow", "mlflow"),
    "wandb": ("wandb", "wandb"),
}


class Tracker(Protocol):
    """Receives the metrics of each step, and tables."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics by name, e.g. ``train/loss``."""
        ...

    def log_table(self, name: str, rows: Table) -> None:
        """Log a table of at least one row; a later one of the same name replaces it."""
        ...

    def close(self) -> None:
        """Finish; nothing is logged afterwards."""
        ...


class TensorBoard:
    """Event files in the run's folder, with the steps of this process."""

    def __init__(self, folder: UPath):
        self.writer = _library("tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def log_table(self, name: str, rows: Table) -> None:
        """See ``Tracker``; TensorBoard shows Markdown."""
        head = list(rows[0])
        lines = [
            head,
            ["---"] * len(head),
            *([markdown_text(value) for value in row.values()] for row in rows),
        ]
        self.writer.add_text(name, "\n".join(f"| {' | '.join(line)} |" for line in lines), 0)

    def close(self) -> None:
        """See ``Tracker``."""
        self.writer.close()


class MLflow:
    """A run on the MLflow server that ``MLFLOW_TRACKING_URI`` names; resuming continues the same run."""

    def __init__(self, name: str, settings: Mapping[str, object]):
        mlflow = _library("mlflow")
        self.mlflow = mlflow
        # A resumed run has the same name and continues the same MLflow run.
        known = mlflow.search_runs(filter_string=f"attributes.run_name = '{name}'", output_format="list")
        mlflow.start_run(run_id=known[0].info.run_id if known else None, run_name=name)
        if not known:
            mlflow.log_params({key: str(value)[:_MAX_PARAM_CHARS] for key, value in settings.items()})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        items = list(metrics.items())
        for start in range(0, len(items), _MAX_BATCH):
            self.mlflow.log_metrics(dict(items[start : start + _MAX_BATCH]), step=step)

    def log_table(self, name: str, rows: Table) -> None:
        """See ``Tracker``."""
        content = {column: [row[column] for row in rows] for column in rows[0]}
        # Unlike `log_table`, which would add the rows to those of an earlier session.
        self.mlflow.log_dict(content, f"{name}.json")

    def close(self) -> None:
        """See ``Tracker``."""
        self.mlflow.end_run()


class WeightsAndBiases:
    """A run of Weights & Biases; resuming continues the same run."""

    def __init__(self, name: str, settings: Mapping[str, object]):
        wandb = _library("wandb")
        self.wandb = wandb
        project = os.environ.get("WANDB_PROJECT", "safe_r1")
        self.run = wandb.init(project=project, id=name, name=name, resume="allow", config=dict(settings))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self.run.log(dict(metrics), step=step)

    def log_table(self, name: str, rows: Table) -> None:
        """See ``Tracker``."""
        data = [list(row.values()) for row in rows]
        self.run.log({name: self.wandb.Table(columns=list(rows[0]), data=data)})

    def close(self) -> None:
        """See ``Tracker``."""
        self.run.finish()


def _library(name: TrackerName) -> Any:
    """A tracker's library, which is loaded only where it is wanted.

    Raises:
        ConfigError: It is not installed.
    """
    module, package = _PACKAGES[name]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"trackers: {name} needs {package}, which is not installed: pip install {package}, or leave "
            f"{name} out"
        ) from None


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Check that the trackers are installed, before hours of work whose metrics they are to receive.

    Raises:
        ConfigError: One is not.
    """
    for name in names:
        _library(name)


def make_trackers(
    names: Sequence[TrackerName], run: str, folder: UPath, settings: Mapping[str, object]
) -> list[Tracker]:
    """The requested trackers.

    Args:
        names: ``tensorboard``, ``mlflow``, ``wandb``.
        run: Name of the run.
        folder: Folder of the run.
        settings: Settings of the run, for the trackers to show without secrets.

    Raises:
        ConfigError: One is not installed.
    """
    settings = hide_secrets(settings)
    trackers: list[Tracker] = []
    for name in names:
        if name == "mlflow":
            trackers.append(MLflow(run, settings))
        elif name == "wandb":
            trackers.append(WeightsAndBiases(run, settings))
        elif is_local(folder):
            trackers.append(TensorBoard(folder))
        else:
            _log.warning("no TensorBoard files: they need a local folder, the run is in %s", folder)
    return trackers
