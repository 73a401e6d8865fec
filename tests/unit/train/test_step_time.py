"""The planner's model of a step, held against published runs and against sums by hand."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safe_r1.models.gpus import get_gpu
from safe_r1.models.registry import Layout
from safe_r1.train.architecture import ARCHITECTURES, Architecture, Experts, LatentAttention
from safe_r1.train.step_time import EXPERT_SHARE, MATMUL_SHARE, StepModel, StepParts, StepSettings
from safe_r1.train.traffic import ExpertExchange, Traffic

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
            fp8=run.get("fp8", False),
            loss_is_recomputed=False,
            output_splits=run.get("output_splits", 1),
            # The published runs balance their experts by force.
            exchange=ExpertExchange(
                run.get("node_copies"),
                run.get("gpu_copies"),
                run.get("resends", True),
                imbalance=1.0,
                syncs=0,
            ),
        ),
    )


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


def test_what_r1_sends_to_its_experts_today():
    """stack.md: 6 exchanges a layer and micro-batch, 304 GiB a rank and step on 64 ranks."""
    traffic = step_of("r1", 64, ep_size=64, gpu="h200-141").traffic
    assert traffic.num_exchanges == 6 * 58
    assert traffic.exchange_bytes == 6 * 58 * 8192 * 8 * 7168 * 2
    assert traffic.exchange_bytes / 2**30 == pytest.approx(304, abs=1)
    # 7 of 8 rows go to one of the other seven nodes, through an adapter of 50 GB/s.
    assert traffic.exchange_bytes_between_nodes == traffic.exchange_bytes * 7 / 8
    assert traffic.exchange_s > traffic.exchange_bytes_between_nodes / 50e9


def test_r1_is_planned_at_what_its_exchange_leaves():
    model = step_of("r1", 64, ep_size=64, gpu="h200-141")
    flops = model.architecture.train_flops_per_token(1500) * model.tokens
    assert 0.11 <= flops / model.parts().total / 989e12 <= 0.15


def test_experts_in_a_node_send_nothing_between_nodes():
    traffic = step_of("r1", 64, ep_size=8).traffic
    assert traffic.exchange_bytes_between_nodes == 0
    assert traffic.exchange_s < step_of("r1", 64, ep_size=64).traffic.exchange_s / 4
    # Instead their weights are sharded over the nodes and gathered: each GPU receives those of 32 experts a
    # layer through an adapter of its own.
    experts = 2 * 58 * 32 * 3 * 7168 * 2048
    assert traffic.gather_s > experts * 7 / 8 / 50e9


def test_rows_that_are_kept_or_sent_once_to_a_node():
    whole = step_of("r1", 64, ep_size=64).traffic
    kept = replace(whole, exchange=ExpertExchange(resends=False))
    assert kept.exchange_bytes == whole.exchange_bytes * 4 / 6
    assert replace(whole, exchange=ExpertExchange(node_copies=4)).exchange_bytes == whole.exchange_bytes / 2


def test_a_ring_over_nodes_is_limited_by_their_adapters():
    traffic = Traffic(ARCHITECTURES["r1-distill-llama-8b"], Layout("h100-80", 16), get_gpu("h100-80"), 1)
    inside = traffic.ring_s(8e9, 8, 8)
    assert inside == pytest.approx(7e9 / (450e9 * 0.75))
    # Eight adapters of 50 GB/s, one for each of the eight rings.
    assert traffic.ring_s(16e9, 16, 8) == pytest.approx(15e9 / (8 * 50e9 * 0.8))
    assert traffic.ring_s(16e9, 16, 1) == pytest.approx(15e9 / (50e9 * 0.8))
    assert traffic.ring_s(16e9, 1, 1) == 0


def test_communication_is_exposed_only_where_nothing_hides_it():
    """Half of the work for the same weights: what computation hid before no longer fits behind it."""
    model = step_of("r1-distill-llama-70b", 256)
    layers = model.architecture.num_layers
    hidden = 2 * model.traffic.gather_s / layers
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
        ({"fp8": True}, "matmul"),
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
        settings = StepSettings(
            recomputed=0.0, loss_is_recomputed=False, exchange=ExpertExchange(imbalance=1.0)
        )
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
