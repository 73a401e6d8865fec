"""Training plans as text for a terminal and as JSON."""

import textwrap
from dataclasses import asdict

from safe_r1.train.communication import Link
from safe_r1.train.memory import GIB
from safe_r1.train.plan import MAX_GPUS, smallest_fit
from safe_r1.train.plan_check import describe_size, find_problems
from safe_r1.train.train_plan import TrainPlan

_WIDTH = 110
_MEMORY_LABELS = {
    "weights": "weights, fp32",
    "gradients": "gradients, fp32",
    "optimizer": "moments, {states}",
    "activations": "activations",
    "logits": "logits",
    "gathered": "gathered layers",
}


_STEP_LABELS = {
    "matmul": "matrix products",
    "experts": "routed experts",
    "attention": "attention",
    "output": "output layer, loss",
    "elementwise": "norms, activations",
    "recomputation": "recomputation",
    "optimizer": "optimizer",
    "sharding": "FSDP, exposed",
    "tensor_parallel": "tensor parallel",
    "expert_exchange": "expert exchange",
    "host_syncs": "host syncs",
    "offload": "offloading",
}


def problem_of(plan: TrainPlan) -> str | None:
    """Every reason why a job would reject the plan, in one line; None if it would not."""
    return "; and ".join(str(problem) for problem in find_problems(plan)) or None


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
        "host_gib_per_node": {
            **asdict(plan.host),
            "total": plan.host.total,
            "available": plan.gpu.node_memory_gib,
        },
        "disk_gib_per_node": plan.node_disk_gib,
        "volume_gib": {**asdict(plan.volume), "total": plan.volume.total},
        "fits": plan.fits,
        "problem": problem_of(plan),
        "problems": [str(problem) for problem in find_problems(plan)],
        "fewest_gpus": fewest.layout.num_gpus if fewest else None,
        "seq_len": plan.seq_len,
        "global_batch_size": plan.global_batch_size,
        "grad_accum_steps": plan.grad_accum_steps,
        "recompute_every": plan.recompute_every,
        "mfu": plan.mfu,
        "tokens_per_s_per_gpu": plan.tokens_per_s_per_gpu,
        "step_s": plan.step_s,
        "step_parts_s": asdict(plan.step_parts),
        "sent_gib": _sent_gib(plan),
        "corpus_tokens": plan.corpus_tokens,
        "epochs": plan.epochs,
        "num_steps": plan.num_steps,
        "hours": plan.hours,
        "run_s": {**asdict(plan.run_time), "total": plan.run_time.total},
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
    rows += [
        ("host", _host(plan)),
        ("verdict", _verdict(plan)),
        ("fewest", _fewest(plan)),
        ("speed", _speed(plan)),
        ("step", _step(plan)),
        ("time", _time(plan)),
        ("corpus", _corpus(plan)),
        ("disk", _disk(plan)),
        ("volume", _volume(plan)),
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
    return f"{speed}, {plan.mfu:.0%} of {plan.gpu.tflops:g} TFLOP/s without recomputation"


def _step(plan: TrainPlan) -> str:
    """The step's duration, and its parts by their share, largest first."""
    parts = asdict(plan.step_parts)
    shares = {label: parts[name] / plan.step_s for name, label in _STEP_LABELS.items()}
    shown = sorted(
        (label for label, share in shares.items() if share >= 0.005), key=lambda each: -shares[each]
    )
    text = f"{_duration(plan.step_s)}: " + ", ".join(f"{label} {shares[label]:.0%}" for label in shown)
    between = _sent_gib(plan)["inter_node"]
    if plan.num_nodes > 1:
        tokens = f", {between['tokens']:,.0f} of it tokens" if "tokens" in between else ""
        text += f"; each GPU sends {sum(between.values()):,.0f} GiB to other nodes{tokens}"
    return text


def _sent_gib(plan: TrainPlan) -> dict[Link, dict[str, float]]:
    """GiB that a GPU sends in a step inside its node and between nodes, by purpose."""
    communication = plan.step_model.communication
    purposes = dict.fromkeys(transfer.purpose for transfer in communication.transfers)
    links: tuple[Link, ...] = ("intra_node", "inter_node")
    return {link: {each: communication.sent(link, each) / GIB for each in purposes} for link in links}


def _time(plan: TrainPlan) -> str:
    run = plan.run_time
    parts = {
        "start": run.start,
        "validation": run.validation,
        "checkpoints": run.checkpoints,
        "export": run.export,
    }
    others = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in parts.items())
    return (
        f"{plan.num_steps:,} steps, {_duration(run.training)}; with {others}: {_duration(run.total)} in all"
    )


