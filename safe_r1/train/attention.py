"""Attention of packed sequences: documents of one sequence do not see each other.

On GPUs, torch's varlen flash attention gets the documents' ends; elsewhere transformers' sdpa builds the mask
from position ids that restart.
"""

import functools
from typing import Any

import torch
from torch import Tensor

VARLEN = "safe_r1_varlen"


def pick_attention(device: str) -> str:
    """``VARLEN`` where it runs and agrees with sdpa on this device, else ``sdpa``."""
    if device != "cuda" or not _varlen_works():
        return "sdpa"
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(VARLEN, _varlen_attention)
    AttentionMaskInterface.register(VARLEN, lambda *args, **kwargs: None)
    return VARLEN


def varlen_arguments(lengths: list[int], device: str) -> dict[str, Any]:
    """What the varlen attention wants to know of a batch that is one long row of documents.

    Args:
        lengths: Tokens of each document in order.
        device: Where the ends go.
    """
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    longest = max(lengths)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def _varlen_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Shapes as transformers gives them: (1, heads, tokens, head); the result is (1, tokens, heads, head)."""
    from torch.nn.attention.varlen import varlen_attn

    width = value.shape[-1]
    if width < query.shape[-1]:  # MLA's values are narrower than its keys
        value = torch.nn.functional.pad(value, (0, query.shape[-1] - width))
    query, key, value = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    out: Any = varlen_attn(
        query,
        key,
        value,
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out[..., :width][None], None


@functools.cache
def _varlen_works() -> bool:
    """Does varlen attention run here, forward and backward, and give what sdpa gives?"""
    try:
        query, key, value = (
            torch.randn(1, 2, 8, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
            for _ in range(3)
        )
        ends = varlen_arguments([8], "cuda")
        found, _ = _varlen_attention(torch.nn.Module(), query, key, value, None, None, **ends)
        wanted = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True
        ).transpose(1, 2)
        found.sum().backward()
        return bool(torch.allclose(found, wanted, atol=2e-2))
    except (ImportError, RuntimeError, TypeError, NotImplementedError):
        return False
