"""The training loop of one worker, which depends on torch only: Ray Train runs it, and so does ``torchrun``.

The sequences of a step follow from the seed and the step alone, so a run can be resumed from any checkpoint
on any number of workers with the same batches.
"""

import contextlib
import functools
import math
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from upath import UPath

from safe_r1.errors import SafeR1Error
from safe_r1.report.trackers import make_trackers
from safe_r1.train.batches import Batch, collate
from safe_r1.train.checkpoint import Checkpoints
from safe_r1.train.checkpoint_files import scores_file
from safe_r1.train.fp8_layers import MULTIPLE
from safe_r1.train.history import History, StepRecord, read_history
from safe_r1.train.lora import add_adapters
from safe_r1.train.model import choose_attention, load_model
from safe_r1.train.optim import learning_rate, make_optimizer
from safe_r1.train.pack import Ints
from safe_r1.train.packed import PackedReader
from safe_r1.train.parallel import (
    ParallelDims,
    check_nodes,
    dp_rank,
    hung_worker_error,
    init_distributed,
    limit_collectives,
    resolve_dims,
)
from safe_r1.train.read_ahead import ReadAhead
from safe_r1.train.sampler import batch_indices, rank_indices
from safe_r1.train.spec import TrainSpec
from safe_r1.train.step import StepResult, sum_over_workers, train_step, validation_sums
from safe_r1.train.varlen import VARLEN

# Steps whose median loss a new loss is compared with.
_RECENT_STEPS = 20

Metrics = dict[str, int | float]
"""The numbers of one step, by name."""


@dataclass
class TrainState:
    """State of the loop that a checkpoint saves besides the tensors.

    Attributes:
        step: Finished optimizer steps.
        recent: Losses of the last steps.
        best: Lowest validation loss so far.
        num_worse: Validations since then.
        stopped: Early stopping has ended the run.
    """

    step: int = 0
    recent: list[float] = field(default_factory=list)
    best: float | None = None
    num_worse: int = 0
    stopped: bool = False


