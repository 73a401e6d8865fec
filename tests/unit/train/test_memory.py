"""The memory model against torch's own trackers, which run a whole step on fake tensors and count every
allocation.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM

from safe_r1.models.registry import Layout
from safe_r1.train import memory
from safe_r1.train.architecture import ARCHITECTURES, Architecture, Experts
from safe_r1.train.loss import summed_cross_entropy
from safe_r1.train.memory import GIB, MemoryModel
from tests.hf_config import hf_config
from tests.scale.fake_step import ATTENTION, register_attention

LLAMA = replace(ARCHITECTURES["r1-distill-llama-8b"], num_layers=3, vocab_size=32000)
QWEN = replace(ARCHITECTURES["r1-distill-qwen-7b"], num_layers=3, vocab_size=32000)
R1 = replace(
    ARCHITECTURES["r1"], num_layers=3, experts=Experts(16, 8, 1, 2048, first_dense=1), vocab_size=32000
)
DEMO = replace(ARCHITECTURES["demo"], num_layers=4, vocab_size=16384)
BUDGET_MIB = 256


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
    architecture: Architecture,
    world: int,
    tokens: int,
    bf16: bool,
    recompute: bool,
    attention: str,
    every: int = 1,
    defer: bool = False,
) -> float:
    """Counted peak of a worker's second step, without the optimizer's moments."""
    config = hf_config(architecture)
    config._attn_implementation = attention
    with FakeTensorMode(), torch.device("cpu"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
        if recompute:
            model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)
        ids, positions = torch.zeros(1, tokens, dtype=torch.long), torch.arange(tokens)[None]
        model.lm_head.forward = lambda hidden: summed_cross_entropy(
            hidden, model.lm_head.weight, ids[0], BUDGET_MIB
        )
        autocast = bf16 and world == 1

        def forward(ids: torch.Tensor) -> torch.Tensor:
            # As `load_model` has it, here on fake tensors.
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                hidden = model.model(input_ids=ids, position_ids=positions, use_cache=False)[0]
            rows = hidden.flatten(0, 1).index_select(0, positions[0])
            return model.lm_head(rows.bfloat16() if autocast else rows)

        model.forward = forward
        if world > 1:
            shard(model, world, bf16)
        tracker = FSDPMemTracker(model) if world > 1 else MemTracker()
        if world == 1:
            for weight in model.parameters():
                weight.grad = torch.zeros_like(weight)
            tracker.track_external(model)
        with tracker:
            for step in range(2 if world > 1 else 1):
                if defer:
                    model.set_requires_gradient_sync(step == 1)
                model(ids).backward()
                tracker.reset_mod_stats()
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    return snapshot["Total"] / GIB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "world", "tokens", "bf16", "recompute", "attention"),
    [
        (replace(LLAMA, vocab_size=128256), 8, 1024, True, True, "sdpa"),  # peak at the loss
        (QWEN, 8, 16384, True, True, ATTENTION),  # peak in a layer
        (LLAMA, 8, 4096, True, False, "sdpa"),
        (R1, 16, 8192, True, True, ATTENTION),
        (LLAMA, 1, 16384, True, True, "sdpa"),
        (LLAMA, 4, 16384, False, True, "sdpa"),
        (DEMO, 1, 8192, False, True, "sdpa"),
    ],
    indirect=["world"],
)
def test_peaks_are_those_torch_counts(architecture, world, tokens, bf16, recompute, attention, monkeypatch):
    monkeypatch.setattr(memory, "EXPERT_IMBALANCE", 1.0)
    register_attention()
    model = MemoryModel(
        architecture, Layout("h100-80", world), tokens, recompute, BUDGET_MIB, 2 if bf16 else 4
    )
    planned = max(parts.total - parts.optimizer for parts in (model.at_loss(), model.at_layer()))
    counted = peak_gib(architecture, world, tokens, bf16, recompute, attention)
    assert -0.03 < planned / counted - 1 < 0.2, f"planned {planned:.2f} GiB, counted {counted:.2f}"


@pytest.mark.slow
@pytest.mark.parametrize("world", [8], indirect=True)
@pytest.mark.parametrize(("every", "defer"), [(2, False), (3, False), (1, True)])
def test_peaks_with_the_options(world: int, every: int, defer: bool):
    llama = replace(LLAMA, num_layers=8)
    model = MemoryModel(llama, Layout("h100-80", world), 4096, True, BUDGET_MIB, 2, every, defer)
    planned = max(parts.total - parts.optimizer for parts in (model.at_loss(), model.at_layer()))
    counted = peak_gib(llama, world, 4096, True, True, "sdpa", every, defer)
    assert -0.03 < planned / counted - 1 < 0.2, f"planned {planned:.2f} GiB, counted {counted:.2f}"


def test_parts_by_hand():
    # One worker, fp32: 4 + 4 + 8 bytes for each of 135 million parameters.
    model = MemoryModel(ARCHITECTURES["demo"], Layout("cpu", 1), 1024, True, 10**6, 4)
    parts = model.at_loss()
    assert parts.states == pytest.approx(16 * 0.134515008e9 / GIB)
    assert parts.logits == pytest.approx(6 * 1024 * 49152 / GIB)
    assert parts.total == pytest.approx(parts.states + parts.activations + parts.logits + parts.gathered)
    assert model.at_layer().logits == 0


@pytest.mark.parametrize(
    ("num_gpus", "ep_size", "experts"), [(64, 64, 4), (256, 64, 1), (512, 64, 1), (64, 1, 4), (96, 32, 3)]
)
def test_experts_are_not_cut(num_gpus, ep_size, experts):
    r1 = ARCHITECTURES["r1"]
    model = MemoryModel(r1, Layout("h100-80", num_gpus, ep_size=ep_size), 8192, True, 512, 2)
    assert model.params == pytest.approx(r1.dense_params / num_gpus + 58 * experts * r1.expert_params)


def test_tensor_parallelism_cuts_layers_and_embedding_but_not_the_output_layer():
    llama = ARCHITECTURES["r1-distill-llama-8b"]
    whole, cut = (MemoryModel(llama, Layout("h100-80", 4, tp_size=tp), 8192, True, 512, 2) for tp in (1, 2))
    outside = llama.embedding_params / 4
    assert (whole.params - outside) / 2 == pytest.approx(cut.params - outside, rel=1e-3)
    assert cut.at_layer().total < whole.at_layer().total
