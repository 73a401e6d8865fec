"""Attention for packed sequences, in which the documents of a sequence must not attend to each other.

On GPUs, torch's variable-length flash attention takes the document boundaries; elsewhere transformers' sdpa
derives the mask from position ids that restart with each document. torch has the kernels of FlashAttention 2;
on Hopper it takes those of FlashAttention 3 where that package is installed.
"""

import functools
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from safe_r1.train.architecture import Architecture
from safe_r1.train.varlen import VARLEN, varlen_attention, varlen_kwargs

Precision = Literal["fp32", "bf16", "autocast"]
"""How a worker computes: all in fp32; all in bf16, as FSDP casts the weights; or in bf16 by autocast, which
keeps the residual stream in fp32."""

logger = logging.getLogger(__name__)

# Only CUDA has a kernel of variable-length attention.
_KERNEL_DEVICE = "cuda"
# FlashAttention 3's module, and the compute capability of Hopper: others have no kernels there.
_FA3_MODULE = "flash_attn_interface"
_FA3_CAPABILITY = 9
# The probe's documents: several in one row, of lengths that are no multiples of a kernel's tile, one of them
# a single token.
_PROBE_LENGTHS = [37, 1, 130, 88]
_PROBE_KV_HEADS = 2
# Largest relative difference from fp32. Rounding to bf16 gives below 1%; a wrong mask, a wrong group of heads
# or a wrong scale gives more than 10%.
_TOLERANCE = 0.03
_KERNEL_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, AssertionError)


@dataclass(frozen=True)
class HeadSizes:
    """Sizes of a model's attention heads, on which it depends whether a kernel takes them.

    Attributes:
        group: Query heads that share one key-value head.
        qk: Dimension of queries and keys.
        v: Dimension of values.
    """

    group: int
    qk: int
    v: int


@dataclass(frozen=True)
class AttentionChoice:
    """The attention implementation of a worker.

    Attributes:
        name: By which transformers finds it.
        fallback_reason: Why variable-length attention is not used on a GPU, or not with the kernels of
            FlashAttention 3 where they are installed; empty where it is, and on CPU.
        kernels: Those of variable-length attention.
    """

    name: str
    fallback_reason: str = ""
    kernels: Literal["", "FA2", "FA3"] = ""

    def __str__(self) -> str:
        told = ", ".join(filter(None, (self.kernels, self.fallback_reason)))
        return f"{self.name} ({told})" if told else self.name


