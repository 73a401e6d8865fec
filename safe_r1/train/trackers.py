"""Where the figures of a run go besides its own history: TensorBoard, MLflow, Weights & Biases."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from upath import UPath

from safe_r1.errors import ConfigError
from safe_r1.runs import is_local

_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes the figures of a step."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures by name, e.g. ``train/loss``."""
        ...

    def close(self) -> None:
        """Nothing comes after it."""
        ...


class TensorBoard:
    """Event files in the run's folder, of the steps that this process made."""

    def __init__(self, folder: UPath):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ConfigError(
                "trackers: tensorboard needs tensorboardX: pip install tensorboardX, or leave it out"
            ) from None
        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See ``Tracker``."""
        self.writer.close()


class MLflow:
    """A run of the MLflow server that ``MLFLOW_TRACKING_URI`` names; a resumed run goes on in the same one."""

    def __init__(self, name: str, settings: Mapping[str, Any]):
        try:
            import mlflow  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ConfigError(
                "trackers: mlflow is not installed: pip install mlflow, or leave it out"
            ) from None
        self.mlflow = mlflow
        known = mlflow.search_runs(filter_string=f"attributes.run_name = '{name}'", output_format="list")
        mlflow.start_run(run_id=known[0].info.run_id if known else None, run_name=name)
        if not known:
            mlflow.log_params({key: str(value)[:500] for key, value in settings.items()})

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self.mlflow.log_metrics(dict(figures), step=step)

    def close(self) -> None:
        """See ``Tracker``."""
        self.mlflow.end_run()


class WeightsAndBiases:
    """A run of Weights & Biases; a resumed run goes on in the same one."""

    def __init__(self, name: str, settings: Mapping[str, Any]):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ConfigError(
                "trackers: wandb is not installed: pip install wandb, or leave it out"
            ) from None
        project = os.environ.get("WANDB_PROJECT", "safe_r1")
        self.run = wandb.init(project=project, id=name, name=name, resume="allow", config=dict(settings))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self.run.log(dict(figures), step=step)

    def close(self) -> None:
        """See ``Tracker``."""
        self.run.finish()


def make_trackers(
    names: Sequence[str], run: str, folder: UPath, settings: Mapping[str, Any]
) -> list[Tracker]:
    """The trackers that were asked for.

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
            _log.warning("no TensorBoard files: they need a local folder, the run lies in %s", folder)
    return trackers
