"""Step time and results with each option of training on and off."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safe_r1.models.registry import States
from safe_r1.train.architecture import ARCHITECTURES, Architecture
from safe_r1.train.config import Fp8Recipe, OptimizerConfig
from safe_r1.train.fp8_layers import has_fp8
from safe_r1.train.model import ModelSpec
from safe_r1.train.optim import make_optimizer
from tests.bench.gpu_check.gpu import find_gpu
from tests.bench.gpu_check.rows import Part, Verdict, missing, run
from tests.bench.gpu_check.steps import (
    Steps,
    document_lengths,
    largest_differences,
    random_batches,
    random_model,
    time_steps,
)
from tests.bench.gpu_check.training import choose_plan, tiny

_MODEL = "r1-distill-qwen-1.5b"
_SEQ_LEN = 8192
_MICRO_BATCHES = 2
# The smallest moments that need nothing installed: options are compared, not optimizers.
_STATES: States = "bf16"

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Summed loss of (hidden states, weight, labels)."""


@dataclass(frozen=True)
class Option:
    """One way to compute a step.

    Attributes:
        name: In the table.
        compile_layers: As the setting.
        fp8: As the setting.
        loss: In place of that of training.
        loss_tolerance: Largest relative difference of the loss of a step from the default's.
        norm_tolerance: The same of the gradient norm.
    """

    name: str
    compile_layers: bool = False
    fp8: Fp8Recipe | None = None
    loss: Loss | None = None
    loss_tolerance: float = 0.005
    norm_tolerance: float = 0.02


def plain_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Summed cross entropy on the logits of all positions at once."""
    logits = F.linear(hidden, weight.to(hidden.dtype)).float()
    return F.cross_entropy(logits, labels, reduction="sum")


_DEFAULT = Option("default")
_OPTIONS = (
    Option("loss on all logits at once", loss=plain_loss),
    Option("compiled layers", compile_layers=True, loss_tolerance=0.01, norm_tolerance=0.05),
)
# Without compilation the casts to FP8 are kernels of their own, and cost more than FP8 gains.
_FP8 = tuple(
    Option(f"compiled layers in FP8, {recipe}", True, fp8=recipe, loss_tolerance=0.02, norm_tolerance=0.2)
    for recipe in get_args(Fp8Recipe)
)


def measure(part: Part) -> None:
    default: list[Steps] = []
    architecture = _architecture(part)
    with part.attempt(_DEFAULT.name):
        default.append(_train(part, _DEFAULT, architecture))
        size = "tiny" if part.small else f"{_MODEL}, {architecture.num_layers} layers"
        part.measured(f"default: {size}", _text(default[0]), steps=_figures(default[0]))
    # Emulated on CPU, where its many casts would take the compiler minutes.
    emulated = (replace(option, name=f"FP8, emulated, {option.fp8}", compile_layers=False) for option in _FP8)
    fp8 = emulated if part.device == "cpu" else _FP8
    for option in (*_OPTIONS, *fp8) if default else ():
        if reason := _reason_to_skip(part, option):
            part.skipped(option.name, reason)
            continue
        with part.attempt(option.name):
            try:
                _compare(part, option, _train(part, option, architecture), default[0])
            except torch.OutOfMemoryError:
                # What training does not do, and only the default has to fit.
                if not option.loss:
                    raise
                part.skipped(option.name, "the GPU does not hold all logits")


def _architecture(part: Part) -> Architecture:
    """As many layers as fit."""
    architecture = ARCHITECTURES[_MODEL]
    if part.small:
        return tiny(architecture)
    return choose_plan(architecture, find_gpu().type, _SEQ_LEN, (_STATES,)).architecture


def _reason_to_skip(part: Part, option: Option) -> str:
    if not option.fp8:
        return ""
    if reason := missing("torchao"):
        return reason
    return "this GPU has no FP8 matrix products" if part.device == "cuda" and not has_fp8() else ""


def _compare(part: Part, option: Option, ours: Steps, default: Steps) -> None:
    """Write the row of an option: unequal results are a failure, a slower step is off."""
    loss_difference, norm_difference = largest_differences(ours, default)
    is_equal = loss_difference <= option.loss_tolerance and norm_difference <= option.norm_tolerance
    ratio = ours.step_s / default.step_s
    # Losses other than the default's are slower or need more memory: only the others aim at a faster step.
    aims_at_speed = option.compile_layers and not part.small
    verdict: Verdict = "ok" if ratio < 1 or not aims_at_speed else "off"
    part.measured(
        option.name,
        f"{_text(ours)}, step time × {ratio:.2f}; loss and gradient norm differ by {loss_difference:.2%} and "
        f"{norm_difference:.2%}",
        f"{'faster; ' if aims_at_speed else ''}differ by at most {option.loss_tolerance:.1%} and "
        f"{option.norm_tolerance:.0%}",
        verdict if is_equal else "failed",
        "" if is_equal else "results differ from the default's",
        ratio_step=ratio,
        loss_difference=loss_difference,
        norm_difference=norm_difference,
        steps=_figures(ours),
    )


def _text(steps: Steps) -> str:
    memory = f", {steps.peak_gib:.1f} GiB" if steps.peak_gib is not None else ""
    return f"{steps.tokens_per_s:,.0f} tokens/s{memory}"


def _figures(steps: Steps) -> dict[str, object]:
    return {
        "step_s": steps.step_s,
        "tokens_per_s": steps.tokens_per_s,
        "peak_gib": steps.peak_gib,
        "losses": [step.loss for step in steps.results],
        "grad_norms": [step.grad_norm for step in steps.results],
    }


def _train(part: Part, option: Option, architecture: Architecture) -> Steps:
    spec = ModelSpec("", bf16=True, compile_layers=option.compile_layers, fp8=option.fp8)
    model = random_model(architecture, spec, part.device)
    if option.loss:
        head = model.get_output_embeddings()
        assert isinstance(head, nn.Linear)
        _replace_loss(head, option.loss)
    optimizer = make_optimizer(model.parameters(), OptimizerConfig(), _STATES)
    batches = random_batches(
        model, document_lengths(128 if part.small else _SEQ_LEN), _MICRO_BATCHES, part.device
    )
    return time_steps(model, optimizer, batches, part.device, num=2 if part.small else 4, warm_up=2)


def _replace_loss(head: nn.Module, other: Loss) -> None:
    """Make the output layer compute another loss."""

    def forward(hidden: Tensor, labels: Tensor) -> Tensor:
        return other(hidden, head.get_parameter("weight"), labels)

    head.forward = forward


if __name__ == "__main__":
    run("options", measure)
