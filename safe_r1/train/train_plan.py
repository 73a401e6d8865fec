"""Resource plan of a fine-tuning run: GPU memory by part, host memory, volume, and time by part."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

from safe_r1.models.gpus import Gpu
from safe_r1.models.registry import Layout
from safe_r1.train.architecture import Architecture
from safe_r1.train.config import Fp8Recipe, SaveConfig
from safe_r1.train.memory import GIB, MemoryModel, MemoryParts
from safe_r1.train.step_time import StepModel, StepParts, StepSettings
from safe_r1.train.storage import (
    CORPUS_BYTES_PER_TOKEN,
    EXPORT_GIB_PER_S,
    NODE_DISK_GIB,
    NUM_KEPT_CHECKPOINTS,
    READ_GIB_PER_S,
    START_S,
    HostMemory,
    RunTime,
    VolumeUse,
    checkpoint_gib,
    checkpoint_wait_s,
    host_memory,
)

_SAVE = SaveConfig()
# Kinds of rows that are validated apart: safety, chain of thought, general.
_VALIDATED_KINDS = 3


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
        stored_bytes: Bytes of a parameter in the original model's files.
        volume_limit_gib: Room for the run's files; None: unknown.
        recompute_every: With ``activation_checkpointing``: one of so many layers is recomputed.
        defer_gradient_reduction: Reduce gradients once per step, not once per micro-batch.
        compiled: Each layer is compiled.
        fp8: Matrix products of the layers in FP8, scaled in this way; those of routed experts in bf16.
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
    stored_bytes: float = 2.0
    volume_limit_gib: float | None = None
    recompute_every: int = 1
    defer_gradient_reduction: bool = False
    compiled: bool = False
    fp8: Fp8Recipe | None = None

    @property
    def memory_model(self) -> MemoryModel:
        """The model of one GPU's memory."""
        return MemoryModel(
            self.architecture,
            self.layout,
            self.seq_len,
            self.activation_checkpointing,
            self.logits_budget_mib,
            self.dtype_bytes,
            self.recompute_every,
            self.defer_gradient_reduction and self.grad_accum_steps > 1,
        )

    @property
    def memory_peaks(self) -> dict[str, MemoryParts]:
        """Memory of one GPU at the ``loss`` and in the backward pass of a ``layer``."""
        return {"loss": self.memory_model.at_loss(), "layer": self.memory_model.at_layer()}

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
    def host(self) -> HostMemory:
        """Memory of one node by part."""
        # The memory model counts offloaded states as zero.
        on_gpu = replace(self, layout=replace(self.layout, cpu_offload=False))
        return host_memory(self.architecture, self.layout, self.gpu, on_gpu.memory.states)

    @property
    def host_fits(self) -> bool:
        """True where a node has that memory. Workers on CPU have it counted as memory of their device."""
        return self.gpu.name == "cpu" or self.host.total <= self.gpu.node_memory_gib

    @property
    def node_disk_gib(self) -> float:
        """Local disk of one node, where the model is downloaded to it."""
        return NODE_DISK_GIB + self.volume.model

    @property
    def volume(self) -> VolumeUse:
        """Room for the files of the run."""
        return VolumeUse(
            model=self.architecture.total_params * self.stored_bytes / GIB,
            corpus=self.corpus_tokens * CORPUS_BYTES_PER_TOKEN / GIB,
            kept_checkpoints=NUM_KEPT_CHECKPOINTS * self.checkpoint_gib,
            pending_checkpoint=self.checkpoint_gib,
            export=self.export_gib,
        )

    @property
    def grad_accum_steps(self) -> int:
        """Micro-batches of one worker per optimizer step."""
        return math.ceil(self.global_batch_size / (self.layout.micro_batch_size * self.layout.dp_size))

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all epochs, assuming full sequences."""
        return self.epochs * math.ceil(self.corpus_tokens / self._step_tokens)

    @property
    def step_settings(self) -> StepSettings:
        """How a step of this run computes."""
        return StepSettings(
            recomputed=1 / self.recompute_every if self.activation_checkpointing else 0.0,
            compiled=self.compiled,
            fp8=self.fp8,
            loss_is_recomputed=False,
            defer_gradient_reduction=self.defer_gradient_reduction,
        )

    @cached_property
    def step_model(self) -> StepModel:
        """The model of one step's duration."""
        return StepModel(
            self.architecture,
            self.layout,
            self.gpu,
            self.seq_len,
            self.document_tokens,
            self.grad_accum_steps,
            self.step_settings,
        )

    @cached_property
    def step_parts(self) -> StepParts:
        """Seconds of one optimizer step by part."""
        return self.step_model.parts()

    @property
    def step_s(self) -> float:
        """Duration of one optimizer step in seconds."""
        return self.step_parts.total

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Training throughput of one GPU."""
        return self._step_tokens / (self.step_s * self.layout.num_gpus)

    @property
    def mfu(self) -> float:
        """Model FLOPs utilization: FLOPs without recomputation, relative to the GPU's peak."""
        flops = self.architecture.train_flops_per_token(min(self.document_tokens, self.seq_len))
        return self.tokens_per_s_per_gpu * flops / (self.gpu.tflops * 1e12)

    @property
    def hours(self) -> float:
        """Training time of all epochs, without validation and checkpoints."""
        return self.num_steps * self.step_s / 3600

    @property
    def run_time(self) -> RunTime:
        """Seconds of the whole run by part."""
        saves = math.ceil(self.num_steps / _SAVE.every)
        # A validation is a forward pass; a step is three, and four where layers are recomputed.
        passes = 3 + self.step_settings.recomputed
        validated = _VALIDATED_KINDS * _SAVE.max_validation / self.global_batch_size
        return RunTime(
            start=START_S + self.volume.model / (self.num_nodes * READ_GIB_PER_S),
            training=self.num_steps * self.step_s,
            validation=(saves + 1) * validated * self.step_s / passes,
            checkpoints=checkpoint_wait_s(
                self.checkpoint_gib,
                saves,
                self.num_nodes,
                _SAVE.every * self.step_s,
                self.host.has_checkpoint_copy,
            ),
            export=self.export_gib / (EXPORT_GIB_PER_S * self.num_nodes),
        )

    @property
    def run_hours(self) -> float:
        """Time of the whole run, from its first process to the exported model."""
        return self.run_time.total / 3600

    @property
    def checkpoint_gib(self) -> float:
        """Size of a checkpoint: weights and moments."""
        return checkpoint_gib(self.architecture, self.layout)

    @property
    def export_gib(self) -> float:
        """Size of the exported bf16 model."""
        return self.architecture.total_params * 2 / GIB

    @property
    def _step_tokens(self) -> int:
        return self.global_batch_size * self.seq_len
