"""A plan as text for people and as JSON for programs."""

import textwrap
from dataclasses import asdict
from typing import Any

from safe_r1.errors import SafeR1Error
from safe_r1.train.plan import MOST_GPUS, TrainPlan, check_plan, describe_size, smallest_fit

_WIDTH = 110
_PARTS = {
    "weights": "weights, fp32",
    "gradients": "gradients, fp32",
    "optimizer": "moments, {states}",
    "activations": "activations",
    "logits": "logits",
    "gathered": "gathered layers",
}


def problem_of(plan: TrainPlan) -> str | None:
    """Why a job would refuse the plan; None where it would not."""
    try:
        check_plan(plan)
    except SafeR1Error as error:
        return str(error)
    return None


def to_json(name: str, plan: TrainPlan) -> dict[str, Any]:
    """All figures of a plan."""
    model, fewest = plan.architecture, smallest_fit(plan)
    moments = {moment: {**asdict(parts), "total": parts.total} for moment, parts in plan.moments.items()}
    return {
        "variant": name,
        "params": {"total": model.total_params, "active": model.active_params},
        "layout": {**asdict(plan.layout), "num_gpus": plan.layout.num_gpus, "num_nodes": plan.num_nodes},
        "gpu": {**asdict(plan.gpu), "usable_gib": plan.gpu.usable_gib},
        "memory_gib": moments,
        "host_gib_per_node": plan.host_gib,
        "fits": plan.fits,
        "problem": problem_of(plan),
        "fewest_gpus": fewest.layout.num_gpus if fewest else None,
        "seq_len": plan.seq_len,
        "global_batch_size": plan.global_batch_size,
        "grad_accum_steps": plan.grad_accum_steps,
        "mfu": plan.mfu,
        "tokens_per_s_per_gpu": plan.tokens_per_s_per_gpu,
        "step_s": plan.step_s,
        "corpus_tokens": plan.corpus_tokens,
        "epochs": plan.epochs,
        "num_steps": plan.num_steps,
        "hours": plan.hours,
        "checkpoint_gib": plan.checkpoint_gib,
        "export_gib": plan.export_gib,
    }


def to_text(name: str, plan: TrainPlan) -> str:
    """One plan, a line or small table for each question."""
    layout, gpu, model = plan.layout, plan.gpu, plan.architecture
    active = f", {model.active_params / 1e9:.3f} B active" if model.experts else ""
    fewest = smallest_fit(plan)
    workers = f"{layout.dp_size} × {layout.micro_batch_size} × {plan.grad_accum_steps}"
    rows = [
        ("model", f"{name}: {model.family}, {model.total_params / 1e9:.3f} B parameters{active}"),
        ("layout", f"{_gpus(plan)} on {plan.num_nodes} node{'s' * (plan.num_nodes > 1)}: {_sizes(plan)}"),
        ("why", layout.why),
        (
            "batch",
            f"{plan.global_batch_size} sequences of {plan.seq_len:,} tokens: {workers} (workers × at once × in turn)",
        ),
        ("memory", _memory_table(plan)),
        ("verdict", _verdict(plan)),
        (
            "fewest",
            f"{describe_size(plan, fewest)} (of 1, 2, 4, ...)"
            if fewest
            else f"not even {MOST_GPUS:,} of this kind",
        ),
        (
            "speed",
            f"{plan.tokens_per_s_per_gpu:,.0f} tokens/s a GPU: {plan.mfu:.0%} of {gpu.tflops:g} TFLOP/s, assumed",
        ),
        (
            "time",
            f"{_duration(plan.step_s)} a step, {plan.num_steps:,} steps, {_duration(plan.hours * 3600)} in all",
        ),
        (
            "corpus",
            f"{plan.corpus_tokens:,} tokens × {plan.epochs} epochs, conversations of {plan.document_tokens:,}, assumed",
        ),
        (
            "disk",
            f"{plan.checkpoint_gib:,.0f} GiB a checkpoint, {plan.export_gib:,.1f} GiB the exported bf16 model",
        ),
    ]
    if layout.cpu_offload:
        rows.insert(5, ("host", f"{plan.host_gib:,.0f} GiB of memory on each node"))
    return "\n".join(_row(label, text) for label, text in rows)


