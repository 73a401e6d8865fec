"""The training loop of one worker. It knows torch alone: Ray Train runs it, and so does ``torchrun -m
safe_r1.train``.

Which sequences a step learns from follows from (seed, step) alone, so a run that is taken up again at any
step and on any number of workers goes on as if nothing had been.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from upath import UPath

from safe_r1.models.registry import Layout, States
from safe_r1.train.attention import VARLEN, pick_attention
from safe_r1.train.batches import collate
from safe_r1.train.checkpoint import Checkpoints
from safe_r1.train.config import FinetuneConfig
from safe_r1.train.data import batch_indices, rank_indices
from safe_r1.train.history import History
from safe_r1.train.lora import add_adapters
from safe_r1.train.model import ModelSpec, load_model
from safe_r1.train.optim import learning_rate, make_optimizer
from safe_r1.train.pack import PackedReader
from safe_r1.train.parallel import Sizes, dp_rank, join, resolve_sizes
from safe_r1.train.step import Batch, StepResult, sum_over_workers, train_step, validation_sums
from safe_r1.train.trackers import make_trackers

_RECENT = 20


@dataclass(frozen=True)
class TrainSpec:
    """All that a worker must know; picklable.

    Attributes:
        config: The settings.
        model: What to load.
        layout: How the variant is spread where the settings do not say.
        states: Type of the optimizer's moments.
        micro_batch_size: Sequences computed at once.
        device: ``cpu`` or ``cuda``.
        data: Folder of the packed sequences.
        folder: Folder of the run.
        num_steps: Optimizer steps of the whole run.
        flops_per_token: Of forward and backward.
        peak_flops: Of one worker's device; None where it is not known.
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


@dataclass
class _Progress:
    """What a checkpoint must tell besides the tensors."""

    step: int = 0
    recent: list[float] = field(default_factory=list)
    best: float | None = None
    num_worse: int = 0
    stopped: bool = False


