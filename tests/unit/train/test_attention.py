"""The probe and the attention function on CPU, with a reference in place of the GPU's kernel."""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import _registry, current_flash_attention_impl, restore_flash_attention_impl
from torch.utils._python_dispatch import TorchDispatchMode

from safe_r1.train import attention
from safe_r1.train.architecture import ARCHITECTURES
from safe_r1.train.attention import HeadSizes, Precision, head_sizes, probe_varlen, select_attention
from safe_r1.train.batches import Batch, collate
from safe_r1.train.model import ModelSpec, load_model
from safe_r1.train.packed import PackedSequence
from safe_r1.train.parallel import ParallelDims
from safe_r1.train.varlen import VARLEN
from tests.tiny_models import make_tiny

Kernel = Callable[..., Tensor]
KERNEL = "torch.nn.attention.varlen.varlen_attn"
HEADS = [HeadSizes(1, 64, 64), HeadSizes(7, 128, 128), HeadSizes(8, 128, 128), HeadSizes(1, 192, 128)]


def reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """What torch's kernel computes and refuses, document by document."""
    if {part.dtype for part in (query, key, value)} != {torch.bfloat16}:
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    if query.shape[-1] != value.shape[-1]:
        raise RuntimeError("query, key and value must have the same head dimension")
    assert cu_seq_q is cu_seq_k
    boundaries = cu_seq_q.tolist()
    lengths = [end - start for start, end in itertools.pairwise(boundaries)]
    assert sum(lengths) == len(query) == len(key)
    assert max_q == max_k == max(lengths)
    outputs = [
        F.scaled_dot_product_attention(
            *(part.transpose(0, 1) for part in document),
            scale=scale,
            is_causal=window_size == (-1, 0),
            enable_gqa=enable_gqa,
        ).transpose(0, 1)
        for document in zip(*(part.split(lengths) for part in (query, key, value)), strict=True)
    ]
    return torch.cat(outputs)


def without_causal_mask(*parts: Any, **options: Any) -> Tensor:
    return reference(*parts, **options | {"window_size": (-1, -1)})


def across_documents(query: Tensor, key: Tensor, value: Tensor, cu_seq: Tensor, *_: Any, **options: Any):
    whole = torch.tensor([0, len(query)], dtype=torch.int32)
    return reference(query, key, value, whole, whole, len(query), len(query), **options)