def table(plans: dict[str, TrainPlan]) -> str:
    """One row a variant, then what was assumed and why some do not work."""
    head = f"{'variant':22} {'params':>9} {'GPUs':>15} {'sharding':23} {'GiB each':>13} {'fits':4}"
    lines = [f"{head} {'tokens/s/GPU':>12} {'step':>7} {'steps':>6} {'time':>7} {'checkpoint':>10}"]
    for name, plan in plans.items():
        memory = f"{plan.memory.total:.1f} / {plan.gpu.usable_gib:.1f}"
        head = f"{name:22} {plan.architecture.total_params / 1e9:7.3f} B {_gpus(plan):>15} {_sizes(plan, short=True):23}"
        speed = f"{plan.tokens_per_s_per_gpu:12,.0f} {_duration(plan.step_s):>7} {plan.num_steps:6,}"
        fits = "no" if problem_of(plan) else "yes"
        lines.append(
            f"{head} {memory:>13} {fits:4} {speed} {_duration(plan.hours * 3600):>7} {plan.checkpoint_gib:6,.0f} GiB"
        )
    return "\n".join([*lines, _assumed(plans), *(f"{name}: {problem}" for name, problem in _problems(plans))])


def _assumed(plans: dict[str, TrainPlan]) -> str:
    plan = next(iter(plans.values()))
    shares = " or ".join(f"{mfu:.0%}" for mfu in sorted({each.mfu for each in plans.values()}, reverse=True))
    return (
        f"Assumed: {plan.corpus_tokens:,} tokens × {plan.epochs} epochs, conversations of {plan.document_tokens:,} packed into "
        f"sequences of {plan.seq_len:,}; {shares} of the GPU's peak."
    )


def _problems(plans: dict[str, TrainPlan]) -> list[tuple[str, str]]:
    return [(name, problem) for name, plan in plans.items() if (problem := problem_of(plan))]


def _gpus(plan: TrainPlan) -> str:
    return f"{plan.layout.num_gpus} × {plan.gpu.name}"


def _sizes(plan: TrainPlan, *, short: bool = False) -> str:
    layout = plan.layout
    sizes = {
        "fsdp": layout.fsdp_size,
        "tp": layout.tp_size,
        "ep": layout.ep_size,
        "copies": layout.dp_replicate_size,
    }
    found = [f"{name} {size}" for name, size in sizes.items() if size > 1 or name == "fsdp"]
    found.append(
        layout.states if short else f"micro-batch {layout.micro_batch_size}, moments in {layout.states}"
    )
    return ", ".join(found + ["offloaded"] * layout.cpu_offload)


def _memory_table(plan: TrainPlan) -> str:
    """The parts of both moments, side by side."""
    loss, layer = plan.moments["loss"], plan.moments["layer"]
    lines = [f"{'GiB each':18} {'at the loss':>12} {'in a layer, backward':>22}"]
    for part, label in _PARTS.items():
        label = label.format(states=plan.layout.states)
        lines.append(f"{label:18} {getattr(loss, part):12.1f} {getattr(layer, part):22.1f}")
    lines.append(f"{'total':18} {loss.total:12.1f} {layer.total:22.1f}")
    return "\n".join(lines)


def _verdict(plan: TrainPlan) -> str:
    usable = f"{plan.memory.total:.1f} of {plan.gpu.usable_gib:.1f} GiB usable"
    return problem_of(plan) or f"fits: {usable} ({plan.gpu.memory_gib:g} GiB in all)"


def _row(label: str, text: str) -> str:
    """A label, and the text beside it."""
    lines = [part for line in text.split("\n") for part in (textwrap.wrap(line, _WIDTH) or [""])]
    return "\n".join(f"{label if not number else '':9} {line}" for number, line in enumerate(lines))


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"
