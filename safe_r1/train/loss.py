"""Next-token cross entropy, summed over label tokens, with a limit on the memory of the logits."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from safe_r1.train.packed import IGNORE_INDEX

# fp32 log-softmax, and the gradients before and after it.
_BYTES_PER_LOGIT = 12

FusedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Loss of (output weight, hidden states, labels)."""


def shift_labels(labels: Tensor) -> Tensor:
    """Labels at the position that predicts them, shape (batch, seq); the last position has none."""
    return F.pad(labels[..., 1:], (0, 1), value=IGNORE_INDEX)


def summed_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, budget_mib: int) -> Tensor:
    """Sum of -log p(label) over all labelled positions.

    Logits are computed for labelled positions only, in chunks that are recomputed in the backward pass.

    Args:
        hidden: Final hidden states, shape (..., hidden).
        weight: Of the output layer, shape (vocabulary, hidden).
        labels: Shifted labels, shape (...); ``IGNORE_INDEX`` where nothing is learned.
        budget_mib: Memory limit of the logits in MiB.
    """
    # Boolean indexing flattens: hidden becomes (labelled, hidden), labels (labelled,).
    is_label = labels != IGNORE_INDEX
    hidden = hidden[is_label]
    labels = labels[is_label]
    if not len(labels):
        # A zero that depends on both inputs: every worker must take part in the gradient reductions.
        return (hidden.sum() + weight.flatten()[:1].sum()).float() * 0
    if hidden.is_cuda and (fused := _liger_loss()):
        return fused(weight, hidden, labels)
    chunk_size = max(1, (budget_mib << 20) // (weight.shape[0] * _BYTES_PER_LOGIT))
    if len(labels) <= chunk_size:
        return _chunk_loss(hidden, weight, labels)
    losses: list[Tensor] = []
    for hidden_chunk, label_chunk in zip(hidden.split(chunk_size), labels.split(chunk_size), strict=True):
        loss = checkpoint(_chunk_loss, hidden_chunk, weight, label_chunk, use_reentrant=False)
        assert isinstance(loss, Tensor)
        losses.append(loss)
    return torch.stack(losses).sum()


def _chunk_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="sum")


def _liger_loss() -> FusedLoss | None:
    """Liger's fused linear cross entropy; None if it is not installed."""
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORE_INDEX, reduction="sum")
