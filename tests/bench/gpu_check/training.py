"""One-GPU training of random models, against the plan: tokens/s, MFU and peak memory."""

from collections.abc import Iterator
from dataclasses import replace

from safe_r1.models.gpus import GPUS, Gpu
from safe_r1.models.registry import Layout, States
from safe_r1.train.architecture import ARCHITECTURES, Architecture
from safe_r1.train.config import OptimizerConfig
from safe_r1.train.model import ModelSpec
from safe_r1.train.optim import make_optimizer
from safe_r1.train.plan import TrainPlan, make_plan
from tests.bench.gpu_check.gpu import find_gpu
from tests.bench.gpu_check.rows import Part, missing, run
from tests.bench.gpu_check.steps import (
    Steps,
    UnequalError,
    document_lengths,
    random_batches,
    random_model,
    time_steps,
)

_MODELS = ("r1-distill-qwen-1.5b", "r1-distill-qwen-7b")
_SEQ_LEN = 8192
# Enough that the update, once a step, counts as little as in a real step.
_MICRO_BATCHES = 4
_STATES: tuple[States, ...] = ("fp32", "bf16", "8bit")
# Shares of the layers that are tried where all of them do not fit.
_DEPTHS = (1.0, 0.75, 0.5, 0.25)
# Least share of the planned speed, and largest difference from the planned memory.
_SPEED = 0.9
_MEMORY = 0.1


def tiny(architecture: Architecture) -> Architecture:
    """The same model with the smallest sizes, for a CPU."""
    return replace(
        architecture,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=128,
        vocab_size=512,
    )


def choose_plan(architecture: Architecture, gpu: Gpu, seq_len: int, states: tuple[States, ...]) -> TrainPlan:
    """The plan of the largest part of a model that one GPU holds: all layers with small moments rather than
    fewer layers with large ones.

    Args:
        architecture: Of the whole model.
        gpu: With the memory that is free.
        seq_len: Tokens of a sequence.
        states: Data types of the moments that can be used here, the preferred one first.

    Raises:
        UnequalError: Not even a quarter of the layers fits.
    """
    for plan in _plans(architecture, gpu, seq_len, states):
        if plan.fits:
            return plan
    raise UnequalError(f"a quarter of the layers does not fit into {gpu.usable_gib:.0f} GiB")


def _plans(
    architecture: Architecture, gpu: Gpu, seq_len: int, states: tuple[States, ...]
) -> Iterator[TrainPlan]:
    for depth in _DEPTHS:
        cut = replace(architecture, num_layers=max(1, round(architecture.num_layers * depth)))
        for each in states:
            yield make_plan(
                cut,
                Layout(gpu.name, 1, states=each),
                gpu=gpu,
                seq_len=seq_len,
                global_batch_size=_MICRO_BATCHES,
                document_tokens=seq_len // len(document_lengths(seq_len)),
                dtype_bytes=2,
            )


def measure(part: Part) -> None:
    for name in _MODELS:
        with part.attempt(name):
            _measure_model(part, name, ARCHITECTURES[name])


def _measure_model(part: Part, name: str, architecture: Architecture) -> None:
    gpu, is_known = GPUS["cpu"], False
    if part.device == "cuda":
        found = find_gpu()
        gpu, is_known = found.type, found.is_known
    states = _STATES[:2] if missing("torchao") else _STATES
    if part.small:
        architecture = tiny(architecture)
    plan = choose_plan(architecture, gpu, 128 if part.small else _SEQ_LEN, states)
    steps = _train(plan, part.device, num=2 if part.small else 3)
    size = "tiny, " if part.small else ""
    layers = f"{plan.architecture.num_layers} of {architecture.num_layers} layers"
    sequences = f"{_MICRO_BATCHES} sequences of {plan.seq_len:,} tokens"
    ran = f"{size}{layers}, moments in {plan.layout.states}, {sequences}"
    flops = plan.architecture.train_flops_per_token(plan.document_tokens)
    mfu = steps.tokens_per_s * flops / (gpu.tflops * 1e12)
    is_compared = is_known and not part.small
    is_fast = not is_compared or mfu >= _SPEED * plan.mfu
    part.measured(
        f"{name}: training, {ran}",
        f"{steps.tokens_per_s:,.0f} tokens/s" + (f", MFU {mfu:.1%}" if is_compared else ""),
        f"{plan.tokens_per_s_per_gpu:,.0f} tokens/s, MFU {plan.mfu:.1%}, less 10%" if is_compared else "",
        "ok" if is_fast else "off",
        tokens_per_s=steps.tokens_per_s,
        step_s=steps.step_s,
        mfu=mfu if is_compared else None,
        planned_mfu=plan.mfu if is_compared else None,
        losses=[result.loss for result in steps.results],
    )
    if steps.peak_gib is not None:
        _compare_memory(part, name, plan, steps.peak_gib)


def _compare_memory(part: Part, name: str, plan: TrainPlan, peak_gib: float) -> None:
    planned = plan.memory.total
    is_near = part.small or abs(peak_gib - planned) <= _MEMORY * planned
    part.measured(
        f"{name}: peak memory",
        f"{peak_gib:.1f} GiB",
        "" if part.small else f"{planned:.1f} GiB, plus or minus 10%",
        "ok" if is_near else "off",
        peak_gib=peak_gib,
        planned_gib=planned,
    )


def _train(plan: TrainPlan, device: str, num: int) -> Steps:
    model = random_model(plan.architecture, ModelSpec.of_plan(plan), device)
    optimizer = make_optimizer(model.parameters(), OptimizerConfig(), plan.layout.states)
    batches = random_batches(model, document_lengths(plan.seq_len), _MICRO_BATCHES, device)
    return time_steps(model, optimizer, batches, device, num, warm_up=1)


if __name__ == "__main__":
    run("training", measure)
