"""One optimizer step, the same on one worker and on many."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from safe_r1.train.lora import average_plain_gradients
from safe_r1.train.loss import IGNORE, shift_labels
from safe_r1.train.optim import clip_gradients, set_learning_rate
from safe_r1.train.parallel import Sizes

Batch = dict[str, Any]
"""Arguments of the model: ``input_ids``, ``position_ids``, ``labels`` of shape (batch, seq), and what the
attention wants.
"""


@dataclass(frozen=True)
class StepResult:
    """What a step came to.

    Attributes:
        loss: Mean over the label tokens of all workers.
        grad_norm: Before clipping.
        num_labels: Label tokens of all workers.
        num_tokens: All tokens of all workers, padding left out.
        limit: Loss beyond which the step counts as an explosion.
    """

    loss: float
    grad_norm: float
    num_labels: int
    num_tokens: int
    limit: float | None = None

    @property
    def fault(self) -> str:
        """Why the parameters must not be updated by this step; empty for a sound one."""
        if not math.isfinite(self.loss) or not math.isfinite(self.grad_norm):
            return f"loss {self.loss:g} with gradient norm {self.grad_norm:g}"
        return (
            f"loss {self.loss:.4g}, expected at most {self.limit:.4g}"
            if self.limit and self.loss > self.limit
            else ""
        )


def sum_over_workers(values: Sequence[float], sizes: Sizes) -> list[float]:
    """Sums over all batches: workers of a tensor-parallel group hold the same one, so each counts for a part."""
    if sizes.world == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return (total / sizes.tp).tolist()


def _inputs(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != "num_tokens"}


def count_labels(batch: Batch) -> int:
    """Tokens of a batch that are learned."""
    return int((shift_labels(batch["labels"]) != IGNORE).sum())


def train_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    sizes: Sizes,
    lr: float,
    max_grad_norm: float,
    limit: float | None = None,
) -> StepResult:
    """Gradients of all micro-batches of all workers, averaged over their label tokens, then one update.

    A step with a fault leaves the parameters as they were.
    """
    mine = (sum(map(count_labels, batches)), sum(int(batch["num_tokens"]) for batch in batches))
    num_labels, num_tokens = (round(value) for value in sum_over_workers(mine, sizes))
    loss_sum = 0.0
    for batch in batches:
        loss = model(**_inputs(batch))
        # Sharding averages gradients over the workers with batches of their own; the mean wanted is over
        # label tokens.
        (loss * (sizes.dp / max(1, num_labels))).backward()
        loss_sum += float(loss.detach())
    [loss_sum] = sum_over_workers([loss_sum], sizes)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    average_plain_gradients(parameters, sizes)
    norm = clip_gradients(parameters, max_grad_norm)
    result = StepResult(loss_sum / max(1, num_labels), norm, num_labels, num_tokens, limit)
    if not result.fault:
        set_learning_rate(optimizer, lr)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return result


@torch.no_grad()
def validation_sums(model: Any, batches: Sequence[Batch]) -> tuple[float, int]:
    """Summed loss of this worker's batches, and their label tokens."""
    model.eval()
    try:
        sums = [(float(model(**_inputs(batch))), count_labels(batch)) for batch in batches]
    finally:
        model.train()
    return sum(loss for loss, _ in sums), sum(count for _, count in sums)
