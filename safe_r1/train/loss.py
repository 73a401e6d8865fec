"""Cross entropy of the next token, summed over the label tokens, with never more logits than a budget allows."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from safe_r1.train.pack import IGNORE

# fp32 log-softmax, and the gradients before and after it.
_BYTES_PER_LOGIT = 12


def shift_labels(labels: Tensor) -> Tensor:
    """Labels at the position that predicts them: shape (batch, seq), the last position without one."""
    return F.pad(labels[..., 1:], (0, 1), value=IGNORE)


def summed_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, budget_mib: int) -> Tensor:
    """Sum over all labelled positions of -log p(label).

    Only labelled positions become logits, in pieces that are computed again for the gradient.

    Args:
        hidden: Shape (..., hidden).
        weight: Of the output layer, shape (vocabulary, hidden).
        labels: Shape (...); ``IGNORE`` where nothing is learned.
        budget_mib: Memory for logits.
    """
    is_label = labels != IGNORE
    hidden, labels = hidden[is_label], labels[is_label]
    if not len(labels):
        # Every worker must take part in the reduction of the output layer's gradient.
        return (hidden.sum() + weight.flatten()[:1].sum()).float() * 0
    if hidden.is_cuda and (fused := _liger()):
        return fused(weight, hidden, labels)
    rows = max(1, (budget_mib << 20) // (weight.shape[0] * _BYTES_PER_LOGIT))
    pieces = zip(hidden.split(rows), labels.split(rows), strict=True)
    if len(labels) <= rows:
        return _piece(hidden, weight, labels)
    losses: list[Any] = [
        checkpoint(_piece, part, weight, wanted, use_reentrant=False) for part, wanted in pieces
    ]
    return torch.stack(losses).sum()


def _piece(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="sum")


def _liger() -> Any:
    """Liger's fused linear cross entropy; None where it is not installed."""
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORE, reduction="sum")
