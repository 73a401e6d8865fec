"""What a fine-tuning run takes: memory of each GPU by part, GPUs, time and disk; decided before a GPU is
taken.

Source of the assumed utilization, tokens/s of an H100: torchtitan (8B: 5,762, compiled 6,667; 70B, layers
computed again: 597 to 652) and NVIDIA NeMo (70B: 867; DeepSeek-V3 671B with kernels of its own: 1,002).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from safe_r1.errors import ConfigError, ResourceError
from safe_r1.models.registry import Layout, Variant
from safe_r1.train.architecture import Architecture, get_architecture
from safe_r1.train.config import FinetuneConfig
from safe_r1.train.gpus import Gpu, get_gpu
from safe_r1.train.memory import GIB, MOMENTS, MOMENTS_ON_DISK, WEIGHT, MemoryModel, MemoryParts

_DEFAULTS = FinetuneConfig(variant="-", corpus="-")

# An assumption: 50,000 conversations of 1,500 tokens, prompt, reasoning and answer together.
CONVERSATIONS = 50_000
CONVERSATION_TOKENS = 1_500

# Share of the peak that training reaches, recomputation not counted as work, by (experts, activation
# checkpointing).
MFU = {(False, False): 0.35, (False, True): 0.30, (True, False): 0.25, (True, True): 0.22}
# Between a GPU and host memory, and for the update on the CPU; an assumption.
OFFLOAD_BYTES_PER_S = 20e9
MOST_GPUS = 1024
# For models that have no layout of their own.
COMMON_GPU = "h100-80"


@dataclass(frozen=True)
class TrainPlan:
    """A fine-tuning run on paper.

    Attributes:
        layout: GPUs and how the model is spread over them.
        gpu: The kind of GPU, with its memory.
        corpus_tokens: Of one epoch.
        document_tokens: Mean length of a conversation: attention reaches no further.
        dtype_bytes: Of the computation: 2 for bf16, 4 for fp32.
    """

    architecture: Architecture
    layout: Layout
    gpu: Gpu
    seq_len: int
    global_batch_size: int
    activation_checkpointing: bool
    logits_budget_mib: int
    corpus_tokens: int
    epochs: int
    document_tokens: int
    dtype_bytes: int

    @property
    def moments(self) -> dict[str, MemoryParts]:
        """Memory of one GPU at the loss and in a layer's backward pass."""
        memory = MemoryModel(
            self.architecture,
            self.layout,
            self.seq_len,
            self.activation_checkpointing,
            self.logits_budget_mib,
            self.dtype_bytes,
        )
        return {"loss": memory.at_loss(), "layer": memory.at_layer()}

    @property
    def memory(self) -> MemoryParts:
        """Memory of one GPU when it holds most."""
        return max(self.moments.values(), key=lambda parts: parts.total)

    @property
    def fits(self) -> bool:
        """True where a GPU holds its part."""
        return self.memory.total <= self.gpu.usable_gib

    @property
    def num_nodes(self) -> int:
        """Machines."""
        return math.ceil(self.layout.num_gpus / self.gpu.per_node)

    @property
    def host_gib(self) -> float:
        """Host memory of one machine that offloaded states take."""
        if not self.layout.cpu_offload:
            return 0.0
        on_gpu = replace(self, layout=replace(self.layout, cpu_offload=False))
        return on_gpu.memory.states * min(self.layout.num_gpus, self.gpu.per_node)

    @property
    def grad_accum_steps(self) -> int:
        """Micro-batches of one worker in a step."""
        return math.ceil(self.global_batch_size / (self.layout.micro_batch_size * self.layout.dp_size))

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all epochs, sequences being full."""
        return self.epochs * math.ceil(self.corpus_tokens / self._step_tokens)

    @property
    def mfu(self) -> float:
        """Assumed share of the peak."""
        return MFU[self.architecture.experts is not None, self.activation_checkpointing]

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Training speed of one GPU, offloading left out."""
        flops = self.architecture.train_flops_per_token(min(self.document_tokens, self.seq_len))
        return self.gpu.tflops * 1e12 * self.mfu / flops

    @property
    def step_s(self) -> float:
        """Seconds of one optimizer step."""
        compute = self._step_tokens / (self.tokens_per_s_per_gpu * self.layout.num_gpus)
        return compute + self._offload_s

    @property
    def hours(self) -> float:
        """Of all epochs, without validation and checkpoints."""
        return self.num_steps * self.step_s / 3600

    @property
    def checkpoint_gib(self) -> float:
        """Weights and moments, to resume from."""
        return self.architecture.total_params * (WEIGHT + MOMENTS_ON_DISK[self.layout.states]) / GIB

    @property
    def export_gib(self) -> float:
        """The finished model in bf16."""
        return self.architecture.total_params * 2 / GIB

    @property
    def _step_tokens(self) -> int:
        return self.global_batch_size * self.seq_len

    @property
    def _offload_s(self) -> float:
        """Weights come twice and gradients go once a micro-batch; the update reads and writes all states."""
        if not self.layout.cpu_offload:
            return 0.0
        params = self.architecture.total_params / (self.layout.fsdp_size * self.layout.tp_size)
        update = 2 * WEIGHT + 4 + 2 * MOMENTS[self.layout.states]
        return params * (12 * self.grad_accum_steps + update) / OFFLOAD_BYTES_PER_S


