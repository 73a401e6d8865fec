"""Next-token cross entropy, summed over label tokens, with a limit on the memory of the logits."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from safe_r1.train.memory import BYTES_PER_LOGIT
from safe_r1.train.packed import IGNORE_INDEX

ChunkLoss = Callable[[Tensor, Tensor, Tensor, torch.dtype], tuple[Tensor, Tensor]]
"""Loss and gradient of the logits, of (hidden states, weight, labels, data type of sums)."""


def shift_labels(labels: Tensor) -> Tensor:
    """Labels at the position that predicts them, shape (batch, seq); the last position has none."""
    return F.pad(labels[..., 1:], (0, 1), value=IGNORE_INDEX)


def summed_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, budget_mib: int, compiled: bool = False
) -> Tensor:
    """Sum of -log p(label) over all label tokens, as an fp32 number.

    Logits are computed in chunks of positions, in the data type of the hidden states; softmax, loss and the
    weight's gradient are summed in fp32 over all chunks, so that their rounding does not depend on the number
    of chunks.

    Args:
        hidden: Final hidden states of the positions that predict a label, shape (labels, hidden).
        weight: Of the output layer, shape (vocabulary, hidden).
        labels: Shape (labels,).
        budget_mib: Memory limit of the logits in MiB.
        compiled: Fuse the operations on the logits of a chunk by ``torch.compile``.
    """
    if not len(labels):
        # A zero that depends on both inputs: every worker must take part in the gradient reductions.
        return (hidden.sum() + weight.flatten()[:1].sum()).float() * 0
    chunk_size = max(1, (budget_mib << 20) // (weight.shape[0] * BYTES_PER_LOGIT))
    of_chunk = _compiled() if compiled else _loss_and_gradient
    loss = _ChunkedCrossEntropy.apply(hidden, weight, labels, chunk_size, torch.is_grad_enabled(), of_chunk)
    assert isinstance(loss, Tensor)
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, while the logits of a chunk are there.

    Computed in the backward pass, they would need the logits a second time.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        chunk_size: int,
        with_gradients: bool,
        of_chunk: ChunkLoss,
    ) -> Tensor:
        for_hidden, for_weight = (with_gradients and needed for needed in ctx.needs_input_grad[:2])
        sum_dtype = torch.promote_types(hidden.dtype, torch.float32)
        loss = hidden.new_zeros((), dtype=sum_dtype)
        hidden_grad = torch.empty_like(hidden) if for_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=sum_dtype) if for_weight else None
        # Without FSDP the weight is fp32 also where bf16 is computed with.
        weight = weight.to(hidden.dtype)
        for start in range(0, len(labels), chunk_size):
            rows = slice(start, start + chunk_size)
            chunk_loss, logits_grad = of_chunk(hidden[rows], weight, labels[rows], sum_dtype)
            loss += chunk_loss
            if hidden_grad is not None:
                torch.mm(logits_grad, weight, out=hidden_grad[rows])
            if weight_grad is not None:
                _add_product(weight_grad, logits_grad.T, hidden[rows])
        ctx.save_for_backward(hidden_grad, weight_grad)
        return loss

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.saved_tensors
        [scale] = grad_outputs
        # In place: autograd frees both behind this call.
        gradients = [grad if grad is None else grad.mul_(scale) for grad in (hidden_grad, weight_grad)]
        return *gradients, None, None, None, None


@functools.cache
def _compiled() -> ChunkLoss:
    # The last chunk of a micro-batch has another number of rows each time.
    return torch.compile(_loss_and_gradient, dynamic=True)


def _loss_and_gradient(
    hidden: Tensor, weight: Tensor, labels: Tensor, sum_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Summed loss of a chunk, and the gradient of its logits in the data type of the hidden states."""
    # One tensor from logits to gradient, by operations in place: it is the largest of the whole step.
    logits = F.linear(hidden, weight).to(sum_dtype)
    labels = labels[:, None]
    logits -= logits.amax(-1, keepdim=True)
    of_labels = logits.gather(-1, labels)
    sums = logits.exp_().sum(-1, keepdim=True)
    loss = (sums.log() - of_labels).sum()
    # The gradient of cross entropy: the probabilities, minus one at the label.
    logits /= sums
    logits.scatter_(-1, labels, logits.gather(-1, labels) - 1)
    return loss, logits.to(hidden.dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``, where the total may be of a wider data type."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
