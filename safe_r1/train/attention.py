"""Attention for packed sequences, in which the documents of a sequence must not attend to each other.

On GPUs, torch's variable-length flash attention takes the document boundaries; elsewhere transformers' sdpa
derives the mask from position ids that restart with each document.
"""

import functools
from typing import TypedDict

import torch
from torch import Tensor

VARLEN = "safe_r1_varlen"


class VarlenKwargs(TypedDict):
    """Document boundaries, by the argument names that transformers passes to attention functions."""

    cu_seq_lens_q: Tensor
    cu_seq_lens_k: Tensor
    max_length_q: int
    max_length_k: int


def select_attention(device: str) -> str:
    """The attention implementation: ``VARLEN`` if it works here and agrees with sdpa, else ``sdpa``."""
    if device != "cuda" or not _varlen_works():
        return "sdpa"
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(VARLEN, _varlen_attention)
    # The boundaries take the place of a mask.
    AttentionMaskInterface.register(VARLEN, lambda *args, **kwargs: None)
    return VARLEN


def varlen_kwargs(lengths: list[int], device: str) -> VarlenKwargs:
    """Arguments of variable-length attention for a batch that is one row of concatenated documents.

    Args:
        lengths: Number of tokens of each document, in order.
        device: Where the boundaries are needed.
    """
    # Cumulative lengths, shape (documents + 1,): document i has the tokens from boundary i to boundary i + 1.
    boundaries = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    longest = max(lengths)
    return VarlenKwargs(
        cu_seq_lens_q=boundaries, cu_seq_lens_k=boundaries, max_length_q=longest, max_length_k=longest
    )


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
    **kwargs: object,
) -> tuple[Tensor, None]:
    """An attention function of transformers.

    Inputs have the shape (1, heads, tokens, head_dim), the output has (1, tokens, heads, head_dim).
    """
    from torch.nn.attention.varlen import varlen_attn

    value_dim = value.shape[-1]
    if value_dim < query.shape[-1]:
        # MLA's values have a smaller head dimension than its keys, and the kernel wants equal ones.
        value = torch.nn.functional.pad(value, (0, query.shape[-1] - value_dim))
    # The kernel takes (tokens, heads, head_dim).
    query, key, value = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    output = varlen_attn(
        query,
        key,
        value,
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1, 0),  # causal
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(output, Tensor)  # a tuple only where log-sum-exp values are requested
    return output[..., :value_dim][None], None


@functools.cache
def _varlen_works() -> bool:
    """True if variable-length attention runs here, forward and backward, with the result of sdpa."""
    try:
        query, key, value = (
            torch.randn(1, 2, 8, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
            for _ in range(3)
        )
        boundaries = varlen_kwargs([8], "cuda")
        output, _ = _varlen_attention(torch.nn.Module(), query, key, value, None, None, **boundaries)
        expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        output.sum().backward()
        return bool(torch.allclose(output, expected.transpose(1, 2), atol=2e-2))
    except (ImportError, RuntimeError, TypeError, NotImplementedError):
        return False