def make_plan(
    architecture: Architecture,
    layout: Layout,
    *,
    gpu: Gpu | None = None,
    seq_len: int = _DEFAULTS.pack.seq_len,
    global_batch_size: int = _DEFAULTS.global_batch_size,
    activation_checkpointing: bool = _DEFAULTS.parallel.activation_checkpointing,
    logits_budget_mib: int = _DEFAULTS.parallel.logits_budget_mib,
    corpus_tokens: int = CONVERSATIONS * CONVERSATION_TOKENS,
    epochs: int = _DEFAULTS.epochs,
    document_tokens: int = CONVERSATION_TOKENS,
    dtype_bytes: int | None = None,
) -> TrainPlan:
    """The plan of a run; it may be one that does not work, see ``check_plan``.

    Args:
        gpu: In place of the table's entry for ``layout.gpu``, for example with the memory that was found.
        dtype_bytes: 2 for bf16, 4 for fp32; None: 4 on ``cpu``, else 2.

    Raises:
        ConfigError: The layout's GPU is unknown.
    """
    gpu = gpu or get_gpu(layout.gpu)
    return TrainPlan(
        architecture,
        layout,
        gpu,
        seq_len,
        global_batch_size,
        activation_checkpointing,
        logits_budget_mib,
        corpus_tokens,
        epochs,
        document_tokens,
        dtype_bytes or (4 if gpu.name == "cpu" else 2),
    )


def plan_variant(
    variant: Variant, gpu: str | None = None, nodes: int | None = None, **settings: Any
) -> TrainPlan:
    """The plan of a variant in its own layout, or on so many nodes of a kind of GPU.

    Args:
        settings: As for ``make_plan``.

    Raises:
        ConfigError: The GPU is unknown.
        ModelError: The variant's architecture is not to be had.
    """
    own = variant.layout or Layout(gpu or COMMON_GPU, 1, why="the fewest GPUs that hold it")
    kind = get_gpu(gpu or own.gpu)
    layout = replace(own, gpu=kind.name)
    layout = resize(layout, nodes * kind.per_node) if nodes else layout
    if layout != own:
        table = f"; {variant.name} has {own.num_gpus} × {own.gpu} of its own" if variant.layout else ""
        layout = replace(layout, why=f"as asked{table}")
    plan = make_plan(get_architecture(variant), layout, **settings)
    return plan if variant.layout or nodes else smallest_fit(plan) or plan


