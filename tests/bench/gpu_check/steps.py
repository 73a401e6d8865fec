"""Random models and batches, and the time of their optimizer steps."""

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from safe_r1.errors import SafeR1Error
from safe_r1.train.architecture import Architecture
from safe_r1.train.batches import Batch, collate
from safe_r1.train.model import ModelSpec, choose_attention, prepare_model
from safe_r1.train.packed import PackedSequence
from safe_r1.train.parallel import ParallelDims
from safe_r1.train.step import StepResult, train_step
from safe_r1.train.varlen import VARLEN
from tests.hf_config import hf_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DIMS = ParallelDims()
"""One worker."""

# Mean length of a conversation, as the plan assumes it. A fifth of each is the prompt.
_DOCUMENT_TOKENS = 1_500
_PROMPT_SHARE = 0.2
_MAX_GRAD_NORM = 1.0


class UnequalError(SafeR1Error):
    """Two ways to compute the same have different results."""

    exit_code = 1


@dataclass(frozen=True)
class Steps:
    """Measurements of some optimizer steps.

    Attributes:
        step_s: Median duration without the first ones, in seconds.
        num_tokens: Tokens of each step.
        peak_gib: Most memory that was allocated on the GPU; None on CPU.
        results: Of all steps, the first ones too.
    """

    step_s: float
    num_tokens: int
    peak_gib: float | None
    results: Sequence[StepResult]

    @property
    def tokens_per_s(self) -> float:
        """Throughput."""
        return self.num_tokens / self.step_s


def random_model(
    architecture: Architecture,
    spec: ModelSpec,
    device: str,
) -> "PreTrainedModel":
    """A model as ``load_model`` prepares it for one worker, with random weights, the same at each call.

    Args:
        architecture: Dimensions of the model.
        spec: How to compute.
        device: ``cpu`` or ``cuda``.
    """
    config = hf_config(architecture)
    attention = choose_attention(config, spec, DIMS, device).name
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    return prepare_model(model, spec, DIMS, device)


def document_lengths(seq_len: int) -> list[int]:
    """Lengths of the documents of one sequence, about as many as the plan assumes and at least two."""
    num_documents = max(2, round(seq_len / _DOCUMENT_TOKENS))
    return [len(part) for part in np.array_split(np.arange(seq_len), num_documents)]


def random_batches(model: "PreTrainedModel", lengths: list[int], num: int, device: str) -> list[Batch]:
    """Micro-batches of one packed sequence of random tokens each, the same at each call.

    Args:
        model: Of one worker.
        lengths: Tokens of each document of a sequence.
        num: Number of micro-batches.
        device: Where they go.
    """
    generator = np.random.default_rng(0)
    names = ["random"] * len(lengths)
    prompts = [max(1, int(length * _PROMPT_SHARE)) for length in lengths]
    varlen = model.config._attn_implementation == VARLEN
    return [
        collate(
            [
                PackedSequence(
                    generator.integers(0, model.config.vocab_size, sum(lengths)),
                    lengths,
                    prompts,
                    names,
                    names,
                )
            ],
            device,
            varlen,
        )
        for _ in range(num)
    ]


def time_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    device: str,
    num: int,
    warm_up: int,
    lr: float = 1e-5,
) -> Steps:
    """Train on the same batches again and again.

    Args:
        model: From ``random_model``.
        optimizer: Of its parameters.
        batches: Micro-batches of every step.
        device: Where they are.
        num: Steps that are measured.
        warm_up: Steps before them.
        lr: Learning rate of all steps.

    Raises:
        UnequalError: A loss or a gradient norm is no number.
    """
    results: list[StepResult] = []
    seconds: list[float] = []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(warm_up + num):
        started = time.perf_counter()
        results.append(train_step(model, optimizer, batches, DIMS, lr, _MAX_GRAD_NORM))
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        if failure := results[-1].failure:
            raise UnequalError(failure)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    return Steps(statistics.median(seconds[warm_up:]), results[0].num_tokens, peak, results)


def largest_differences(ours: Steps, theirs: Steps) -> tuple[float, float]:
    """Largest relative difference of the loss and of the gradient norm of a step."""

    def largest(pairs: Iterable[tuple[float, float]]) -> float:
        return max(abs(one - other) / abs(other) for one, other in pairs)

    pairs = list(zip(ours.results, theirs.results, strict=True))
    return (
        largest((one.loss, other.loss) for one, other in pairs),
        largest((one.grad_norm, other.grad_norm) for one, other in pairs),
    )
