"""Resource plan of a fine-tuning run: GPU memory by part, number of GPUs, time and disk.

Source of the assumed MFU, tokens/s per H100: torchtitan (8B: 5,762, compiled 6,667; 70B with activation
checkpointing: 597 to 652) and NVIDIA NeMo (70B: 867; DeepSeek-V3 671B with custom kernels: 1,002).
"""

import math
from dataclasses import dataclass, replace

from safe_r1.models.registry import Layout, Variant
from safe_r1.train.architecture import Architecture, get_architecture
from safe_r1.train.config import FinetuneConfig
from safe_r1.train.gpus import Gpu, get_gpu
from safe_r1.train.memory import (
    GIB,
    MOMENT_BYTES,
    MOMENT_BYTES_ON_DISK,
    WEIGHT_BYTES,
    MemoryModel,
    MemoryParts,
)

_DEFAULTS = FinetuneConfig(variant="-", corpus="-")

# Assumption: 50,000 conversations of 1,500 tokens (prompt, reasoning and answer together).
CONVERSATIONS = 50_000
CONVERSATION_TOKENS = 1_500

# Model FLOPs utilization (recomputation not counted as work) by (has experts, activation checkpointing).
MFU = {(False, False): 0.35, (False, True): 0.30, (True, False): 0.25, (True, True): 0.22}
# Assumption: effective bandwidth between a GPU and host memory, and of the optimizer update on the CPU.
OFFLOAD_BYTES_PER_S = 20e9
MAX_GPUS = 1024
# For models whose registry entry has no layout.
DEFAULT_GPU = "h100-80"


