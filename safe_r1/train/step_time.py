"""Duration of an optimizer step on one GPU, by part: kernels by class, exposed communication, host syncs.

Each part follows from the model's dimensions, the data sheets in ``gpus`` and a few shares of the peaks
below. The shares marked as fitted were chosen by the runs that ``tests/baselines/training.toml`` names for
that; the other runs there are compared with the result (``tests/unit/train/test_step_time.py``).

Source: FlashAttention-2 and 3 (arXiv 2307.08691, 2407.08608) for attention's shares of the peak; torchtitan,
    llm-foundry and NeMo for runs on GPUs.
"""

from dataclasses import dataclass
from functools import cached_property

from safe_r1.models.gpus import Gpu
from safe_r1.models.registry import Layout
from safe_r1.train.architecture import Architecture
from safe_r1.train.communication import Communication, expert_exchange
from safe_r1.train.memory import (
    GRADIENT_BYTES,
    MOMENT_BYTES,
    WEIGHT_BYTES,
)
from safe_r1.train.shards import Shards
from safe_r1.train.step_parts import StepParts, StepSettings

# Shares of the peak bf16 throughput. Fitted: ampere and hopper. Assumption: the others are like their
# nearest relative.
MATMUL_SHARE = {"ampere": 0.74, "hopper": 0.59, "blackwell": 0.59, "ada": 0.59, "cpu": 0.45}
# Grouped products of many small matrices, relative to a dense one. Fitted.
EXPERT_SHARE = 0.89
# Assumption: FP8 kernels reach the same share of their peak, which is twice that of bf16, where a matrix has
# one scale. With one for each row, so much of that, with the casts along both axes. Fitted to the 10% by
# which torchao's run is faster than bf16.
FP8_SHARE = {"tensorwise": 1.0, "rowwise": 0.73}
# Attention over long documents, forward and backward together, by the papers' figures for causal heads of
# 128.
ATTENTION_SHARE = {"ampere": 0.58, "hopper": 0.36, "blackwell": 0.36, "ada": 0.50, "cpu": 0.20}
FLASH3_SHARE = 0.58
# Length of a document at which attention reaches half of that share.
ATTENTION_HALF_LENGTH = 500.0
# FlashAttention's backward pass computes the scores again: five products for the forward pass's two.
ATTENTION_BACKWARD = 2.5
# Share of the memory's peak bandwidth that kernels with one read and one write per element reach.
MEMORY_SHARE = 0.80
# Bytes read and written for each element in the forward pass: eager, and fused by a compiler. RMSNorm
# computes in fp32; RoPE multiplies twice, rotates and adds; the activation is SiLU and a product; a routed
# row is copied in, weighted, and summed. The backward pass moves twice as many.
NORM_BYTES = (26, 8)
RESIDUAL_BYTES = (6, 2)
ROPE_BYTES = (18, 4)
ACTIVATION_BYTES = (10, 6)
ROUTED_ROW_BYTES = (20, 12)
LOGIT_BYTES = (40, 16)
# A cast to FP8 reads an element for the scale and again for the cast, eager also each step of it in fp32.
CAST_BYTES = (33, 5)
# Assumption: launches that the GPU waits for after the host has waited for the GPU.
SYNC_S = 150e-6
# Assumption: effective bandwidth between a GPU and host memory, and of the optimizer update on the CPU.
OFFLOAD_BYTES_PER_S = 20e9


