"""A training step of the table's models at their planned size, counted and held against the plan.

    python -m tests.scale.train_step [VARIANT ...]

Builds each model as training does, shards it over a fake process group of the planned number of GPUs, and
runs the project's own step of two micro-batches on fake tensors. Prints a row per model: counted and planned
parameters and peak memory of a GPU, FLOPs, and bytes sent inside a node and between nodes.
"""

import argparse
import functools
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch

from safe_r1.models.gpus import get_gpu
from safe_r1.models.registry import VARIANTS, Layout
from safe_r1.train import memory
from safe_r1.train.architecture import ARCHITECTURES, Architecture
from safe_r1.train.batches import Batch
from safe_r1.train.communication import Collective, Link
from safe_r1.train.config import ParallelConfig
from safe_r1.train.memory import GIB
from safe_r1.train.model import ModelSpec, build_model
from safe_r1.train.parallel import resolve_dims
from safe_r1.train.plan import TrainPlan, make_plan
from safe_r1.train.step import train_step
from tests.hf_config import hf_config
from tests.scale.fake_step import (
    ATTENTION,
    StepCounter,
    fake_tensors,
    fake_workers,
    register_attention,
    spread,
)

SEQ_LEN = 8192
LOGITS_BUDGET_MIB = 512
TOLERANCE = 0.06


@dataclass(frozen=True)
class StepFigures:
    """Figures of one rank's step.

    Attributes:
        params: Parameters whose states the rank holds.
        peak_gib: Peak memory without the optimizer's moments.
        flops: Of the matrix products of one micro-batch, forward and backward, without recomputation.
        sent: Bytes of the step by collective and link.
    """

    params: float
    peak_gib: float
    flops: float
    sent: dict[tuple[Collective, Link], float]

    def total_gib(self, link: Link) -> float:
        """GiB that the rank sends over a link."""
        return sum(size for (_, over), size in self.sent.items() if over == link) / GIB


def _routed_counts(architecture: Architecture, layout: Layout, shape: Sequence[int]) -> list[Any]:
    """Numbers of routed rows, balanced, which a rank's dispatch reads to the host.

    Transformers' own has the shape (2, ranks): sent and received pairs of a token and an expert. Ours is a
    list of rows sent to and received from each node, and pairs sent to and received from each rank of a node.
    """
    experts = architecture.experts
    assert experts
    tokens = SEQ_LEN * layout.micro_batch_size // layout.tp_size
    pairs = tokens * experts.per_token
    if len(shape) == 2:
        return [spread(pairs, shape[1])] * 2
    per_node = get_gpu(layout.gpu).per_node
    nodes = layout.ep_size // per_node
    rows = spread(round(tokens * experts.nodes_per_token(nodes)), nodes)
    return [*rows, *rows, *spread(pairs, per_node), *spread(pairs, per_node)]


@dataclass(frozen=True)
class StepCase:
    """A step to count and to plan.

    Attributes:
        architecture: Dimensions of the model.
        layout: GPUs and sharding.
        recompute_every: One of so many layers is recomputed; 0: none.
        micro_batches: Of a rank. Before a single one the gradients of another are there, so that its peak
            memory is that of all but the first of a step.
        defer_reduction: Gradients are reduced with the last micro-batch only.
    """

    architecture: Architecture
    layout: Layout
    recompute_every: int = 1
    micro_batches: int = 2
    defer_reduction: bool = False

    @property
    def plan(self) -> TrainPlan:
        """The plan of a run of such steps."""
        layout = self.layout
        return make_plan(
            self.architecture,
            layout,
            seq_len=SEQ_LEN,
            global_batch_size=layout.dp_size * layout.micro_batch_size * self.micro_batches,
            activation_checkpointing=self.recompute_every > 0,
            logits_budget_mib=LOGITS_BUDGET_MIB,
            recompute_every=max(1, self.recompute_every),
            defer_gradient_reduction=self.defer_reduction,
        )


