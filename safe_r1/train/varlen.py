"""torch's variable-length attention, with the arguments and shapes of transformers' attention functions."""

from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

VARLEN = "safe_r1_varlen"
"""Its name in transformers."""


class VarlenKwargs(TypedDict):
    """Document boundaries, by the argument names that transformers passes to attention functions."""

    cu_seq_lens_q: Tensor
    cu_seq_lens_k: Tensor
    max_length_q: int
    max_length_k: int


def to_device(host: Tensor, device: str) -> Tensor:
    """A copy of a tensor on a device; the host does not wait for it."""
    if device == "cpu":
        return host
    # Only a copy from pinned memory can run beside the host.
    return host.pin_memory().to(device, non_blocking=True)


def varlen_kwargs(lengths: list[int], device: str) -> VarlenKwargs:
    """Arguments of variable-length attention for a batch that is one row of concatenated documents.

    Args:
        lengths: Number of tokens of each document, in order.
        device: Where the boundaries are needed.
    """
    # Cumulative lengths, shape (documents + 1,): document i has the tokens from boundary i to boundary i + 1.
    boundaries = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    boundaries = to_device(boundaries, device)
    longest = max(lengths)
    return VarlenKwargs(
        cu_seq_lens_q=boundaries, cu_seq_lens_k=boundaries, max_length_q=longest, max_length_k=longest
    )


def varlen_attention(
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

    Inputs have the shape (1, heads, tokens, head_dim), keys and values possibly fewer heads than queries; the
    output has (1, tokens, heads, head_dim) and the compute dtype.
    """
    from torch.nn.attention.varlen import varlen_attn

    dtype = _compute_dtype(value)
    value_dim = value.shape[-1]
    if value_dim < query.shape[-1]:
        # MLA's values have a smaller head dimension than its keys, and the kernel wants equal ones.
        value = F.pad(value, (0, query.shape[-1] - value_dim))
    # The kernel takes (tokens, heads, head_dim).
    query, key, value = (
        part[0].transpose(0, 1).to(dtype, memory_format=torch.contiguous_format).contiguous()
        for part in (query, key, value)
    )
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


def _compute_dtype(value: Tensor) -> torch.dtype:
    """The data type of the kernel, which takes one type only and which autocast does not know.

    Under autocast, values are bf16 while rotary embeddings have promoted queries and keys to fp32.
    """
    device_type = value.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return value.dtype
