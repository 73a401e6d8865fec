"""Bytes that a GPU sends: by hand, and counted in a simulated training step (with parameters, peak memory and
FLOPs).
"""

from dataclasses import replace

import pytest
import torch
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

from safe_r1.models.gpus import get_gpu
from safe_r1.models.registry import VARIANTS, Layout
from safe_r1.train.architecture import ARCHITECTURES, Experts
from safe_r1.train.communication import Communication, Group, bytes_by_link, expert_exchange, group_of
from safe_r1.train.memory import GIB
from tests.scale.train_step import TOLERANCE, StepCase, count_by_layers, count_step, deviations, plan_step

LLAMA = replace(ARCHITECTURES["r1-distill-llama-8b"], num_layers=4)
QWEN = replace(ARCHITECTURES["r1-distill-qwen-7b"], num_layers=8)
R1 = replace(
    ARCHITECTURES["r1"], num_layers=3, experts=Experts(256, 8, 1, 2048, 1, num_groups=8, groups_per_token=4)
)


@pytest.mark.parametrize(
    ("collective", "group", "inside", "between"),
    [
        # A ring of two nodes: each rank sends 15 of 16 shards, and the last rank of a node sends them out.
        ("all_gather", Group(16, 8), 15 / 16 * 7 / 8, 15 / 16 / 8),
        ("reduce_scatter", Group(8, 8), 7 / 8, 0),
        ("reduce_scatter", Group(4, 1), 0, 3 / 4),
        ("all_reduce", Group(2, 1), 0, 1),
        ("all_to_all", Group(64, 8), 7 / 64, 56 / 64),
    ],
)
def test_bytes_of_a_collective_by_link(collective, group, inside, between):
    found = bytes_by_link(collective, 64.0, group)
    assert found == pytest.approx({"intra_node": 64 * inside, "inter_node": 64 * between})


def test_members_of_a_node():
    assert group_of(64, 1, 8) == Group(64, 8)
    assert group_of(8, 8, 8) == Group(8, 1)
    assert group_of(8, 4, 8) == Group(8, 2)
    assert group_of(2, 1, 8) == Group(2, 2)


def step_of(architecture, layout, micro_batches):
    gpu = get_gpu(layout.gpu)
    exchange = expert_exchange(architecture, layout, gpu.per_node)
    return Communication(architecture, layout, gpu, 8192, micro_batches, 1.0, exchange)


def test_a_single_gpu_sends_nothing():
    assert step_of(LLAMA, Layout("h100-80", 1), 4).transfers == []


def test_dense_model_by_hand():
    # 8 GPUs of a node: all layers and the embedding are gathered twice in bf16, norm and output layer once;
    # all gradients are reduced once in fp32; per micro-batch.
    layers = LLAMA.num_layers * LLAMA.layer_params(False)
    gathered = 2 * (2 * layers + 2 * LLAMA.embedding_params + LLAMA.embedding_params + LLAMA.hidden_size)
    step = step_of(LLAMA, Layout("h100-80", 8), 3)
    sizes = {transfer.purpose: transfer.sent["intra_node"] for transfer in step.transfers}
    assert sizes == pytest.approx(
        {"weights": 3 * 7 / 8 * gathered, "gradients": 3 * 7 / 8 * 4 * LLAMA.total_params}
    )
    assert step.sent("inter_node") == 0


def test_r1_sends_a_third_of_what_pairs_would_between_nodes():
    """Six exchanges of every pair of a token and an expert, 304 GiB, were transformers' dispatch."""
    r1 = ARCHITECTURES["r1"]
    pairs = 6 * 58 * 8192 * 8 * 7168 * 2 / GIB
    assert pairs == pytest.approx(304.5, abs=0.1)
    layout = Layout("h200-141", 64, ep_size=64)
    sent: dict[bool, float] = {}
    for kept in (True, False):
        step = step_of(r1, replace(layout, keep_routed_rows=kept), 1)
        sent[kept] = step.sent("inter_node", "tokens")
    assert sent[True] / GIB < pairs / 3
    assert sent[False] == pytest.approx(sent[True] * 5 / 4)


@pytest.mark.parametrize("num_nodes", [2, 4, 8, 16])
def test_nodes_of_a_token_are_those_that_the_router_gives(num_nodes):
    """Random scores, with R1's numbers of experts and groups."""
    config = DeepseekV3Config(hidden_size=64)
    router = DeepseekV3TopkRouter(config)
    torch.manual_seed(0)
    torch.nn.init.normal_(router.weight, std=0.02)
    chosen = router(torch.randn(4096, 64))[2]
    nodes = chosen // (config.n_routed_experts // num_nodes)
    counted = torch.zeros(4096, num_nodes).scatter_(1, nodes, 1.0).sum(1).mean().item()
    experts = ARCHITECTURES["r1"].experts
    assert experts
    assert experts.nodes_per_token(num_nodes) == pytest.approx(counted, rel=0.06)


CASES = {
    "node": StepCase(LLAMA, Layout("h100-80", 8), micro_batches=2),
    "one layer in two": StepCase(LLAMA, Layout("h100-80", 8), recompute_every=2, micro_batches=1),
    "deferred": StepCase(LLAMA, Layout("h100-80", 8), micro_batches=2, defer_reduction=True),
    "two nodes": StepCase(QWEN, Layout("h100-80", 16), recompute_every=0, micro_batches=1),
    "copies": StepCase(LLAMA, Layout("h100-80", 8, dp_replicate_size=2), micro_batches=1),
    "tensor": StepCase(LLAMA, Layout("h100-80", 8, tp_size=2), micro_batches=1),
    "experts": StepCase(R1, Layout("h200-141", 64, ep_size=64), micro_batches=1),
    "kept": StepCase(R1, Layout("h200-141", 64, ep_size=64, keep_routed_rows=True), micro_batches=1),
    "experts in a node": StepCase(R1, Layout("h200-141", 64, ep_size=8), micro_batches=1),
    "half of the nodes": StepCase(R1, Layout("h200-141", 64, ep_size=32), micro_batches=1),
    "256": StepCase(R1, Layout("h200-141", 256, ep_size=64), micro_batches=1),
    "4 × 64": StepCase(R1, Layout("h200-141", 64, ep_size=64, dp_replicate_size=4), micro_batches=1),
}


# Memory on the safe side, by 7 %: of activations where all are kept, and of a dense layer beside experts that
# are gathered ahead where a GPU has many of them (no layout of the planner's).
MORE_IS_PLANNED = ("two nodes", "experts in a node")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_plan_is_what_a_step_counts(name):
    case = CASES[name]
    found = deviations(count_step(case), plan_step(case))
    if name in MORE_IS_PLANNED:
        assert 0 <= found.pop("peak") < 0.08
    assert found == {what: pytest.approx(0, abs=TOLERANCE) for what in found}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers"),
    # On one GPU the peak is not that of the same moment for any number of layers.
    [("r1-distill-qwen-1.5b", None), ("r1-distill-qwen-7b", (2, 4)), ("r1-distill-llama-8b", (2, 4))],
)
def test_plan_of_a_whole_model_is_what_a_step_counts(name, layers):
    """Sharded ones from two counts of a few layers, as every further layer adds the same."""
    layout = VARIANTS[name].layout
    assert layout
    case = StepCase(ARCHITECTURES[name], layout, micro_batches=1)
    counted = count_by_layers(case, *layers) if layers else count_step(case)
    found = deviations(counted, plan_step(case))
    assert found == {what: pytest.approx(0, abs=TOLERANCE) for what in found}
