"""The planner's model of a step, held against published runs and against sums by hand."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safe_r1.models.gpus import get_gpu
from safe_r1.models.registry import Layout
from safe_r1.train.architecture import ARCHITECTURES, Architecture, Experts, LatentAttention
from safe_r1.train.communication import ExpertExchange, Group, Transfer
from safe_r1.train.step_time import EXPERT_SHARE, MATMUL_SHARE, StepModel, StepParts, StepSettings

CONTENT: dict[str, Any] = tomllib.loads(
    (Path(__file__).parents[2] / "baselines" / "training.toml").read_text("utf-8")
)
RUNS: dict[str, dict[str, Any]] = {run["name"]: run for run in CONTENT["run"]}
TESTED = [name for name, run in RUNS.items() if not run.get("fitted")]


def architecture_of(name: str) -> Architecture:
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    values = dict(CONTENT["models"][name])
    if "latent" in values:
        values["latent"] = LatentAttention(**values["latent"])
    if "experts" in values:
        values["experts"] = Experts(**values["experts"])
    return Architecture(**values)


def model_of(run: dict[str, Any]) -> StepModel:
    tp = run.get("tp", 1)
    return StepModel(
        architecture_of(run["model"]),
        Layout(
            run["gpu"],
            run["gpus"] // tp,
            tp_size=tp,
            ep_size=run.get("ep", 1),
            micro_batch_size=run["micro_batch"],
        ),
        replace(get_gpu(run["gpu"]), **run.get("gpu_values", {})),
        run["seq_len"],
        run["seq_len"],
        run["micro_batches"],
        StepSettings(
            recomputed=run["recomputed"],
            compiled=run.get("compiled", False),
            attention=run.get("attention", "fa2"),
            fp8=run.get("fp8"),
            fp8_experts=run.get("fp8_experts", False),
            loss_is_recomputed=False,
            output_splits=run.get("output_splits", 1),
            exchange=exchange_of(run) if run.get("ep", 1) > 1 else None,
            # The published runs balance their experts by force.
            imbalance=1.0,
            gradient_bytes=run.get("gradient_bytes", 4),
            is_fsdp2=run.get("is_fsdp2", True),
        ),
    )


def exchange_of(run: dict[str, Any]) -> ExpertExchange:
    experts = architecture_of(run["model"]).experts
    assert experts
    copies = run.get("gpu_copies", experts.per_token)
    return ExpertExchange(run.get("node_copies", 0), copies, run.get("resends", True), syncs=0)


def predicted(run: dict[str, Any]) -> float:
    """Tokens/s of one GPU."""
    model = model_of(run)
    parts = model.parts()
    if run.get("resident_weights"):
        parts = replace(parts, sharding=0.0)
    step_s = parts.total / (1 - run.get("bubble", 0.0))
    return model.tokens * run["micro_batches"] / run.get("tp", 1) / step_s


@pytest.mark.parametrize("name", TESTED)
def test_published_runs_that_no_constant_was_fitted_to(name):
    run = RUNS[name]
    assert predicted(run) == pytest.approx(run["tokens_per_s"], rel=0.2)


def test_fp8_is_as_much_faster_as_published():
    """On one machine; only that of scales by rows was fitted."""
    plain = RUNS["torchao 8B, bf16, 8 × H100"]
    for name in ("torchao 8B, FP8, 8 × H100", "torchao 8B, FP8 by rows, 8 × H100"):
        run = RUNS[name]
        published = run["tokens_per_s"] / plain["tokens_per_s"]
        assert predicted(run) / predicted(plain) == pytest.approx(published, rel=0.03)


def test_fp8_without_kernels_saves_nothing():
    """It is emulated on CPU; without a compiler its casts cost more than a fused one."""
    cpu = step_of(gpus=1, gpu="cpu").parts()
    emulated = step_of(gpus=1, gpu="cpu", settings=StepSettings(fp8="rowwise")).parts()
    assert emulated.matmul == cpu.matmul
    eager, compiled = (
        step_of(settings=StepSettings(fp8="rowwise", compiled=compiled)).parts() for compiled in (False, True)
    )
    assert eager.matmul == compiled.matmul
    assert eager.total > compiled.total


def test_routed_experts_stay_in_bf16():
    plain, fp8, all_fp8 = (
        step_of("r1", 64, ep_size=64, gpu="h200-141", settings=settings).parts()
        for settings in (
            StepSettings(compiled=True),
            StepSettings(compiled=True, fp8="tensorwise"),
            StepSettings(compiled=True, fp8="tensorwise", fp8_experts=True),
        )
    )
    assert fp8.experts == plain.experts == 2 * all_fp8.experts
    assert fp8.matmul == plain.matmul / 2
    assert fp8.output == plain.output


def step_of(name="r1-distill-llama-8b", gpus=8, *, micro_batches=1, settings=None, gpu="h100-80", **layout):
    return StepModel(
        ARCHITECTURES[name],
        Layout(gpu, gpus // layout.get("tp_size", 1), **layout),
        get_gpu(gpu),
        8192,
        1500,
        micro_batches,
        settings or StepSettings(),
    )


def test_r1_is_planned_at_what_its_exchange_leaves():
    model = step_of("r1", 64, ep_size=64, gpu="h200-141")
    exchange = model.communication.exchange
    assert exchange
    flops = model.architecture.train_flops_per_token(1500) * model.tokens
    assert 0.14 <= flops / model.parts().total / 989e12 <= 0.17
    # Sent to every GPU of an expert, as transformers does.
    pairs = replace(model, settings=StepSettings(exchange=replace(exchange, node_copies=0)))
    assert 0.10 <= flops / pairs.parts().total / 989e12 <= 0.13
    assert pairs.parts().expert_exchange > 1.25 * 6 * 58 * 8192 * 8 * 7168 * 2 * 56 / 64 / 50e9


def test_experts_in_a_node_send_no_tokens_between_nodes_but_weights():
    inside = step_of("r1", 64, ep_size=8)
    assert inside.communication.sent("inter_node", "tokens") == 0
    assert inside.parts().expert_exchange < step_of("r1", 64, ep_size=64).parts().expert_exchange / 4
    # Each GPU gathers 32 experts a layer twice through an adapter of its own, and reduces them in fp32.
    experts = (2 + 2 + 4) * 58 * 32 * 3 * 7168 * 2048
    seconds = inside.communication.seconds("expert weights", "expert gradients")
    assert seconds == pytest.approx(experts * 7 / 8 / (50e9 * 0.8))
    assert inside.parts().sharding > 0.3 * seconds


@pytest.mark.parametrize(
    ("group", "limit"),
    # Inside a node NVLink; over nodes eight adapters of 50 GB/s, one for each of the eight rings, or one.
    [(Group(8, 8), 450e9 * 0.75), (Group(16, 8), 8 * 50e9 * 0.8), (Group(16, 1), 50e9 * 0.8)],
)
def test_a_ring_over_nodes_is_limited_by_their_adapters(group, limit):
    gathering = Transfer("all_gather", "weights", group, 8e9, 1)
    moved = 8e9 * (group.size - 1) / group.size
    assert gathering.seconds(get_gpu("h100-80")) == pytest.approx(moved / limit)
    both = replace(gathering, collective="all_reduce")
    assert both.seconds(get_gpu("h100-80")) == pytest.approx(2 * moved / limit)


def test_communication_is_exposed_only_where_nothing_hides_it():
    """Half of the work for the same weights: what computation hid before no longer fits behind it."""
    model = step_of("r1-distill-llama-70b", 256)
    layers = model.architecture.num_layers
    gathers = model.communication.seconds("weights") / 2
    hidden = (gathers + model.communication.seconds("gradients")) / layers
    assert model.parts().sharding == pytest.approx(hidden)
    short = replace(model, seq_len=256)
    assert short.parts().sharding > 10 * hidden
    assert step_of("r1-distill-qwen-1.5b", 1).parts().sharding == 0


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"recomputed": 0.0}, "recomputation"),
        ({"compiled": True}, "elementwise"),
        ({"attention": "fa3"}, "attention"),
        ({"fp8": "tensorwise", "compiled": True}, "matmul"),
        ({"loss_is_recomputed": False}, "output"),
        ({"output_splits": 8}, "output"),
    ],
)
def test_each_setting_shortens_its_part(change, part):
    before = step_of(settings=StepSettings()).parts()
    after = step_of(settings=StepSettings(**change)).parts()
    assert getattr(after, part) < getattr(before, part)
    assert after.total < before.total


def test_matrix_products_are_the_models_flops():
    """Over all kernel classes, at their shares of the peak, against the architecture's own count."""
    for name, gpus, ep in (("r1-distill-llama-8b", 8, 1), ("r1", 64, 64)):
        settings = StepSettings(recomputed=0.0, loss_is_recomputed=False, imbalance=1.0)
        model = step_of(name, gpus, ep_size=ep, settings=settings)
        parts: StepParts = model.parts()
        logits = model.tokens * model.architecture.vocab_size * 40 / (3350e9 * 0.8)
        peak = 989e12 * MATMUL_SHARE["hopper"]
        flops = parts.matmul * peak + parts.experts * peak * EXPERT_SHARE + (parts.output - logits) * peak
        expected = model.architecture.train_flops_per_token(0) * model.tokens
        assert flops == pytest.approx(expected, rel=2e-3)


def test_offloading_replaces_the_update_on_the_gpu():
    """By hand: a layout of 8 moves 1 B parameters each, 12 bytes a micro-batch and 28 for the update."""
    parts = step_of(micro_batches=2, cpu_offload=True).parts()
    assert parts.optimizer == 0
    assert parts.offload == pytest.approx(8.030e9 / 8 * (2 * 12 + 28) / 20e9, rel=1e-3)


def test_deferred_gradients_are_reduced_once():
    every = step_of(micro_batches=8)
    once = step_of(micro_batches=8, settings=StepSettings(defer_gradient_reduction=True))
    assert once.communication.sent("intra_node", "weights") == every.communication.sent(
        "intra_node", "weights"
    )
    reduced = every.communication.sent("intra_node", "gradients")
    assert once.communication.sent("intra_node", "gradients") == reduced / 8
    # With short sequences nothing hides the reductions.
    slow, fast = (replace(step, seq_len=256).parts().sharding for step in (every, once))
    assert fast < 0.6 * slow