def resize(layout: Layout, num_gpus: int, *, shard: bool = False) -> Layout:
    """The layout on so many GPUs: further copies of the model, or one copy sharded over all of them.

    Args:
        shard: Never copies, which takes the least memory.
    """
    workers = num_gpus // layout.tp_size
    copies = 1 if shard or workers % layout.fsdp_size else workers // layout.fsdp_size
    fsdp = workers // copies
    return replace(
        layout,
        fsdp_size=fsdp,
        dp_replicate_size=copies,
        ep_size=math.gcd(layout.ep_size, fsdp * layout.tp_size),
    )


def smallest_fit(plan: TrainPlan) -> TrainPlan | None:
    """The same run on the fewest GPUs (1, 2, 4, ...) of its kind that hold it; None where 1,024 do not."""
    sizes = (2**power for power in range(MOST_GPUS.bit_length()))
    plans = (
        replace(plan, layout=resize(plan.layout, size, shard=True))
        for size in sizes
        if size >= plan.layout.tp_size
    )
    return next((smaller for smaller in plans if smaller.fits), None)


def check_plan(plan: TrainPlan) -> None:
    """Refuse a run that cannot work, before it takes a GPU.

    Raises:
        ConfigError: Sizes that do not divide, or sequences longer than the model's context.
        ResourceError: A GPU cannot hold its part.
    """
    _check_sizes(plan.architecture, plan.layout)
    if plan.seq_len > plan.architecture.context:
        raise ConfigError(
            f"pack.seq_len {plan.seq_len} is beyond the model's context of {plan.architecture.context} tokens"
        )
    if plan.global_batch_size != _whole_batch(plan):
        raise ConfigError(
            f"global_batch_size {plan.global_batch_size} is not a multiple of micro_batch_size × data-parallel workers = "
            f"{plan.layout.micro_batch_size} × {plan.layout.dp_size}: take {_whole_batch(plan)}, or another number of workers"
        )
    if not plan.fits:
        remedies = "; or ".join(remedies_of(plan)) or "a larger kind of GPU"
        raise ResourceError(
            f"does not fit: {plan.memory.total:.1f} GiB on each of {plan.layout.num_gpus} {plan.gpu.name}, which hold "
            f"{plan.gpu.usable_gib:.1f}; this would do: {remedies}"
        )


def _whole_batch(plan: TrainPlan) -> int:
    """The next global batch size that the workers divide."""
    together = plan.layout.micro_batch_size * plan.layout.dp_size
    return math.ceil(plan.global_batch_size / together) * together


def _check_sizes(model: Architecture, layout: Layout) -> None:
    tp, ep, workers = layout.tp_size, layout.ep_size, layout.fsdp_size * layout.tp_size
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
    """Changes that each alone make the plan fit."""
    shorter = replace(plan, seq_len=plan.seq_len // 2)
    small_moments = replace(plan, layout=replace(plan.layout, states="8bit"))
    offloaded = replace(plan, layout=replace(plan.layout, cpu_offload=True))
    changes = [
        (f"pack.seq_len={shorter.seq_len}", shorter),
        ("optimizer.states=8bit", small_moments),
        (f"parallel.cpu_offload=true with {offloaded.host_gib:,.0f} GiB of host memory a node", offloaded),
    ]
    fewest = smallest_fit(plan)
    found = [describe_size(plan, fewest)] if fewest else []
    return found + [text for text, changed in changes if changed.fits]


def describe_size(plan: TrainPlan, other: TrainPlan) -> str:
    """Number of GPUs of ``other``, with the settings that a job of ``plan`` needs beside it."""
    num_gpus, settings = other.layout.num_gpus, []
    as_the_job_does = resize(plan.layout, num_gpus)
    if as_the_job_does.fsdp_size != other.layout.fsdp_size:
        settings.append(f"parallel.fsdp_size={other.layout.fsdp_size}")
    if plan.layout.ep_size != other.layout.ep_size:
        settings.append(f"parallel.ep_size={other.layout.ep_size}")
    if _whole_batch(other) != plan.global_batch_size:
        settings.append(f"global_batch_size={_whole_batch(other)}")
    gpus = f"{num_gpus} × {other.gpu.name}"
    return f"{gpus} with {' and '.join(settings)}" if settings else gpus