@dataclass(frozen=True)
class StepModel:
    """Estimated duration of one optimizer step.

    Attributes:
        architecture: Dimensions of the model.
        layout: GPUs and sharding.
        gpu: The GPU type.
        seq_len: Tokens of a packed sequence.
        document_tokens: Mean length of a document, which bounds the span of attention.
        micro_batches: Micro-batches of one worker per optimizer step.
        settings: How the step computes.
    """

    architecture: Architecture
    layout: Layout
    gpu: Gpu
    seq_len: int
    document_tokens: float
    micro_batches: int
    settings: StepSettings

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch of a worker."""
        return self.seq_len * self.layout.micro_batch_size

    @cached_property
    def communication(self) -> Communication:
        """What one GPU sends in the step."""
        settings = self.settings
        own = expert_exchange(self.architecture, self.layout, self.gpu.per_node)
        return Communication(
            self.architecture,
            self.layout,
            self.gpu,
            self.seq_len,
            self.micro_batches,
            settings.recomputed,
            settings.exchange or own,
            settings.defer_gradient_reduction,
            gradient_bytes=settings.gradient_bytes,
            is_fsdp2=settings.is_fsdp2,
        )

    def parts(self) -> StepParts:
        """Seconds of one optimizer step by part."""
        number = self.micro_batches
        matmul, experts, attention, elementwise = self._forward
        output = self._output_forward
        passes = 4 if self.settings.loss_is_recomputed else 3
        recomputation = self.settings.recomputed * (matmul + experts + attention + elementwise)
        return StepParts(
            matmul=number * 3 * matmul,
            experts=number * 3 * experts,
            attention=number * (1 + ATTENTION_BACKWARD) * attention,
            output=number * (passes * output + self._logits_s),
            elementwise=number * 3 * elementwise,
            recomputation=number * recomputation,
            optimizer=self._optimizer_s,
            sharding=self._exposed_sharding_s,
            tensor_parallel=self.communication.seconds("tensor parallel"),
            expert_exchange=self.settings.imbalance * self.communication.seconds("tokens"),
            host_syncs=self._num_syncs * SYNC_S,
            offload=self._offload_s,
        )

    @property
    def _forward(self) -> tuple[float, float, float, float]:
        """Seconds of all layers' forward pass: matrix products, experts, attention, elementwise."""
        model = self.architecture
        tp = self.layout.tp_size
        rate = self._matmul_rate * self._fp8_speedup
        expert_rate = rate if self.settings.fp8_experts else self._matmul_rate
        params = sum(number * self._shards.layer_params(kind) for kind, number in self._shards.layers.items())
        rows = self.tokens * (model.experts.per_token if model.experts else 0) / tp
        imbalance = self.settings.imbalance if self.layout.ep_size > 1 else 1.0
        expert_flops = 2 * rows * imbalance * model.num_expert_layers * model.expert_params
        # Latent attention is replicated, not split.
        heads = model.num_heads if model.latent else model.num_heads / tp
        head_dims = model.latent.qk_head_dim + model.latent.v_head_dim if model.latent else 2 * model.head_dim
        attention_flops = model.num_layers * heads * head_dims * self._span * self.tokens
        return (
            2 * self.tokens * params / rate,
            expert_flops / (expert_rate * EXPERT_SHARE),
            attention_flops / self._attention_rate,
            self._elementwise_bytes / self._memory_rate,
        )

    @cached_property
    def _shards(self) -> Shards:
        return Shards(self.architecture, self.layout)

    @property
    def _span(self) -> float:
        """Tokens of a document, of which a token attends to half on average."""
        return min(self.document_tokens, self.seq_len)

    @property
    def _matmul_rate(self) -> float:
        return self.gpu.tflops * 1e12 * MATMUL_SHARE[self.gpu.generation]

    @property
    def _fp8_speedup(self) -> float:
        """Throughput of the layers' matrix products without their casts, relative to bf16."""
        recipe = self.settings.fp8
        # On CPU they are emulated.
        if not recipe or not self.gpu.fp8_tflops:
            return 1.0
        return self.gpu.fp8_tflops / self.gpu.tflops * FP8_SHARE[recipe]

    @property
    def _attention_rate(self) -> float:
        share = ATTENTION_SHARE[self.gpu.generation]
        if self.settings.attention == "fa3":
            share = FLASH3_SHARE
        return self.gpu.tflops * 1e12 * share * self._span / (self._span + ATTENTION_HALF_LENGTH)

    @property
    def _memory_rate(self) -> float:
        return self.gpu.memory_gb_s * 1e9 * MEMORY_SHARE

    @property
    def _elementwise_bytes(self) -> float:
        """Bytes that the forward pass of all layers reads and writes besides its matrix products."""
        model = self.architecture
        tp = self.layout.tp_size
        fused = self.settings.compiled
        # Two norms and two additions a layer.
        stream = 2 * model.hidden_size * (NORM_BYTES[fused] + RESIDUAL_BYTES[fused])
        if latent := model.latent:
            # Only a part of each head is rotated; queries, keys and values are put together from their parts.
            heads = model.num_heads * (2 * latent.qk_head_dim + latent.v_head_dim)
        else:
            heads = (model.num_heads + model.num_kv_heads) * model.head_dim / tp
        per_layer = stream + heads * ROPE_BYTES[fused]
        width = {False: model.intermediate_size, True: model.shared_expert_size}
        total = sum(
            number * (per_layer + width[kind] / tp * ACTIVATION_BYTES[fused])
            for kind, number in self._shards.layers.items()
        )
        if experts := model.experts:
            row = model.hidden_size * ROUTED_ROW_BYTES[fused]
            row += experts.intermediate_size * ACTIVATION_BYTES[fused]
            total += model.num_expert_layers * experts.per_token * row / tp
        casts = self._cast_elements * CAST_BYTES[fused] if self.settings.fp8 else 0.0
        return total * self.tokens + casts

    @property
    def _cast_elements(self) -> float:
        """Inputs and weights of the layers' matrix products, which the forward pass casts to FP8."""
        model = self.architecture
        if latent := model.latent:
            inside = (latent.q_lora_rank or 0) + latent.kv_lora_rank + model.num_heads * latent.v_head_dim
        else:
            inside = model.num_heads * model.head_dim
        width = {False: model.intermediate_size, True: model.shared_expert_size}
        return sum(
            number * (self.tokens * (2 * model.hidden_size + inside + width[kind]) + model.layer_params(kind))
            for kind, number in self._shards.layers.items()
        )

    @property
    def _output_forward(self) -> float:
        params = self.architecture.embedding_params / self.settings.output_splits
        return 2 * self.tokens * params / self._matmul_rate

    @property
    def _logits_s(self) -> float:
        logits = self.tokens * self.architecture.vocab_size / self.settings.output_splits
        return logits * LOGIT_BYTES[self.settings.compiled] / self._memory_rate

    @property
    def _local_params(self) -> float:
        """Parameters whose states one GPU holds."""
        return self._shards.params

    @property
    def _optimizer_s(self) -> float:
        if self.layout.cpu_offload:
            return 0.0
        # The norm reads the gradients, the update reads them again; weights and moments are read and written.
        per_param = 2 * GRADIENT_BYTES + 2 * WEIGHT_BYTES + 2 * MOMENT_BYTES[self.layout.states]
        return self._local_params * per_param / self._memory_rate

    @property
    def _exposed_sharding_s(self) -> float:
        """Seconds of a step in which the GPU waits for weights or gradients of FSDP.

        Weights of the next layer are gathered while one runs, and gradients are reduced in the background; of
        the first layer's weights and the last one's gradients nothing is hidden. Nothing is hidden by the
        exchange of tokens either, which needs the same links. The reduction of a layer's experts has to end
        with the rest of that layer, as FSDP2 has one buffer for gradients that are reduced.
        """
        # Half of the gathers are in the forward pass.
        gather = self.communication.seconds("weights", "expert weights") / 2
        reduce = self.communication.seconds("gradients", "expert gradients")
        number = self.micro_batches
        forward = sum(self._forward) + self._output_forward
        backward = 2 * forward + self.settings.recomputed * sum(self._forward)
        reducing = self.communication.num_reductions
        others = number - reducing
        ends = (gather + reduce) / self.architecture.num_layers
        waits = max(0.0, gather - number * forward)
        waits += max(0.0, gather * others / number - others * backward)
        after_experts = 2 * (sum(self._forward) - self._forward[1])
        waits += max(
            gather * reducing / number + reduce - reducing * backward,
            self._expert_reduction_s - reducing * after_experts,
            0.0,
        )
        return ends + waits

    @property
    def _expert_reduction_s(self) -> float:
        """Seconds in which the gradients of experts are reduced one layer at a time."""
        if not self.settings.is_fsdp2:
            return 0.0
        transfers = self.communication.transfers
        reductions = [
            each
            for each in transfers
            if each.collective == "reduce_scatter" and each.purpose == "expert gradients"
        ]
        return sum(each.seconds(self.gpu) for each in reductions)

    @property
    def _num_syncs(self) -> float:
        """Waits of the host in a step: for the loss, and in every dispatch."""
        exchange = self.communication.exchange
        if not exchange:
            return 1.0
        dispatches = self.architecture.num_expert_layers * (1 + self.settings.recomputed)
        return 1.0 + self.micro_batches * exchange.syncs * dispatches

    @property
    def _offload_s(self) -> float:
        if not self.layout.cpu_offload:
            return 0.0
        # Per micro-batch: fp32 weights to the GPU for forward and for backward, gradients back.
        moved = (2 * WEIGHT_BYTES + GRADIENT_BYTES) * self.micro_batches
        # The update reads the gradients, and reads and writes weights and moments.
        update = 2 * WEIGHT_BYTES + GRADIENT_BYTES + 2 * MOMENT_BYTES[self.layout.states]
        return self._local_params * (moved + update) / OFFLOAD_BYTES_PER_S
