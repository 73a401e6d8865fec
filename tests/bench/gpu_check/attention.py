"""Variable-length attention: whether it works as training calls it, and its speed beside sdpa's."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from safe_r1.train.attention import HeadSizes, Precision, select_attention
from safe_r1.train.varlen import VARLEN, varlen_attention, varlen_kwargs
from tests.bench.gpu_check.rows import Part, run
from tests.bench.gpu_check.steps import document_lengths

# Head sizes with their number of key-value heads: demo, the 7B distill, and R1's latent attention with a
# quarter of its heads.
_CASES: dict[str, tuple[HeadSizes, int]] = {
    "head size 64": (HeadSizes(3, 64, 64), 3),
    "head size 128": (HeadSizes(7, 128, 128), 4),
    "head sizes 192 and 128": (HeadSizes(1, 192, 128), 32),
}
_PRECISIONS: tuple[Precision, ...] = ("autocast", "bf16")
_SEQ_LEN = 8192
_REPEATS = 10

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def measure(part: Part) -> None:
    seq_len = 256 if part.small else _SEQ_LEN
    for name, (heads, num_kv_heads) in _CASES.items():
        with part.attempt(name):
            works = part.device == "cuda" and _probe(part, name, heads)
            _measure_speed(part, name, heads, num_kv_heads, seq_len, works)
    if part.device == "cpu":
        part.skipped("variable-length attention", "needs a GPU")


def _probe(part: Part, name: str, heads: HeadSizes) -> bool:
    """Write what training chooses; false if that is sdpa in one of the precisions."""
    choices = {precision: select_attention(heads, precision, part.device) for precision in _PRECISIONS}
    failing = "; ".join(f"{each}: {choice}" for each, choice in choices.items() if choice.name != VARLEN)
    kernels = " and ".join(sorted({str(choice) for choice in choices.values()}))
    part.measured(
        f"{name}: varlen against sdpa",
        "falls back to sdpa" if failing else f"agrees, forward and backward: {kernels}",
        "agrees",
        "off" if failing else "ok",
        failing,
    )
    return not failing


def _measure_speed(
    part: Part, name: str, heads: HeadSizes, num_kv_heads: int, seq_len: int, varlen_works: bool
) -> None:
    lengths = document_lengths(seq_len)
    num_heads = num_kv_heads * heads.group
    # Causal: a token attends to half of its document on average. Backward is twice forward.
    work = 3 * sum(length**2 for length in lengths) * num_heads * (heads.qk + heads.v)
    inputs = _random_inputs(heads, num_kv_heads, seq_len, part.device)
    sdpa_tflops = work / _seconds(_sdpa(heads, lengths, part.device), inputs, part.device) / 1e12
    what = f"{name}: forward and backward, {len(lengths)} documents in {seq_len:,} tokens"
    if not varlen_works:
        part.measured(what, f"sdpa {sdpa_tflops:.3g} TFLOP/s", sdpa_tflops=sdpa_tflops)
        return
    varlen_tflops = work / _seconds(_varlen(heads, lengths, part.device), inputs, part.device) / 1e12
    part.measured(
        what,
        f"varlen {varlen_tflops:.1f} TFLOP/s, sdpa {sdpa_tflops:.1f}",
        "varlen is faster",
        "ok" if varlen_tflops > sdpa_tflops else "off",
        varlen_tflops=varlen_tflops,
        sdpa_tflops=sdpa_tflops,
    )


def _random_inputs(
    heads: HeadSizes, num_kv_heads: int, seq_len: int, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, shape (1, heads, tokens, head size)."""

    def random(num: int, size: int) -> Tensor:
        return torch.randn(1, num, seq_len, size, dtype=torch.bfloat16, device=device, requires_grad=True)

    query = random(num_kv_heads * heads.group, heads.qk)
    return query, random(num_kv_heads, heads.qk), random(num_kv_heads, heads.v)


def _varlen(heads: HeadSizes, lengths: list[int], device: str) -> Attention:
    kwargs = varlen_kwargs(lengths, device)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return varlen_attention(torch.nn.Module(), query, key, value, None, heads.qk**-0.5, **kwargs)[0]

    return attend


def _sdpa(heads: HeadSizes, lengths: list[int], device: str) -> Attention:
    """sdpa as transformers calls it for packed sequences: with an explicit mask."""
    module = torch.nn.Module()
    module.num_key_value_groups = heads.group  # pyright: ignore[reportArgumentType] - a plain number
    document = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(device)
    position = torch.arange(len(document), device=device)
    mask = (document[:, None] == document) & (position[:, None] >= position)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return sdpa_attention_forward(module, query, key, value, mask[None, None], scaling=heads.qk**-0.5)[0]

    return attend


def _seconds(attend: Attention, inputs: tuple[Tensor, Tensor, Tensor], device: str) -> float:
    """Seconds of one forward and backward pass."""
    upstream = torch.ones_like(attend(*inputs))
    started = 0.0
    # The first runs load kernels.
    for number in range(-2, _REPEATS):
        if number == 0:
            _synchronize(device)
            started = time.perf_counter()
        torch.autograd.grad(attend(*inputs), inputs, upstream)
    _synchronize(device)
    return (time.perf_counter() - started) / _REPEATS


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    run("attention", measure)
