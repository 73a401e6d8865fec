"""Validation of a training plan, and the changes that would make one fit."""

import math
from collections.abc import Iterator
from dataclasses import replace

from safe_r1.errors import ConfigError, PlanError, ResourceError, SafeR1Error
from safe_r1.models.registry import Layout
from safe_r1.train.architecture import Architecture
from safe_r1.train.plan import resize, smallest_fit
from safe_r1.train.train_plan import TrainPlan


def check_plan(plan: TrainPlan) -> None:
    """Reject a run that cannot work, before it uses a GPU.

    Raises:
        ConfigError: Sizes that do not divide, or sequences longer than the model's context.
        ResourceError: GPU memory, host memory or the volume is too small.
        PlanError: More than one of these, a line for each.
    """
    problems = find_problems(plan)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = "\n".join(str(problem) for problem in problems)
        raise PlanError(f"{len(problems)} reasons why this layout does not work:\n{lines}")


def find_problems(plan: TrainPlan) -> list[SafeR1Error]:
    """Every reason why a run cannot work, each with what would help."""
    problems: list[SafeR1Error] = [*_size_problems(plan.architecture, plan.layout)]
    if plan.seq_len > plan.architecture.context:
        problems.append(
            ConfigError(
                f"pack.seq_len {plan.seq_len} is beyond the model's context of {plan.architecture.context} "
                "tokens: set it to that at most"
            )
        )
    if plan.global_batch_size != _divisible_batch_size(plan):
        problems.append(
            ConfigError(
                f"global_batch_size {plan.global_batch_size} is not a multiple of micro_batch_size × "
                f"data-parallel workers = {plan.layout.micro_batch_size} × {plan.layout.dp_size}: set it to "
                f"{_divisible_batch_size(plan)}, or change the number of workers"
            )
        )
    return problems + _resource_problems(plan)


def _resource_problems(plan: TrainPlan) -> list[SafeR1Error]:
    problems: list[SafeR1Error] = []
    if not plan.fits:
        remedies = "; or ".join(remedies_of(plan)) or "a GPU type with more memory"
        problems.append(
            ResourceError(
                f"does not fit: {plan.memory.total:.1f} GiB on each of {plan.layout.num_gpus} "
                f"{plan.gpu.name}, which hold {plan.gpu.usable_gib:.1f}; to make it fit, use {remedies}"
            )
        )
    if not plan.host_fits:
        remedy = "parallel.cpu_offload=false or more nodes" if plan.layout.cpu_offload else "nodes with more"
        problems.append(
            ResourceError(
                f"host memory: {plan.host.total:,.0f} GiB on each of {plan.num_nodes} nodes, which have "
                f"{plan.gpu.node_memory_gib:,.0f}; use {remedy}, or set parallel.host_memory_gib if yours "
                "have more"
            )
        )
    limit = plan.volume_limit_gib
    if limit is not None and plan.volume.total > limit:
        smaller = replace(plan, layout=replace(plan.layout, states="bf16"))
        other = " or optimizer.states=bf16" if smaller.volume.total <= limit else ""
        problems.append(
            ResourceError(
                f"volume: {plan.volume.total:,.0f} GiB for the model, its checkpoints and the export, and it "
                f"has {limit:,.0f}; use a larger one or a bucket (--output s3://...){other}"
            )
        )
    return problems


def _divisible_batch_size(plan: TrainPlan) -> int:
    """The smallest batch size from ``global_batch_size`` up that the workers divide evenly."""
    sequences_at_once = plan.layout.micro_batch_size * plan.layout.dp_size
    return math.ceil(plan.global_batch_size / sequences_at_once) * sequences_at_once


def _size_problems(model: Architecture, layout: Layout) -> Iterator[ConfigError]:
    tp = layout.tp_size
    ep = layout.ep_size
    workers = layout.fsdp_size * layout.tp_size
    for count, what in ((model.num_heads, "attention heads"), (model.num_kv_heads, "key-value heads")):
        if count % tp:
            yield ConfigError(f"tp_size {tp} does not divide the model's {count} {what}: choose a divisor")
    if ep == 1:
        return
    if model.experts is None:
        yield ConfigError(f"ep_size {ep}: the model has no experts, set it to 1")
        return
    if model.experts.num % ep:
        yield ConfigError(
            f"ep_size {ep} does not divide the model's {model.experts.num} experts: choose a divisor"
        )
    if ep % tp or workers % ep:
        yield ConfigError(
            f"ep_size {ep} must be a multiple of tp_size {tp} and divide fsdp_size × tp_size = {workers}"
        )


def remedies_of(plan: TrainPlan) -> list[str]:
    """Changes of which each alone makes the plan fit."""
    # Each change alone; those that do not suffice are left out below.
    shorter = replace(plan, seq_len=plan.seq_len // 2)
    small_moments = replace(plan, layout=replace(plan.layout, states="8bit"))
    offloaded = replace(plan, layout=replace(plan.layout, cpu_offload=True))
    all_recomputed = replace(plan, activation_checkpointing=True, recompute_every=1)
    changes = [
        ("parallel.activation_checkpointing=true with parallel.recompute_every=1", all_recomputed),
        (f"pack.seq_len={shorter.seq_len}", shorter),
        ("optimizer.states=8bit", small_moments),
        (
            f"parallel.cpu_offload=true with {offloaded.host.total:,.0f} GiB of host memory per node",
            offloaded,
        ),
    ]
    fewest = smallest_fit(plan)
    more_gpus = [describe_size(plan, fewest)] if fewest else []
    return more_gpus + [text for text, changed in changes if changed.fits and changed.host_fits]


def describe_size(plan: TrainPlan, other: TrainPlan) -> str:
    """Number of GPUs of ``other``, with the settings that a job needs to get from ``plan`` to it."""
    num_gpus = other.layout.num_gpus
    settings: list[str] = []
    # An elastic job resizes the layout in this way; one with a fixed number of workers finds the sharding.
    resized = resize(plan.layout, num_gpus)
    if resized.fsdp_size != other.layout.fsdp_size:
        settings.append(f"parallel.fsdp_size={other.layout.fsdp_size}")
    if plan.layout.ep_size != other.layout.ep_size:
        settings.append(f"parallel.ep_size={other.layout.ep_size}")
    if _divisible_batch_size(other) != plan.global_batch_size:
        settings.append(f"global_batch_size={_divisible_batch_size(other)}")
    gpus = f"{num_gpus} × {other.gpu.name}"
    return f"{gpus} with {' and '.join(settings)}" if settings else gpus
