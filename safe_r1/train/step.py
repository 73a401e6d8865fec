"""One optimizer step and the validation loss, the same on one worker and on many."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from safe_r1.train.batches import Batch
from safe_r1.train.lora import average_unsharded_gradients
from safe_r1.train.optim import clip_gradients, set_learning_rate
from safe_r1.train.parallel import ParallelDims


@dataclass(frozen=True)
class StepResult:
    """Metrics of one optimizer step.

    Attributes:
        loss: Mean over the label tokens of all workers.
        grad_norm: Global gradient norm before clipping.
        num_labels: Label tokens of all workers.
        num_tokens: Tokens of all workers, without padding.
        max_loss: Loss above which the step counts as diverged; None: no limit.
    """

    loss: float
    grad_norm: float
    num_labels: int
    num_tokens: int
    max_loss: float | None = None

    @property
    def failure(self) -> str:
        """Why the optimizer step was skipped: loss is NaN, inf or above ``max_loss``; empty if it was not."""
        if not math.isfinite(self.loss) or not math.isfinite(self.grad_norm):
            return f"loss {self.loss:g} with gradient norm {self.grad_norm:g}"
        if self.max_loss and self.loss > self.max_loss:
            return f"loss {self.loss:.4g}, expected at most {self.max_loss:.4g}"
        return ""


def sum_over_workers(values: Sequence[float], dims: ParallelDims) -> list[float]:
    """Sums over all batches of all workers."""
    if dims.world_size == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(total)
    # The workers of a tensor-parallel group have the same batches, which are summed tp times.
    return (total / dims.tp).tolist()


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    dims: ParallelDims,
    lr: float,
    max_grad_norm: float,
    max_loss: float | None = None,
    defer_reduction: bool = False,
) -> StepResult:
    """Accumulate the gradients of all micro-batches of all workers, then update the parameters once.

    The loss is the mean over all label tokens of the step. If it is NaN, inf or above ``max_loss``, the
    parameters are not changed.

    Args:
        model: As ``load_model`` gives it.
        optimizer: As ``make_optimizer`` gives it.
        batches: Micro-batches of this worker.
        dims: Parallel dimensions of the run.
        lr: Learning rate of this step.
        max_grad_norm: Global norm to which gradients are clipped.
        max_loss: Loss above which the step counts as diverged.
        defer_reduction: Reduce the gradients over the workers with the last micro-batch only.
    """
    own_counts = (sum(batch.num_labels for batch in batches), sum(batch.num_tokens for batch in batches))
    num_labels, num_tokens = (round(count) for count in sum_over_workers(own_counts, dims))
    losses: list[Tensor] = []
    for number, batch in enumerate(batches, start=1):
        if defer_reduction and isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(number == len(batches))
        loss = model(**batch.model_inputs)
        # FSDP averages gradients over the data-parallel workers; multiplied by their number, this becomes the
        # sum, which is divided by the label tokens of all workers.
        (loss * (dims.dp / max(1, num_labels))).backward()
        losses.append(loss.detach())
    loss_sum = _sum_losses(losses, dims)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    average_unsharded_gradients(parameters, dims)
    grad_norm = clip_gradients(parameters, max_grad_norm).to(loss_sum.device)
    # The only point of the step at which the host waits for the device.
    loss, norm = torch.stack([loss_sum, grad_norm]).tolist()
    result = StepResult(loss / max(1, num_labels), norm, num_labels, num_tokens, max_loss)
    if not result.failure:
        set_learning_rate(optimizer, lr)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return result


def _sum_losses(losses: Sequence[Tensor], dims: ParallelDims) -> Tensor:
    """Sum of the losses of all micro-batches of all workers, in fp64 on the device."""
    total = torch.stack(list(losses)).sum(dtype=torch.float64)
    if dims.world_size > 1:
        torch.distributed.all_reduce(total)
        # The workers of a tensor-parallel group have the same batches, which are summed tp times.
        total /= dims.tp
    return total


@torch.no_grad()
def validation_sums(model: nn.Module, batches: Sequence[Batch]) -> tuple[float, int]:
    """Summed loss and number of label tokens of this worker's batches."""
    model.eval()
    try:
        losses = [model(**batch.model_inputs) for batch in batches]
    finally:
        model.train()
    loss = torch.stack(losses).sum(dtype=torch.float64)
    return loss.item(), sum(batch.num_labels for batch in batches)
