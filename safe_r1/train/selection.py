"""Which checkpoint a run exports: the one with the lowest validation loss, or the safest in evaluations.

For the second the workers end every ``safety_check.every`` steps, so that the engine has their memory and
GPUs; as a resumed run gives the same weights, the interruptions change nothing else.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from upath import UPath

from safe_r1.progress import ProgressCallback
from safe_r1.runs import remove
from safe_r1.train.checkpoint_files import STATE_FILE, checkpoint_path, read_scores, scores_file
from safe_r1.train.config import FinetuneConfig, SafetyCheckConfig
from safe_r1.train.job import TrainJob
from safe_r1.train.spec import TrainSpec


@dataclass(frozen=True)
class SafetyScore:
    """Result of a small evaluation of one checkpoint.

    Attributes:
        refused: Share of the risky questions that it refuses, of all that were asked.
        over_refused: Share of the harmless questions that it refuses, or that have no answer.
        num_risky: Number of risky questions.
        num_harmless: Number of harmless ones.
    """

    refused: float
    over_refused: float
    num_risky: int
    num_harmless: int

    @property
    def value(self) -> float:
        """Balanced accuracy of refusing: 1 for a model that refuses all risky and no harmless questions."""
        return (self.refused + 1 - self.over_refused) / 2


Measure = Callable[[UPath, int], SafetyScore]
"""Evaluates a model folder, the export of the checkpoint after a step."""
MakeMeasure = Callable[[FinetuneConfig, UPath, ProgressCallback], Measure]
"""Makes the evaluation of a run from its settings, a folder for results, and a callback for progress."""


def check_stops(spec: TrainSpec, config: SafetyCheckConfig) -> list[TrainSpec]:
    """The run in parts, each of which ends with a checkpoint to evaluate."""
    steps = [*range(config.every, spec.num_steps, config.every), spec.num_steps]
    return [replace(spec, stop_after=step) for step in steps]


def score_checkpoint(
    job: TrainJob,
    step: int,
    measure: Measure,
    export: Callable[[UPath, UPath, ProgressCallback], None],
    on_progress: ProgressCallback,
) -> None:
    """Evaluate the checkpoint after a step, unless that was done before or it is not kept any more.

    Args:
        job: The job.
        step: The step.
        measure: Evaluates a model folder.
        export: Exports a checkpoint to a model folder.
        on_progress: Called with the progress of the export.
    """
    name = scores_file(job.config)
    assert name is not None, "checks choose the checkpoint"
    scores = job.folder.read_json(name) or {}
    checkpoint = checkpoint_path(job.folder.path / "checkpoints", step)
    if str(step) in scores or not (checkpoint / STATE_FILE).exists():
        return
    model = job.folder.path / "candidate" / f"{job.variant.name}-step-{step}"
    try:
        export(checkpoint, model, on_progress)
        score = measure(model, step)
    finally:
        remove(model.parent)
    job.folder.write_json(name, scores | {str(step): asdict(score) | {"value": score.value}})


def ends_early(job: TrainJob) -> bool:
    """True if the last ``save.patience`` evaluations were no better than one before them."""
    scores = read_scores(job.folder.path, scores_file(job.config))
    if not scores:
        return False
    best = max(scores, key=lambda step: (scores[step], -step))
    return job.config.save.ends_early(sum(step > best for step in scores))
