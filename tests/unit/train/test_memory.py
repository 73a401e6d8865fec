"""The memory model against torch's own trackers, which run a whole step on fake tensors and count every
allocation.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModelForCausalLM

from safe_r1.models.registry import Layout
from safe_r1.train import memory
from safe_r1.train.architecture import ARCHITECTURES, Architecture, Experts, LatentAttention
from safe_r1.train.memory import GIB, MemoryModel

LLAMA = replace(ARCHITECTURES["r1-distill-llama-8b"], num_layers=3, vocab_size=32000)
QWEN = replace(ARCHITECTURES["r1-distill-qwen-7b"], num_layers=3, vocab_size=32000)
R1 = replace(
    ARCHITECTURES["r1"], num_layers=3, experts=Experts(16, 8, 1, 2048, first_dense=1), vocab_size=32000
)
DEMO = replace(ARCHITECTURES["demo"], num_layers=4, vocab_size=16384)
BUDGET_MIB = 256


class FlashAttention(torch.autograd.Function):
    """Saves and returns what fused attention does, without computing it.

    On CPU, sdpa has no such kernel for R1's head sizes.
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out = query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(part) for part in ctx.saved_tensors[:3])


def flash(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> tuple[torch.Tensor, None]:
    width = value.shape[-1]
    value = F.pad(value, (0, query.shape[-1] - width))
    query, key, value = (part.transpose(1, 2).contiguous().transpose(1, 2) for part in (query, key, value))
    return FlashAttention.apply(query, key, value)[..., :width], None


def config_of(architecture: Architecture) -> Any:
    names = {
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "num_key_value_heads": "num_kv_heads",
    }
    names |= {"max_position_embeddings": "context", "tie_word_embeddings": "tied"}
    names |= {name: name for name in ("hidden_size", "intermediate_size", "vocab_size")}
    sizes = {theirs: getattr(architecture, ours) for theirs, ours in names.items()}
    if isinstance(architecture.latent, LatentAttention) and architecture.experts:
        sizes |= {
            "n_routed_experts": architecture.experts.num,
            "first_k_dense_replace": architecture.experts.first_dense,
        }
        sizes |= {"experts_implementation": "grouped_mm"}
    return AutoConfig.for_model(architecture.family, **sizes)


def shard(model: Any, world: int, bf16: bool) -> None:
    """Shard as transformers' plan does."""
    dtype = torch.bfloat16 if bf16 else None
    policy: dict[str, Any] = {"mesh": MESH[world], "mp_policy": MixedPrecisionPolicy(dtype, torch.float32)}
    for part in (model.model.embed_tokens, *model.model.layers):
        fully_shard(part, **policy)
    fully_shard([model.model.norm, model.lm_head], reshard_after_forward=False, **policy)
    fully_shard(model, **policy)


MESH: dict[int, Any] = {}


@pytest.fixture
def world(request):
    """A number of ranks, of which one is real."""
    if request.param > 1:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=request.param)
        MESH[request.param] = init_device_mesh("cpu", (request.param,))
    yield request.param
    if request.param > 1:
        dist.destroy_process_group()


def peak_gib(
    architecture: Architecture, world: int, tokens: int, bf16: bool, recompute: bool, attention: str
) -> float:
    """Counted peak of a worker's second step, without the optimizer's moments."""
    config = config_of(architecture)
    config._attn_implementation = attention
    with FakeTensorMode(), torch.device("cpu"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        ids, positions = torch.zeros(1, tokens, dtype=torch.long), torch.arange(tokens)[None]
        model.lm_head.forward = lambda hidden: loss_of(hidden[0], model.lm_head.weight, ids[0])
        model.forward = lambda ids: model.lm_head(
            model.model(input_ids=ids, position_ids=positions, use_cache=False)[0]
        )
        if world > 1:
            shard(model, world, bf16)
        tracker = FSDPMemTracker(model) if world > 1 else MemTracker()
        if world == 1:
            for weight in model.parameters():
                weight.grad = torch.zeros_like(weight)
            tracker.track_external(model)
        with tracker:
            for _ in range(2 if world > 1 else 1):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and world == 1):
                    loss = model(ids)
                loss.backward()
                tracker.reset_mod_stats()
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    return snapshot["Total"] / GIB


def loss_of(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    def piece(hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="sum")

    rows = (BUDGET_MIB << 20) // (weight.shape[0] * memory.BYTES_PER_LOGIT)
    pieces = zip(hidden.split(rows), labels.split(rows), strict=True)
    losses: list[Any] = [checkpoint(piece, *both, use_reentrant=False) for both in pieces]
    return torch.stack(losses).sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "world", "tokens", "bf16", "recompute", "attention"),
    [
        (replace(LLAMA, vocab_size=128256), 8, 1024, True, True, "sdpa"),  # peak at the loss
        (QWEN, 8, 16384, True, True, "counted"),  # peak in a layer
        (LLAMA, 8, 4096, True, False, "sdpa"),
        (R1, 16, 8192, True, True, "counted"),
        (LLAMA, 1, 16384, True, True, "sdpa"),
        (LLAMA, 4, 16384, False, True, "sdpa"),
        (DEMO, 1, 8192, False, True, "sdpa"),
    ],
    indirect=["world"],
)
def test_peaks_are_those_torch_counts(architecture, world, tokens, bf16, recompute, attention, monkeypatch):
    monkeypatch.setattr(memory, "EXPERT_IMBALANCE", 1.0)
    AttentionInterface.register("counted", flash)
    AttentionMaskInterface.register("counted", lambda *args, **kwargs: None)
    model = MemoryModel(
        architecture, Layout("h100-80", world), tokens, recompute, BUDGET_MIB, 2 if bf16 else 4
    )
    planned = max(parts.total - parts.optimizer for parts in (model.at_loss(), model.at_layer()))
    counted = peak_gib(architecture, world, tokens, bf16, recompute, attention)
    assert -0.03 < planned / counted - 1 < 0.2, f"planned {planned:.2f} GiB, counted {counted:.2f}"


def test_parts_by_hand():
    # One worker, fp32: 4 + 4 + 8 bytes for each of 135 million parameters.
    model = MemoryModel(ARCHITECTURES["demo"], Layout("cpu", 1), 1024, True, 10**6, 4)
    parts = model.at_loss()
    assert parts.states == pytest.approx(16 * 0.134515008e9 / GIB)
    assert parts.logits == pytest.approx(12 * 1024 * 49152 / GIB)
    assert parts.total == pytest.approx(parts.states + parts.activations + parts.logits + parts.gathered)
    assert model.at_layer().logits == 0


@pytest.mark.parametrize(
    ("num_gpus", "ep_size", "experts"), [(64, 64, 4), (256, 64, 1), (512, 64, 1), (64, 1, 4), (96, 32, 3)]
)
def test_experts_are_not_cut(num_gpus, ep_size, experts):
    r1 = ARCHITECTURES["r1"]
    model = MemoryModel(r1, Layout("h100-80", num_gpus, ep_size=ep_size), 8192, True, 512, 2)
    assert model.params == pytest.approx(r1.dense_params / num_gpus + 58 * experts * r1.expert_params)


def test_tensor_parallelism_cuts_layers_but_not_embeddings():
    llama = ARCHITECTURES["r1-distill-llama-8b"]
    whole, cut = (MemoryModel(llama, Layout("h100-80", 4, tp_size=tp), 8192, True, 512, 2) for tp in (1, 2))
    outside = 2 * llama.embedding_params / 4
    assert (whole.params - outside) / 2 == pytest.approx(cut.params - outside, rel=1e-3)
    assert cut.at_layer().total < whole.at_layer().total
