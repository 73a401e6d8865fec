"""What the workers of a fine-tuning run are told."""

from dataclasses import dataclass

from safe_r1.models.registry import Layout, States
from safe_r1.train.config import FinetuneConfig
from safe_r1.train.model import ModelSpec


@dataclass(frozen=True)
class TrainSpec:
    """Everything that a worker needs; picklable.

    Attributes:
        config: The settings.
        model: The model to load.
        layout: The variant's layout, for parallel sizes that the settings leave open.
        states: Data type of the optimizer's moments.
        micro_batch_size: Sequences of a micro-batch.
        device: ``cpu`` or ``cuda``.
        data: Folder of the packed sequences.
        folder: Folder of the run.
        num_steps: Optimizer steps of the whole run.
        flops_per_token: FLOPs of forward and backward.
        peak_flops: Peak FLOP/s of one worker's device; None if unknown.
        stop_after: A step after which the workers end with a checkpoint, though the run goes on; None if they
            train to its end.
    """

    config: FinetuneConfig
    model: ModelSpec
    layout: Layout | None
    states: States
    micro_batch_size: int
    device: str
    data: str
    folder: str
    num_steps: int
    flops_per_token: float
    peak_flops: float | None
    stop_after: int | None = None

    @property
    def last_step(self) -> int:
        """The step with which the workers end."""
        return min(self.num_steps, self.stop_after or self.num_steps)