class Trainer:
    """One worker of a run, from the latest checkpoint to the end of training."""

    def __init__(self, spec: TrainSpec):
        self.spec = spec
        self.config = spec.config
        self.rank, world_size = init_distributed(spec.device)
        self.dims: ParallelDims = resolve_dims(self.config.parallel, spec.layout, world_size)
        check_nodes(self.dims)
        self.model = load_model(spec.model, self.dims, spec.device)
        self.attention = choose_attention(self.model.config, spec.model, self.dims, spec.device)
        if self.config.lora:
            # Adapters are initialized at random and must be equal on all workers.
            torch.manual_seed(self.config.seed)
            add_adapters(self.model, self.config.lora, self.dims)
        self.optimizer = make_optimizer(self.model.parameters(), self.config.optimizer, spec.states)
        limit_collectives(self.config.parallel.timeout_s)
        folder = UPath(spec.folder)
        self.checkpoints = Checkpoints(folder / "checkpoints", self.rank, scores_file(self.config))
        saved = self.checkpoints.load_latest(self.model, self.optimizer) or {}
        self.state = TrainState(
            **{name: saved[name] for name in TrainState.__dataclass_fields__ if name in saved}
        )
        self.start_step = self.state.step
        # Another patience may end, or go on with, what is there.
        self.state.stopped = self._is_stopped()
        tracker_names = self.config.trackers if self.rank == 0 else ()
        settings = self.config.model_dump(mode="json")
        trackers = make_trackers(tracker_names, self.config.run, folder, settings)
        # A checkpoint of an earlier release has no steps: those of the file are all there is.
        earlier = saved["history"] if "history" in saved else read_history(folder)
        records = [record for record in earlier if record["step"] <= self.state.step] if saved else ()
        self.history = History(folder, self.rank, records, trackers)
        self.data = PackedReader(UPath(spec.data), "train")
        self.validation_data = PackedReader(UPath(spec.data), "validation")
        self.batches = ReadAhead(self._batches_of_step, spec.last_step, spec.device)

    def run(self, on_save: Callable[[Metrics], None] = lambda metrics: None) -> None:
        """Train to the last step, to early stopping, or to a loss that is NaN, inf or diverged.

        Args:
            on_save: Called with the metrics of each step that saves a checkpoint, equally often on every
                worker.
        """
        try:
            # The original model's loss, which the report and the card compare with.
            if not self.state.step:
                self.history.add({"step": 0, "validation": self._validate()}, now=True)
            while self.state.step < self.spec.last_step and not self.state.stopped:
                started = time.perf_counter()
                lr = learning_rate(self.config.optimizer, self.state.step, self.spec.num_steps)
                result = self._train_step(lr)
                # The loss is reduced over all workers, so all of them stop at the same step.
                if failure := result.failure:
                    self.batches.close()
                    rows = self._row_ids(self.state.step)
                    self.history.record_failure(self.state.step + 1, failure, rows)
                    break
                self._finish_step(result, lr, time.perf_counter() - started, on_save)
        except BaseException as error:
            timeout_s = self.config.parallel.timeout_s
            hung = hung_worker_error(error, timeout_s)
            # The other workers are in a collective of training: wait for the pending write, and not for them.
            # One that hangs may not write its part.
            with contextlib.suppress(SafeR1Error):
                self.checkpoints.finish(together=False, timeout_s=timeout_s if hung else None)
            self.history.close()
            if hung:
                raise hung from error
            raise
        finally:
            self.batches.close()
        self.checkpoints.finish()
        self.history.close()

    def _train_step(self, lr: float) -> StepResult:
        return train_step(
            self.model,
            self.optimizer,
            self.batches.read(self.state.step),
            self.dims,
            lr,
            self.config.optimizer.max_grad_norm,
            self._max_loss(),
            self.config.parallel.defer_gradient_reduction,
        )

    def _max_loss(self) -> float | None:
        """Loss above which a step counts as diverged; None while there are too few losses to compare with."""
        recent = self.state.recent
        if len(recent) < _RECENT_STEPS:
            return None
        return self.config.save.max_loss_ratio * statistics.median(recent)

    def _finish_step(
        self, result: StepResult, lr: float, seconds: float, on_save: Callable[[Metrics], None]
    ) -> None:
        """Record a step; validate and save a checkpoint if one is due."""
        state = self.state
        state.step += 1
        state.recent = [*state.recent, result.loss][-_RECENT_STEPS:]
        record = self._record(result, lr, seconds)
        is_due = state.step % self.config.save.every == 0 or state.step == self.spec.last_step
        if not is_due:
            self.history.add(record)
            return
        validation = self._validate()
        self._check_early_stopping(validation.get("all"))
        record["validation"] = validation
        record["stopped"] = state.stopped
        self.history.add(record, now=True)
        # Includes `stopped`, so that repeating the command does not train past an early stop.
        saved = asdict(state) | {
            "validation_loss": validation.get("all"),
            "validation": validation,
            "history": list(self.history.records),
        }
        self.checkpoints.save(self.model, self.optimizer, state.step, saved)
        on_save({name: value for name, value in record.items() if isinstance(value, int | float)})

    def _record(self, result: StepResult, lr: float, seconds: float) -> StepRecord:
        record: StepRecord = {
            "step": self.state.step,
            "loss": result.loss,
            "lr": lr,
            "grad_norm": result.grad_norm,
            "num_labels": result.num_labels,
            "num_tokens": result.num_tokens,
            "step_s": round(seconds, 3),
            "tokens_per_s": round(result.num_tokens / seconds, 1),
            "memory_gib": round(_peak_memory_gib(self.spec.device), 2),
        }
        if self.state.step == self.start_step + 1:
            record["attention"] = str(self.attention)
        # MFU: achieved model FLOP/s of all workers, relative to their peak.
        if self.spec.peak_flops:
            achieved = result.num_tokens / seconds * self.spec.flops_per_token
            record["mfu"] = round(achieved / (self.spec.peak_flops * self.dims.world_size), 4)
        return record

    def _check_early_stopping(self, loss: float | None) -> None:
        """Stop after ``save.patience`` validations in a row without a new lowest loss."""
        state = self.state
        if loss is None:
            return
        # A loss that is no number is no better than any.
        if math.isfinite(loss) and (state.best is None or loss < state.best):
            state.best = loss
            state.num_worse = 0
            return
        state.num_worse += 1
        state.stopped = self._is_stopped()

    def _is_stopped(self) -> bool:
        # With keep_best=safety, the evaluations between the parts of a run decide.
        save = self.config.save
        return save.keep_best == "validation" and save.ends_early(self.state.num_worse)

    def _batch_indices(self, step: int) -> Ints:
        return batch_indices(self.data.num_sequences, self.config.global_batch_size, self.config.seed, step)

    def _batches_of_step(self, step: int) -> list[Batch]:
        return self._local_batches(self.data, self._batch_indices(step))

    def _local_batches(self, data: PackedReader, indices: Ints) -> list[Batch]:
        """This worker's micro-batches of the given sequences."""
        rank = dp_rank(self.dims, self.rank)
        micro_batches = rank_indices(indices, rank, self.dims.dp, self.spec.micro_batch_size)
        varlen = self.attention.name == VARLEN
        multiple = MULTIPLE if self.spec.model.fp8 else 1
        return [collate(data.read(indices), self.spec.device, varlen, multiple) for indices in micro_batches]

    def _row_ids(self, step: int) -> list[str]:
        sequences = self.data.read(self._batch_indices(step))
        return [row_id for sequence in sequences for row_id in sequence.row_ids]

    def _validate(self) -> dict[str, float]:
        """Mean loss over the label tokens of each kind, and over ``all``; empty without validation rows."""
        # All workers evaluate the same kinds in the same order: each one is a collective operation.
        sums = {
            kind: sum_over_workers(
                validation_sums(self.model, self._local_batches(self.validation_data, indices)), self.dims
            )
            for kind, indices in self._validation_indices.items()
        }
        if not sums:
            return {}
        # Weighted by label tokens, not a mean of means.
        sums["all"] = [sum(values) for values in zip(*sums.values(), strict=True)]
        return {kind: loss / max(1.0, count) for kind, (loss, count) in sums.items()}

    @functools.cached_property
    def _validation_indices(self) -> dict[str, Ints]:
        """The first ``save.max_validation`` sequences of each kind, which validation sequences do not mix."""
        by_kind: dict[str, list[int]] = defaultdict(list)
        for index in range(self.validation_data.num_sequences):
            by_kind[self.validation_data.read([index])[0].kind].append(index)
        limit = self.config.save.max_validation
        return {kind: np.array(indices[:limit]) for kind, indices in sorted(by_kind.items())}


def _peak_memory_gib(device: str) -> float:
    """Peak memory of this worker so far: allocated GPU memory, or resident memory of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    # Linux reports KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