def in_other_groups(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
    repeats = query.shape[1] // key.shape[1]
    key, value = (part.repeat(1, repeats, 1) for part in (key, value))
    return reference(query, key, value, *rest, **options | {"enable_gqa": False})


def at_another_scale(*parts: Any, **options: Any) -> Tensor:
    return reference(*parts, **options | {"scale": 1.0})


def without_gradient_of_keys(query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Tensor:
    return reference(query, key.detach() + 0 * key, *rest, **options)


def of_nan(*parts: Any, **options: Any) -> Tensor:
    return reference(*parts, **options) * math.nan


WRONG: list[tuple[Kernel, str]] = [
    (without_causal_mask, "output by"),
    (across_documents, "output by"),
    (in_other_groups, "output by"),
    (at_another_scale, "output by"),
    (without_gradient_of_keys, "gradient of keys by 100%"),
    (of_nan, "output by nan"),
]


@pytest.fixture(autouse=True)
def kernel_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The probe runs on CPU as it does on a GPU."""
    monkeypatch.setattr(attention, "_KERNEL_DEVICE", "cpu")
    monkeypatch.setattr(KERNEL, reference)
    select_attention.cache_clear()
    yield
    select_attention.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "autocast"])
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_a_right_kernel_is_chosen(heads: HeadSizes, precision: Precision):
    assert probe_varlen(heads, precision, "cpu") == ""
    assert str(select_attention(heads, precision, "cpu")) == f"{VARLEN} (FA2)"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "autocast"])
@pytest.mark.parametrize(("kernel", "difference"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_kernel_is_found_out_and_told(
    kernel: Kernel,
    difference: str,
    precision: Precision,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(KERNEL, kernel)
    choice = select_attention(HeadSizes(7, 128, 128), precision, "cpu")
    assert choice.name == "sdpa"
    assert choice.fallback_reason.startswith("its results differ from sdpa's:")
    assert difference in choice.fallback_reason
    [line] = caplog.messages
    assert choice.fallback_reason in line
    # Told once in each process.
    assert select_attention(HeadSizes(7, 128, 128), precision, "cpu") is choice
    assert len(caplog.messages) == 1


def test_a_kernel_that_refuses_the_data_type_is_a_reason_and_no_crash():
    reason = probe_varlen(HeadSizes(1, 64, 64), "fp32", "cpu")
    refusal = "FlashAttention only support fp16 and bf16 data type"
    assert reason == f"its kernel fails with 64 and 64 per head in fp32: {refusal}"


def test_a_torch_without_the_kernel_is_a_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(KERNEL)
    choice = select_attention(HeadSizes(1, 64, 64), "bf16", "cpu")
    assert "does not have it: cannot import name 'varlen_attn'" in str(choice)


def test_without_a_gpu_sdpa_is_no_fallback(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(attention, "_KERNEL_DEVICE", "cuda")
    assert str(select_attention(HeadSizes(1, 64, 64), "bf16", "cpu")) == "sdpa"
    assert not caplog.messages


class Fa3:
    """Takes the place of a package that registers its kernels with torch."""

    def __init__(self, kernel: Kernel | Exception, monkeypatch: pytest.MonkeyPatch):
        self.kernel = kernel
        self.monkeypatch = monkeypatch

    def register(self) -> "Fa3":
        if isinstance(self.kernel, Exception):
            raise self.kernel
        self.monkeypatch.setattr(KERNEL, self.kernel)
        return self

    def remove(self) -> None:
        self.monkeypatch.setattr(KERNEL, reference)


@pytest.mark.parametrize(
    ("kernel", "told"),
    [
        (reference, "FA3"),
        (across_documents, "FA2, not FA3: its results differ from sdpa's: output by"),
        (of_nan, "FA2, not FA3: its results differ from sdpa's: output by nan%"),
        (ImportError("libcuda: not found\nmore"), "FA2, not FA3: it cannot be loaded: libcuda: not found)"),
        (RuntimeError("no FA3 kernels"), "FA2, not FA3: it cannot be loaded: no FA3 kernels)"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_flash_attention_3_is_used_where_it_is_and_is_right(
    kernel: Kernel | Exception, told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(attention, "_has_fa3", lambda: True)
    monkeypatch.setitem(_registry._FLASH_ATTENTION_IMPLS, "FA3", Fa3(kernel, monkeypatch).register)
    choice = select_attention(HeadSizes(2, 64, 64), "bf16", "cpu")
    assert choice.name == VARLEN
    assert str(choice).startswith(f"{VARLEN} ({told}")
    # A kernel that is not used is not left in torch either.
    active = current_flash_attention_impl()
    assert active == ("FA3" if choice.kernels == "FA3" else None)
    told_of = [record.message for record in caplog.records if record.name.startswith("safe_r1")]
    assert len(told_of) == (choice.kernels == "FA2")
    restore_flash_attention_impl(_raise_warn=False)


def test_flash_attention_3_is_looked_for_on_hopper_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(attention, "_FA3_MODULE", "json")
    for capability, found in (((8, 9), False), ((9, 0), True), ((10, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert attention._has_fa3() == found
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(attention, "_FA3_MODULE", "no_such_module")
    assert not attention._has_fa3()


def test_head_sizes_of_the_family():
    found = {name: head_sizes(model) for name, model in ARCHITECTURES.items()}
    assert found["r1"] == HeadSizes(1, 192, 128)
    assert found["r1-distill-qwen-7b"] == HeadSizes(7, 128, 128)
    assert found["demo"] == HeadSizes(3, 64, 64)


def packed(*lengths: int) -> PackedSequence:
    generator = torch.Generator().manual_seed(sum(lengths))
    tokens = torch.randint(10, 1500, (sum(lengths),), generator=generator).numpy()
    kinds = ["safety"] * len(lengths)
    return PackedSequence(tokens, list(lengths), [1] * len(lengths), kinds, kinds)


def loss_and_gradients(folder: Path, varlen: bool, bf16: bool) -> tuple[float, dict[str, Tensor]]:
    model = load_model(ModelSpec(str(folder), bf16=bf16), ParallelDims(), "cpu")
    assert (model.config._attn_implementation == VARLEN) == varlen
    batch: Batch = collate([packed(20, 9), packed(31)], "cpu", varlen)
    loss = model(**batch.model_inputs)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["qwen2", "llama", "deepseek_v3"])
def test_one_gpu_computes_with_the_kernel_what_it_computes_in_fp32(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    changes: dict[str, Any] = {} if arch == "deepseek_v3" else {"num_key_value_heads": 1}
    folder = make_tiny(arch, tmp_path / arch, **changes)
    loss, gradients = loss_and_gradients(folder, varlen=True, bf16=True)
    monkeypatch.setattr(attention, "_KERNEL_DEVICE", "cuda")
    select_attention.cache_clear()
    wanted, wanted_gradients = loss_and_gradients(folder, varlen=False, bf16=False)
    plain, plain_gradients = loss_and_gradients(folder, varlen=False, bf16=True)
    assert loss == pytest.approx(wanted, rel=1e-2)
    assert plain == pytest.approx(wanted, rel=1e-2)
    assert gradients.keys() == wanted_gradients.keys()
    # Rounded as sdpa in bf16 is, and no more.
    assert difference(gradients, wanted_gradients) < 1.2 * difference(plain_gradients, wanted_gradients)


def difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    square = sum(float((found[name] - wanted[name]).square().sum()) for name in wanted)
    return math.sqrt(square / sum(float(part.square().sum()) for part in wanted.values()))


class RecordAttentionTypes(TorchDispatchMode):
    """The data types in which attention kernels are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[set[torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "scaled_dot_product" in str(func) and "backward" not in str(func):
            self.seen.append({part.dtype for part in args[:3]})
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
def test_sdpa_gets_one_data_type_under_autocast(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention, "_KERNEL_DEVICE", "cuda")
    model = load_model(ModelSpec(str(tiny_llama), bf16=True), ParallelDims(), "cpu")
    with RecordAttentionTypes() as types:
        model(**collate([packed(20, 9)], "cpu", varlen=False).model_inputs)
    assert types.seen
    assert all(seen == {torch.bfloat16} for seen in types.seen)
