"""Experiment trackers that receive a run's metrics: TensorBoard, MLflow, Weights & Biases."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from upath import UPath

from safe_r1.errors import ConfigError
from safe_r1.runs import is_local

_log = logging.getLogger(__name__)

# Older MLflow servers reject longer parameter values.
_MAX_PARAM_CHARS = 500


class Tracker(Protocol):
    """Receives the metrics of each step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics by name, e.g. ``train/loss``."""
        ...

    def close(self) -> None:
        """Finish; nothing is logged afterwards."""
        ...


class TensorBoard:
    """Event files in the run's folder, with the steps of this process."""

    def __init__(self, folder: UPath):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ConfigError(
                "trackers: tensorboard needs tensorboardX: pip install tensorboardX, or leave it out"
            ) from None
        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See ``Tracker``."""
        self.writer.close()


class MLflow:
    """A run on the MLflow server that ``MLFLOW_TRACKING_URI`` names; resuming continues the same run."""

    def __init__(self, name: str, settings: Mapping[str, object]):
        try:
            import mlflow  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ConfigError(
                "trackers: mlflow is not installed: pip install mlflow, or leave it out"
            ) from None
        self.mlflow = mlflow
        # A resumed run has the same name and continues the same MLflow run.
        known = mlflow.search_runs(filter_string=f"attributes.run_name = '{name}'", output_format="list")
        mlflow.start_run(run_id=known[0].info.run_id if known else None, run_name=name)
        if not known:
            mlflow.log_params({key: str(value)[:_MAX_PARAM_CHARS] for key, value in settings.items()})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self.mlflow.log_metrics(dict(metrics), step=step)

    def close(self) -> None:
        """See ``Tracker``."""
        self.mlflow.end_run()


class WeightsAndBiases:
    """A run of Weights & Biases; resuming continues the same run."""

    def __init__(self, name: str, settings: Mapping[str, object]):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ConfigError(
                "trackers: wandb is not installed: pip install wandb, or leave it out"
            ) from None
        project = os.environ.get("WANDB_PROJECT", "safe_r1")
        self.run = wandb.init(project=project, id=name, name=name, resume="allow", config=dict(settings))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        """See ``Tracker``."""
        self.run.finish()


def make_trackers(
    names: Sequence[str], run: str, folder: UPath, settings: Mapping[str, object]
) -> list[Tracker]:
    """The requested trackers.

    Args:
        names: ``tensorboard``, ``mlflow``, ``wandb``.
        run: Name of the run.
        folder: Folder of the run.
        settings: Settings of the run, for the trackers to show.

    Raises:
        ConfigError: One is not installed.
    """
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