def head_sizes(model: Architecture) -> HeadSizes:
    """The head sizes of a model."""
    if latent := model.latent:
        return HeadSizes(1, latent.qk_head_dim, latent.v_head_dim)
    return HeadSizes(model.num_heads // model.num_kv_heads, model.head_dim, model.head_dim)


@functools.cache
def select_attention(heads: HeadSizes, precision: Precision, device: str) -> AttentionChoice:
    """``VARLEN`` if it works here and agrees with sdpa, else ``sdpa``, which is logged as a warning on a GPU.

    The kernels of FlashAttention 3 are tried first where there are some, and are held to the same.

    Args:
        heads: Of the model that is trained.
        precision: In which it is trained.
        device: ``cpu`` or ``cuda``.
    """
    if device != _KERNEL_DEVICE:
        return AttentionChoice("sdpa")
    kernels: Literal["FA2", "FA3"] = "FA2"
    note = ""
    if _has_fa3():
        kernels = "FA3"
        if note := _use_fa3(heads, precision, device):
            kernels = "FA2"
            logger.warning("attention: the kernels of FlashAttention 2, %s", note)
    if kernels == "FA2" and (reason := probe_varlen(heads, precision, device)):
        logger.warning(
            "attention: sdpa in place of variable-length flash attention, which is faster and needs less "
            "memory: %s",
            reason,
        )
        return AttentionChoice("sdpa", reason)
    from transformers import AttentionInterface

    # No mask is registered for it: transformers then makes none, and does not search for documents either,
    # for which the host would wait on the GPU. The boundaries take the place of a mask.
    AttentionInterface.register(VARLEN, varlen_attention)
    return AttentionChoice(VARLEN, note, kernels)


def _has_fa3() -> bool:
    """True if FlashAttention 3 is installed, and this GPU is the one that its kernels are for."""
    is_hopper = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == _FA3_CAPABILITY
    return is_hopper and find_spec(_FA3_MODULE) is not None


def _use_fa3(heads: HeadSizes, precision: Precision, device: str) -> str:
    """Let torch call the kernels of FlashAttention 3, and why it does not: empty if it does."""
    try:
        from torch.nn.attention import activate_flash_attention_impl, restore_flash_attention_impl

        activate_flash_attention_impl("FA3")
    except (ImportError, OSError, *_KERNEL_ERRORS) as error:
        return f"not FA3: it cannot be loaded: {_first_line(error)}"
    reason = probe_varlen(heads, precision, device)
    if not reason:
        return ""
    restore_flash_attention_impl()
    return f"not FA3: {reason}"


def probe_varlen(heads: HeadSizes, precision: Precision, device: str) -> str:
    """Why variable-length attention cannot be used here; empty if it can be.

    It is called as a training step calls it, forward and backward; output and gradients are compared with
    those of sdpa in fp32 with an explicit mask.

    Args:
        heads: Of the model.
        precision: In which it is trained: it decides in which data types queries, keys and values arrive.
        device: With the kernel.
    """
    try:
        differences = _differences_from_sdpa(heads, precision, device)
    except ImportError as error:
        return f"torch {torch.__version__} does not have it: {error}"
    except _KERNEL_ERRORS as error:
        return f"its kernel fails with {heads.qk} and {heads.v} per head in {precision}: {_first_line(error)}"
    # Written so that NaN counts as a difference.
    wrong = [f"{name} by {value:.0%}" for name, value in differences.items() if not value <= _TOLERANCE]
    return f"its results differ from sdpa's: {', '.join(wrong)}" if wrong else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _differences_from_sdpa(heads: HeadSizes, precision: Precision, device: str) -> dict[str, float]:
    """Relative difference of the output and of the three gradients, as a norm over all elements."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(_PROBE_LENGTHS)
    num_heads = _PROBE_KV_HEADS * heads.group

    def random(num: int, size: int, dtype: torch.dtype) -> Tensor:
        values = torch.randn(1, num, tokens, size, generator=generator)
        return values.to(device, dtype)

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    rotated = dtype if precision == "bf16" else torch.float32
    query = random(num_heads, heads.qk, rotated).requires_grad_()
    key = random(_PROBE_KV_HEADS, heads.qk, rotated).requires_grad_()
    value = random(_PROBE_KV_HEADS, heads.v, dtype).requires_grad_()
    upstream = random(num_heads, heads.v, dtype).transpose(1, 2)
    with torch.autocast(device, torch.bfloat16, enabled=precision == "autocast"):
        output, _ = varlen_attention(
            torch.nn.Module(),
            query,
            key,
            value,
            None,
            heads.qk**-0.5,
            **varlen_kwargs(_PROBE_LENGTHS, device),
        )
    gradients = torch.autograd.grad(output, (query, key, value), upstream)
    copies = [part.detach().float().requires_grad_() for part in (query, key, value)]
    exact_output = _masked_sdpa(*copies)
    exact_gradients = torch.autograd.grad(exact_output, copies, upstream.float())
    names = ("output", "gradient of queries", "gradient of keys", "gradient of values")
    pairs = zip((output, *gradients), (exact_output, *exact_gradients), strict=True)
    return {
        name: ((found.detach().float() - exact.detach()).norm() / exact.detach().norm()).item()
        for name, (found, exact) in zip(names, pairs, strict=True)
    }


def _masked_sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention inside each document by an explicit mask, with the shapes of ``varlen_attention``."""
    lengths = torch.tensor(_PROBE_LENGTHS, device=query.device)
    document = torch.arange(len(_PROBE_LENGTHS), device=query.device).repeat_interleave(lengths)
    position = torch.arange(len(document), device=query.device)
    is_visible = (document[:, None] == document) & (position[:, None] >= position)
    group = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(group, dim=1) for part in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=is_visible).transpose(1, 2)