def count_step(case: StepCase) -> StepFigures:
    """Run a step on fake tensors."""
    architecture = case.architecture
    layout = case.layout
    register_attention()
    gpu = get_gpu(layout.gpu)
    dims = resolve_dims(ParallelConfig(), layout, layout.num_gpus)
    spec = ModelSpec.of_plan(case.plan)
    config = hf_config(architecture)
    config._attn_implementation = ATTENTION
    tokens = SEQ_LEN * layout.micro_batch_size
    forward_flops: list[int] = []
    counts = functools.partial(_routed_counts, architecture, layout)
    with fake_workers(layout.num_gpus, gpu.per_node):
        # Device meshes have real tensors, so the model is sharded before tensors become fake.
        model: Any = build_model(config, spec, dims, "cpu")
        with fake_tensors(counts):
            model.to_empty(device="cpu")
            counter = StepCounter(gpu.per_node, tokens)
            counter.track((list(model.parameters()), list(model.buffers())))
            forward = model.forward

            def counted_forward(**inputs: Any) -> Any:
                before = counter.flops
                loss = forward(**inputs)
                forward_flops.append(counter.flops - before)
                return loss

            model.forward = counted_forward
            if case.micro_batches == 1:
                for each in model.parameters():
                    each.grad = torch.zeros_like(each)
                counter.track([each.grad for each in model.parameters()])
            params = sum(getattr(each, "_local_tensor", each).numel() for each in model.parameters())
            # Moments are counted by hand: torchao's, in 8 bits, have compiled updates.
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, foreach=False)
            ids = torch.zeros(1, tokens, dtype=torch.int64)
            positions = torch.arange(tokens)
            # Every position is learned.
            batch = Batch(ids, positions[None], ids[0], positions, tokens)
            with counter:
                batches = [batch] * case.micro_batches
                train_step(model, optimizer, batches, dims, 1e-5, 1.0, defer_reduction=case.defer_reduction)
    # The forward pass of the loss computes its gradients too, so that it has all three parts of its FLOPs.
    output_layer = 2.0 * architecture.embedding_params * tokens
    flops = 3.0 * (forward_flops[0] - 3 * output_layer) + 3 * output_layer
    return StepFigures(params, counter.peak / GIB, flops, dict(counter.sent))


def count_by_layers(case: StepCase, fewer: int, more: int) -> StepFigures:
    """The figures of a model of equal layers from those of two numbers of layers."""
    few, many = (
        count_step(replace(case, architecture=replace(case.architecture, num_layers=number)))
        for number in (fewer, more)
    )
    steps = (case.architecture.num_layers - more) / (more - fewer)

    def whole(first: float, second: float) -> float:
        return second + steps * (second - first)

    return StepFigures(
        whole(few.params, many.params),
        whole(few.peak_gib, many.peak_gib),
        whole(few.flops, many.flops),
        {key: whole(few.sent[key], size) for key, size in many.sent.items()},
    )


def plan_step(case: StepCase) -> StepFigures:
    """The same figures from the planner's models, for experts that get equally many tokens."""
    architecture = case.architecture
    layout = case.layout
    plan = case.plan
    with mock.patch.object(memory, "EXPERT_IMBALANCE", 1.0):
        peak = max(parts.total - parts.optimizer for parts in plan.memory_peaks.values())
    sent: Counter[tuple[Collective, Link]] = Counter()
    for transfer in plan.step_model.communication.transfers:
        for link, size in transfer.sent.items():
            if size:
                sent[transfer.collective, link] += round(size)
    # The attention that stands in for the fused one has no matrix products.
    # The output layer is not split by tensor parallelism.
    output_layer = 6.0 * architecture.embedding_params
    flops = (architecture.train_flops_per_token(0) - output_layer) / layout.tp_size + output_layer
    tokens = SEQ_LEN * layout.micro_batch_size
    return StepFigures(plan.memory_model.params, peak, flops * tokens, dict(sent))


def deviations(counted: StepFigures, planned: StepFigures) -> dict[str, float]:
    """Relative difference of each planned figure from the counted one."""
    found = {
        "params": planned.params / counted.params - 1,
        "peak": planned.peak_gib / counted.peak_gib - 1,
        "flops": planned.flops / counted.flops - 1,
    }
    for key in sorted(counted.sent.keys() | planned.sent.keys()):
        # The loss, the gradient norm and the counts of routed rows are not planned.
        if counted.sent.get(key, 0) > 2**20 or key in planned.sent:
            wanted = counted.sent.get(key, 0)
            found[" ".join(key)] = planned.sent.get(key, 0) / wanted - 1 if wanted else float("inf")
    return found


def main() -> int:
    """Print the table; 1 where a figure is off by more than ``TOLERANCE``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [name for name, variant in VARIANTS.items() if name in ARCHITECTURES and variant.layout]
    names.remove("demo")
    parser.add_argument("variants", nargs="*", default=names, choices=names, metavar="VARIANT")
    failed: list[str] = []
    print("| model | GPUs | parameters a GPU | peak, GiB | TFLOP | GiB inside a node | GiB between nodes |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name in parser.parse_args().variants:
        layout = VARIANTS[name].layout
        assert layout
        case = StepCase(ARCHITECTURES[name], layout)
        counted = count_step(case)
        planned = plan_step(case)
        cells = [
            f"{counted.params / 1e9:.3f} / {planned.params / 1e9:.3f} B",
            f"{counted.peak_gib:.1f} / {planned.peak_gib:.1f}",
            f"{counted.flops / 1e12:.1f} / {planned.flops / 1e12:.1f}",
            f"{counted.total_gib('intra_node'):.1f} / {planned.total_gib('intra_node'):.1f}",
            f"{counted.total_gib('inter_node'):.1f} / {planned.total_gib('inter_node'):.1f}",
        ]
        print(f"| {name} | {layout.num_gpus} | {' | '.join(cells)} |", flush=True)
        failed += [
            f"{name}: {what} planned {off:+.1%} of what is counted"
            for what, off in deviations(counted, planned).items()
            if abs(off) > TOLERANCE
        ]
    print("\n".join(failed), file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