class Trainer:
    """One worker's part of a run."""

    def __init__(self, spec: TrainSpec):
        self.spec, self.config = spec, spec.config
        self.rank, world = join(spec.device)
        self.sizes: Sizes = resolve_sizes(self.config.parallel, spec.layout, world)
        self.model = load_model(spec.model, self.sizes, spec.device)
        if self.config.lora:
            torch.manual_seed(self.config.seed)
            add_adapters(self.model, self.config.lora, self.sizes)
        self.optimizer = make_optimizer(self.model.parameters(), self.config.optimizer, spec.states)
        folder = UPath(spec.folder)
        self.checkpoints = Checkpoints(folder / "checkpoints", self.rank)
        state = self.checkpoints.load_last(self.model, self.optimizer) or {}
        self.progress = _Progress(
            **{name: state[name] for name in _Progress.__dataclass_fields__ if name in state}
        )
        names = self.config.trackers if self.rank == 0 else ()
        trackers = make_trackers(names, self.config.run, folder, self.config.model_dump(mode="json"))
        self.history = History(folder, self.rank, self.progress.step, trackers)
        self.data, self.validation_data = (
            PackedReader(UPath(spec.data), split) for split in ("train", "validation")
        )
        self.varlen = pick_attention(spec.device) == VARLEN

    def run(self, on_save: Callable[[dict[str, Any]], None] = lambda figures: None) -> None:
        """Train to the last step, to an early stop, or to a loss that is none.

        Args:
            on_save: Is told the figures of each step that validates and saves, on every worker equally often.
        """
        try:
            if not self.progress.step:
                self.history.add({"step": 0, "validation": self._validate()}, now=True)
            while self.progress.step < self.spec.num_steps and not self.progress.stopped:
                started = time.perf_counter()
                batches = self._mine(self.data, self._indices(self.progress.step))
                lr = learning_rate(self.config.optimizer, self.progress.step, self.spec.num_steps)
                result = train_step(
                    self.model,
                    self.optimizer,
                    batches,
                    self.sizes,
                    lr,
                    self.config.optimizer.max_grad_norm,
                    self._limit(),
                )
                if fault := result.fault:
                    self.history.fail(self.progress.step + 1, fault, self._row_ids(self.progress.step))
                    return
                self._note(result, lr, time.perf_counter() - started, on_save)
        finally:
            self.checkpoints.finish()
            self.history.close()

    def _limit(self) -> float | None:
        """The loss from which a step counts as an explosion; None while there are too few to judge by."""
        recent = self.progress.recent
        return self.config.save.max_loss_ratio * statistics.median(recent) if len(recent) == _RECENT else None

    def _note(
        self, result: StepResult, lr: float, seconds: float, on_save: Callable[[dict[str, Any]], None]
    ) -> None:
        progress = self.progress
        progress.step += 1
        progress.recent = [*progress.recent, result.loss][-_RECENT:]
        line = {
            "step": progress.step,
            "loss": result.loss,
            "lr": lr,
            "grad_norm": result.grad_norm,
            "num_labels": result.num_labels,
            "num_tokens": result.num_tokens,
            "step_s": round(seconds, 3),
            "tokens_per_s": round(result.num_tokens / seconds, 1),
            "memory_gib": round(_memory_gib(self.spec.device), 2),
        }
        if self.spec.peak_flops:
            achieved = result.num_tokens / seconds * self.spec.flops_per_token
            line["mfu"] = round(achieved / (self.spec.peak_flops * self.sizes.world), 4)
        is_due = progress.step % self.config.save.every == 0 or progress.step == self.spec.num_steps
        if is_due:
            line["validation"] = self._validate()
            self._judge_progress(line["validation"].get("all"))
            line["stopped"] = progress.stopped
        self.history.add(line, now=is_due)
        if is_due:
            state = progress.__dict__ | {
                "validation_loss": line["validation"].get("all"),
                "validation": line["validation"],
            }
            self.checkpoints.save(self.model, self.optimizer, progress.step, state)
            on_save({name: value for name, value in line.items() if isinstance(value, int | float)})

    def _judge_progress(self, loss: float | None) -> None:
        progress = self.progress
        if loss is None:
            return
        if progress.best is None or loss < progress.best:
            progress.best, progress.num_worse = loss, 0
        else:
            progress.num_worse += 1
            progress.stopped = (
                self.config.save.patience is not None and progress.num_worse >= self.config.save.patience
            )

    def _indices(self, step: int) -> Any:
        return batch_indices(self.data.num_sequences, self.config.global_batch_size, self.config.seed, step)

    def _mine(self, data: PackedReader, indices: Any) -> list[Batch]:
        """This worker's micro-batches of some sequences."""
        place = dp_rank(self.sizes, self.rank)
        mine = rank_indices(indices, place, self.sizes.dp, self.spec.micro_batch_size)
        return [collate(data.read(few), self.spec.device, self.varlen) for few in mine]

    def _row_ids(self, step: int) -> list[str]:
        return [name for sequence in self.data.read(self._indices(step)) for name in sequence.row_ids]

    def _validate(self) -> dict[str, float]:
        """Mean loss over the label tokens of each kind, and of ``all``; empty without validation rows."""
        indices: dict[str, list[int]] = defaultdict(list)
        for index in range(self.validation_data.num_sequences):
            indices[self.validation_data.read([index])[0].kind].append(index)
        sums: dict[str, list[float]] = {}
        for kind, places in sorted(indices.items()):
            batches = self._mine(self.validation_data, np.array(places[: self.config.save.max_validation]))
            sums[kind] = sum_over_workers(validation_sums(self.model, batches), self.sizes)
        if not sums:
            return {}
        sums["all"] = [sum(values) for values in zip(*sums.values(), strict=True)]
        return {kind: loss / max(1.0, count) for kind, (loss, count) in sums.items()}


def _memory_gib(device: str) -> float:
    """Most memory that this worker has held so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