def _host(plan: TrainPlan) -> str:
    host = plan.host
    offloaded = f"{host.states:,.0f} offloaded, " if host.states else ""
    return (
        f"{host.total:,.0f} GiB of memory on each node ({offloaded}{host.workers:,.0f} workers, "
        f"{host.files:,.0f} loading and checkpoints, {host.system:,.0f} system); "
        f"checkpoints are written while training {'goes on' if host.has_checkpoint_copy else 'waits'}"
    )


def _corpus(plan: TrainPlan) -> str:
    return (
        f"assuming {plan.corpus_tokens:,} tokens × {plan.epochs} epochs, "
        f"conversations of {plan.document_tokens:,} tokens"
    )


def _disk(plan: TrainPlan) -> str:
    return f"{plan.node_disk_gib:,.0f} GiB on each node, where the model is downloaded to it"


def _volume(plan: TrainPlan) -> str:
    use = plan.volume
    return (
        f"{use.total:,.0f} GiB: {use.model:,.0f} model, {use.corpus:,.1f} corpus, "
        f"{use.kept_checkpoints:,.0f} checkpoints ({plan.checkpoint_gib:,.0f} each) and "
        f"{use.pending_checkpoint:,.0f} while one is written, {use.export:,.1f} exported bf16 model"
    )


def table(plans: dict[str, TrainPlan]) -> str:
    """One line per variant, then the assumptions and the problems of plans that do not work."""
    head = f"{'variant':22} {'params':>9} {'GPUs':>15} {'sharding':24} {'GiB each':>13} {'fits':4}"
    lines = [f"{head} {'tokens/s/GPU':>12} {'step':>7} {'steps':>6} {'time':>7} {'checkpoint':>10}"]
    lines += [_table_row(name, plan) for name, plan in plans.items()]
    problems = [f"{name}: {problem}" for name, plan in plans.items() for problem in find_problems(plan)]
    return "\n".join([*lines, _assumptions(plans), *problems])


def _table_row(name: str, plan: TrainPlan) -> str:
    columns = [
        f"{name:22}",
        f"{plan.architecture.total_params / 1e9:7.3f} B",
        f"{_gpus(plan):>15}",
        f"{_sizes(plan, short=True):24}",
        f"{f'{plan.memory.total:.1f} / {plan.gpu.usable_gib:.1f}':>13}",
        f"{'no' if find_problems(plan) else 'yes':4}",
        f"{plan.tokens_per_s_per_gpu:12,.0f}",
        f"{_duration(plan.step_s):>7}",
        f"{plan.num_steps:6,}",
        f"{_duration(plan.run_time.total):>7}",
        f"{plan.checkpoint_gib:6,.0f} GiB",
    ]
    return " ".join(columns)


def _assumptions(plans: dict[str, TrainPlan]) -> str:
    plan = next(iter(plans.values()))
    return (
        f"Assumed: {plan.corpus_tokens:,} tokens × {plan.epochs} epochs, conversations of "
        f"{plan.document_tokens:,} tokens packed into sequences of {plan.seq_len:,}; "
        "time from start to export."
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
        shown.append(_recomputation(plan))
    if layout.cpu_offload:
        shown.append("offloaded")
    return ", ".join(shown)


def _recomputation(plan: TrainPlan) -> str:
    if not plan.activation_checkpointing:
        return "no layer recomputed"
    every = plan.recompute_every
    if every >= plan.architecture.num_layers:
        return "one layer recomputed"
    return "every layer recomputed" if every == 1 else f"one layer in {every} recomputed"


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
    problems = "\n".join(str(problem) for problem in find_problems(plan))
    return problems or f"fits: {used} ({plan.gpu.memory_gib:g} GiB in total)"


def _row(label: str, text: str) -> str:
    """A label and its text, wrapped and indented."""
    lines = [part for line in text.split("\n") for part in (textwrap.wrap(line, _WIDTH) or [""])]
    return "\n".join(f"{label if not number else '':9} {line}" for number, line in enumerate(lines))


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"
