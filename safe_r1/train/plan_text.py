"""Training plans as text for a terminal and as JSON."""

import textwrap
from dataclasses import asdict

from safe_r1.errors import SafeR1Error
from safe_r1.train.plan import MAX_GPUS, TrainPlan, smallest_fit
from safe_r1.train.plan_check import check_plan, describe_size

_WIDTH = 110
_MEMORY_LABELS = {
    "weights": "weights, fp32",
    "gradients": "gradients, fp32",
    "optimizer": "moments, {states}",
    "activations": "activations",
    "logits": "logits",
    "gathered": "gathered layers",
}


def problem_of(plan: TrainPlan) -> str | None:
    """Why a job would reject the plan; None if it would not."""
    try:
        check_plan(plan)
    except SafeR1Error as error:
        return str(error)
    return None


def to_json(name: str, plan: TrainPlan) -> dict[str, object]:
    """All figures of a plan."""
    model = plan.architecture
    fewest = smallest_fit(plan)
    return {
        "variant": name,
        "params": {"total": model.total_params, "active": model.active_params},
        "layout": {**asdict(plan.layout), "num_gpus": plan.layout.num_gpus, "num_nodes": plan.num_nodes},
        "gpu": {**asdict(plan.gpu), "usable_gib": plan.gpu.usable_gib},
        "memory_gib": {
            peak: {**asdict(parts), "total": parts.total} for peak, parts in plan.memory_peaks.items()
        },
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
    """One plan in full, one labelled entry per question."""
    layout = plan.layout
    rows = [
        ("model", f"{name}: {_model(plan)}"),
        ("layout", f"{_gpus(plan)} on {plan.num_nodes} node{'s' * (plan.num_nodes > 1)}: {_sizes(plan)}"),
        ("reason", layout.why),
        ("batch", _batch(plan)),
        ("memory", _memory_table(plan)),
    ]
    if layout.cpu_offload:
        rows.append(("host", f"{plan.host_gib:,.0f} GiB of memory on each node"))
    rows += [
        ("verdict", _verdict(plan)),
        ("fewest", _fewest(plan)),
        ("speed", _speed(plan)),
        (
            "time",
            f"{_duration(plan.step_s)} per step, {plan.num_steps:,} steps, {_duration(plan.hours * 3600)}",
        ),
        ("corpus", _corpus(plan)),
        ("disk", _disk(plan)),
    ]
    return "\n".join(_row(label, text) for label, text in rows)


def _model(plan: TrainPlan) -> str:
    model = plan.architecture
    active = f", {model.active_params / 1e9:.3f} B active" if model.experts else ""
    return f"{model.family}, {model.total_params / 1e9:.3f} B parameters{active}"


def _batch(plan: TrainPlan) -> str:
    layout = plan.layout
    factors = f"{layout.dp_size} × {layout.micro_batch_size} × {plan.grad_accum_steps}"
    return (
        f"{plan.global_batch_size} sequences of {plan.seq_len:,} tokens: {factors} "
        "(data-parallel workers × micro-batch × accumulation)"
    )


def _fewest(plan: TrainPlan) -> str:
    fewest = smallest_fit(plan)
    if fewest is None:
        return f"does not fit on {MAX_GPUS:,} of this type either"
    return f"{describe_size(plan, fewest)} (of 1, 2, 4, ...)"


def _speed(plan: TrainPlan) -> str:
    speed = f"{plan.tokens_per_s_per_gpu:,.0f} tokens/s per GPU"
    return f"{speed}, assuming {plan.mfu:.0%} of {plan.gpu.tflops:g} TFLOP/s"


def _corpus(plan: TrainPlan) -> str:
    return (
        f"assuming {plan.corpus_tokens:,} tokens × {plan.epochs} epochs, "
        f"conversations of {plan.document_tokens:,} tokens"
    )


def _disk(plan: TrainPlan) -> str:
    checkpoint = f"{plan.checkpoint_gib:,.0f} GiB per checkpoint"
    return f"{checkpoint}, {plan.export_gib:,.1f} GiB for the exported bf16 model"


def table(plans: dict[str, TrainPlan]) -> str:
    """One line per variant, then the assumptions and the problems of plans that do not work."""
    head = f"{'variant':22} {'params':>9} {'GPUs':>15} {'sharding':24} {'GiB each':>13} {'fits':4}"
    lines = [f"{head} {'tokens/s/GPU':>12} {'step':>7} {'steps':>6} {'time':>7} {'checkpoint':>10}"]
    lines += [_table_row(name, plan) for name, plan in plans.items()]
    problems = [f"{name}: {problem}" for name, plan in plans.items() if (problem := problem_of(plan))]
    return "\n".join([*lines, _assumptions(plans), *problems])


def _table_row(name: str, plan: TrainPlan) -> str:
    columns = [
        f"{name:22}",
        f"{plan.architecture.total_params / 1e9:7.3f} B",
        f"{_gpus(plan):>15}",
        f"{_sizes(plan, short=True):24}",
        f"{f'{plan.memory.total:.1f} / {plan.gpu.usable_gib:.1f}':>13}",
        f"{'no' if problem_of(plan) else 'yes':4}",
        f"{plan.tokens_per_s_per_gpu:12,.0f}",
        f"{_duration(plan.step_s):>7}",
        f"{plan.num_steps:6,}",
        f"{_duration(plan.hours * 3600):>7}",
        f"{plan.checkpoint_gib:6,.0f} GiB",
    ]
    return " ".join(columns)


def _assumptions(plans: dict[str, TrainPlan]) -> str:
    plan = next(iter(plans.values()))
    mfu = " or ".join(f"{mfu:.0%}" for mfu in sorted({each.mfu for each in plans.values()}, reverse=True))
    return (
        f"Assumed: {plan.corpus_tokens:,} tokens × {plan.epochs} epochs, conversations of "
        f"{plan.document_tokens:,} tokens packed into sequences of {plan.seq_len:,}; {mfu} of the GPU's peak."
    )


def _gpus(plan: TrainPlan) -> str:
    return f"{plan.layout.num_gpus} × {plan.gpu.name}"


def _sizes(plan: TrainPlan, *, short: bool = False) -> str:
    """Parallel sizes, type of the moments and offloading; ``short`` leaves out the micro-batch."""
    layout = plan.layout
    sizes = {
        "fsdp": layout.fsdp_size,
        "tp": layout.tp_size,
        "ep": layout.ep_size,
        "replicas": layout.dp_replicate_size,
    }
    shown = [f"{name} {size}" for name, size in sizes.items() if size > 1 or name == "fsdp"]
    if short:
        shown.append(layout.states)
    else:
        shown.append(f"micro-batch {layout.micro_batch_size}, moments in {layout.states}")
    if layout.cpu_offload:
        shown.append("offloaded")
    return ", ".join(shown)


def _memory_table(plan: TrainPlan) -> str:
    """The parts at both peaks, side by side."""
    loss = plan.memory_peaks["loss"]
    layer = plan.memory_peaks["layer"]
    lines = [f"{'GiB per GPU':18} {'at the loss':>12} {'in a layer, backward':>22}"]
    for part, label in _MEMORY_LABELS.items():
        label = label.format(states=plan.layout.states)
        lines.append(f"{label:18} {getattr(loss, part):12.1f} {getattr(layer, part):22.1f}")
    lines.append(f"{'total':18} {loss.total:12.1f} {layer.total:22.1f}")
    return "\n".join(lines)


def _verdict(plan: TrainPlan) -> str:
    used = f"{plan.memory.total:.1f} of {plan.gpu.usable_gib:.1f} GiB usable"
    return problem_of(plan) or f"fits: {used} ({plan.gpu.memory_gib:g} GiB in total)"


def _row(label: str, text: str) -> str:
    """A label and its text, wrapped and indented."""
    lines = [part for line in text.split("\n") for part in (textwrap.wrap(line, _WIDTH) or [""])]
    return "\n".join(f"{label if not number else '':9} {line}" for number, line in enumerate(lines))


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"
