"""Validation of a training plan, and the changes that would make one fit."""

import math
from dataclasses import replace

from safe_r1.errors import ConfigError, ResourceError
from safe_r1.models.registry import Layout
from safe_r1.train.architecture import Architecture
from safe_r1.train.plan import TrainPlan, resize, smallest_fit


def check_plan(plan: TrainPlan) -> None:
    """Reject a run that cannot work, before it uses a GPU.

    Raises:
        ConfigError: Sizes that do not divide, or sequences longer than the model's context.
        ResourceError: The peak memory exceeds that of a GPU.
    """
    _check_sizes(plan.architecture, plan.layout)
    if plan.seq_len > plan.architecture.context:
        raise ConfigError(
            f"pack.seq_len {plan.seq_len} is beyond the model's context of {plan.architecture.context} tokens"
        )
    if plan.global_batch_size != _divisible_batch_size(plan):
        raise ConfigError(
            f"global_batch_size {plan.global_batch_size} is not a multiple of micro_batch_size × "
            f"data-parallel workers = {plan.layout.micro_batch_size} × {plan.layout.dp_size}: set it to "
            f"{_divisible_batch_size(plan)}, or change the number of workers"
        )
    if not plan.fits:
        remedies = "; or ".join(remedies_of(plan)) or "a GPU type with more memory"
        raise ResourceError(
            f"does not fit: {plan.memory.total:.1f} GiB on each of {plan.layout.num_gpus} {plan.gpu.name}, "
            f"which hold {plan.gpu.usable_gib:.1f}; to make it fit, use {remedies}"
        )


def _divisible_batch_size(plan: TrainPlan) -> int:
    """The smallest batch size from ``global_batch_size`` up that the workers divide evenly."""
    sequences_at_once = plan.layout.micro_batch_size * plan.layout.dp_size
    return math.ceil(plan.global_batch_size / sequences_at_once) * sequences_at_once


def _check_sizes(model: Architecture, layout: Layout) -> None:
    tp = layout.tp_size
    ep = layout.ep_size
    workers = layout.fsdp_size * layout.tp_size
    for count, what in ((model.num_heads, "attention heads"), (model.num_kv_heads, "key-value heads")):
        if count % tp:
            raise ConfigError(f"tp_size {tp} does not divide the model's {count} {what}")
    if ep == 1:
        return
    if model.experts is None:
        raise ConfigError(f"ep_size {ep}: the model has no experts, set it to 1")
    if model.experts.num % ep:
        raise ConfigError(f"ep_size {ep} does not divide the model's {model.experts.num} experts")
    if ep % tp or workers % ep:
        raise ConfigError(
            f"ep_size {ep} must be a multiple of tp_size {tp} and divide fsdp_size × tp_size = {workers}"
        )


def remedies_of(plan: TrainPlan) -> list[str]:
    """Changes of which each alone makes the plan fit."""
    # Each change alone; those that do not suffice are left out below.
    shorter = replace(plan, seq_len=plan.seq_len // 2)
    small_moments = replace(plan, layout=replace(plan.layout, states="8bit"))
    offloaded = replace(plan, layout=replace(plan.layout, cpu_offload=True))
    changes = [
        (f"pack.seq_len={shorter.seq_len}", shorter),
        ("optimizer.states=8bit", small_moments),
        (f"parallel.cpu_offload=true with {offloaded.host_gib:,.0f} GiB of host memory per node", offloaded),
    ]
    fewest = smallest_fit(plan)
    more_gpus = [describe_size(plan, fewest)] if fewest else []
    return more_gpus + [text for text, changed in changes if changed.fits]


def describe_size(plan: TrainPlan, other: TrainPlan) -> str:
    """Number of GPUs of ``other``, with the settings that a job needs to get from ``plan`` to it."""
    num_gpus = other.layout.num_gpus
    settings: list[str] = []
    # A job that only changes --num-workers resizes the layout in this way.
    resized = resize(plan.layout, num_gpus)
    if resized.fsdp_size != other.layout.fsdp_size:
        settings.append(f"parallel.fsdp_size={other.layout.fsdp_size}")
    if plan.layout.ep_size != other.layout.ep_size:
        settings.append(f"parallel.ep_size={other.layout.ep_size}")
    if _divisible_batch_size(other) != plan.global_batch_size:
        settings.append(f"global_batch_size={_divisible_batch_size(other)}")
    gpus = f"{num_gpus} × {other.gpu.name}"
    return f"{gpus} with {' and '.join(settings)}" if settings else gpus