@dataclass(frozen=True)
class TrainPlan:
    """Estimated resources of a fine-tuning run.

    Attributes:
        architecture: Dimensions of the model.
        layout: GPUs, and how the model is sharded over them.
        gpu: The GPU type, with its memory.
        seq_len: Tokens of a packed sequence.
        global_batch_size: Packed sequences of an optimizer step, over all workers.
        activation_checkpointing: Recompute each layer in the backward pass.
        logits_budget_mib: Memory limit of the logits of one chunk of the loss.
        corpus_tokens: Tokens of one epoch.
        epochs: Passes over the corpus.
        document_tokens: Mean length of a conversation, which bounds the span of attention.
        dtype_bytes: Of the compute dtype: 2 for bf16, 4 for fp32.
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
    def memory_peaks(self) -> dict[str, MemoryParts]:
        """Memory of one GPU at the ``loss`` and in the backward pass of a ``layer``."""
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
        """Peak memory of one GPU."""
        return max(self.memory_peaks.values(), key=lambda parts: parts.total)

    @property
    def fits(self) -> bool:
        """True where the peak is within the usable memory of a GPU."""
        return self.memory.total <= self.gpu.usable_gib

    @property
    def num_nodes(self) -> int:
        """Nodes of the run."""
        return math.ceil(self.layout.num_gpus / self.gpu.per_node)

    @property
    def host_gib(self) -> float:
        """Host memory of one node for offloaded states."""
        if not self.layout.cpu_offload:
            return 0.0
        # The memory model counts offloaded states as zero.
        on_gpu = replace(self, layout=replace(self.layout, cpu_offload=False))
        return on_gpu.memory.states * min(self.layout.num_gpus, self.gpu.per_node)

    @property
    def grad_accum_steps(self) -> int:
        """Micro-batches of one worker per optimizer step."""
        return math.ceil(self.global_batch_size / (self.layout.micro_batch_size * self.layout.dp_size))

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all epochs, assuming full sequences."""
        return self.epochs * math.ceil(self.corpus_tokens / self._step_tokens)

    @property
    def mfu(self) -> float:
        """Assumed model FLOPs utilization."""
        return MFU[self.architecture.experts is not None, self.activation_checkpointing]

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Training throughput of one GPU, without offloading."""
        flops = self.architecture.train_flops_per_token(min(self.document_tokens, self.seq_len))
        return self.gpu.tflops * 1e12 * self.mfu / flops

    @property
    def step_s(self) -> float:
        """Duration of one optimizer step in seconds."""
        compute = self._step_tokens / (self.tokens_per_s_per_gpu * self.layout.num_gpus)
        return compute + self._offload_s

    @property
    def hours(self) -> float:
        """Training time of all epochs, without validation and checkpoints."""
        return self.num_steps * self.step_s / 3600

    @property
    def checkpoint_gib(self) -> float:
        """Size of a checkpoint: weights and moments."""
        bytes_per_param = WEIGHT_BYTES + MOMENT_BYTES_ON_DISK[self.layout.states]
        return self.architecture.total_params * bytes_per_param / GIB

    @property
    def export_gib(self) -> float:
        """Size of the exported bf16 model."""
        return self.architecture.total_params * 2 / GIB

    @property
    def _step_tokens(self) -> int:
        return self.global_batch_size * self.seq_len

    @property
    def _offload_s(self) -> float:
        """Seconds per step for transfers to and from host memory, and for the update on the CPU."""
        if not self.layout.cpu_offload:
            return 0.0
        params = self.architecture.total_params / (self.layout.fsdp_size * self.layout.tp_size)
        # Per micro-batch: fp32 weights to the GPU for forward and for backward, gradients back: 3 × 4 bytes.
        # Per step, the update reads the gradients, and reads and writes weights and moments.
        update = 2 * WEIGHT_BYTES + 4 + 2 * MOMENT_BYTES[self.layout.states]
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
    """The plan of a run, which is not validated yet; see ``check_plan``.

    Args:
        architecture: Dimensions of the model.
        layout: GPUs and sharding.
        gpu: Overrides the table's entry for ``layout.gpu``, for example with the measured memory.
        seq_len: See ``TrainPlan``, as for the following.
        global_batch_size: Packed sequences of an optimizer step.
        activation_checkpointing: Recompute each layer in the backward pass.
        logits_budget_mib: Memory limit of the logits.
        corpus_tokens: Tokens of one epoch.
        epochs: Passes over the corpus.
        document_tokens: Mean length of a conversation.
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
    variant: Variant,
    gpu: str | None = None,
    nodes: int | None = None,
    *,
    seq_len: int | None = None,
    global_batch_size: int | None = None,
    corpus_tokens: int | None = None,
) -> TrainPlan:
    """The plan of a variant with its registry layout, or on a given number of nodes of a GPU type.

    Args:
        variant: The model.
        gpu: GPU type; None: the layout's.
        nodes: Number of nodes, all GPUs of each; None: as in the layout.
        seq_len: As for ``make_plan``; None: the default.
        global_batch_size: As for ``make_plan``; None: the default.
        corpus_tokens: As for ``make_plan``; None: the default.

    Raises:
        ConfigError: The GPU is unknown.
        ModelError: The variant's ``config.json`` cannot be read or is of an unsupported architecture.
    """
    own = variant.layout or Layout(gpu or DEFAULT_GPU, 1, why="the fewest GPUs that hold it")
    gpu_type = get_gpu(gpu or own.gpu)
    layout = replace(own, gpu=gpu_type.name)
    layout = resize(layout, nodes * gpu_type.per_node) if nodes else layout
    # The registry explains its own layout; any other one was asked for.
    if layout != own:
        default = f"; the default of {variant.name} is {own.num_gpus} × {own.gpu}" if variant.layout else ""
        layout = replace(layout, why=f"as requested{default}")
    plan = make_plan(
        get_architecture(variant),
        layout,
        seq_len=seq_len or _DEFAULTS.pack.seq_len,
        global_batch_size=global_batch_size or _DEFAULTS.global_batch_size,
        corpus_tokens=corpus_tokens or CONVERSATIONS * CONVERSATION_TOKENS,
    )
    # Without a layout or a request, use as few GPUs as possible.
    return plan if variant.layout or nodes else smallest_fit(plan) or plan


def resize(layout: Layout, num_gpus: int, *, shard: bool = False) -> Layout:
    """The layout on another number of GPUs: more replicas of the model, or one replica over all of them.

    Args:
        layout: The original layout.
        num_gpus: GPUs of the new one.
        shard: Always shard one replica over all GPUs, which needs the least memory per GPU.
    """
    workers = num_gpus // layout.tp_size
    replicas = 1 if shard or workers % layout.fsdp_size else workers // layout.fsdp_size
    fsdp = workers // replicas
    return replace(
        layout,
        fsdp_size=fsdp,
        dp_replicate_size=replicas,
        # Expert parallelism regroups the workers of a replica, so it must divide their number.
        ep_size=math.gcd(layout.ep_size, fsdp * layout.tp_size),
    )


def smallest_fit(plan: TrainPlan) -> TrainPlan | None:
    """The same run on the fewest GPUs (1, 2, 4, ... up to ``MAX_GPUS``) that hold it; None if none do."""
    sizes = (2**power for power in range(MAX_GPUS.bit_length()))
    plans = (
        replace(plan, layout=resize(plan.layout, size, shard=True))
        for size in sizes
        if size >= plan.layout.tp_size
    )
    return next((smaller for smaller in plans if smaller.fits), None)
