"""GPU memory of a training step at its two peaks: the loss, and the backward pass of the largest layer.

Weights are fp32 and sharded (FSDP2). A layer's weights are all-gathered in the compute dtype just before the
layer runs; its gradients are reduced in that dtype and accumulated in fp32. With activation checkpointing the
backward pass recomputes every layer from its input.

Source: what transformers' layers save for backward and what FSDP2 allocates, measured with torch's memory
    trackers; the unit test of this module repeats the measurement.
"""

import math
from dataclasses import astuple, dataclass

from safe_r1.models.registry import Layout
from safe_r1.train.architecture import Architecture

GIB = 2**30

# Bytes per parameter.
WEIGHT_BYTES = 4
GRADIENT_BYTES = 4
MOMENT_BYTES = {"fp32": 8, "bf16": 4, "8bit": 2}
# 8-bit moments are saved as fp32, because their quantization blocks depend on the number of shards.
MOMENT_BYTES_ON_DISK = MOMENT_BYTES | {"8bit": 8}
# fp32 log-softmax, and the gradients before and after it; the logits themselves are freed by then.
BYTES_PER_LOGIT = 12
# Assumption: the router does not balance experts perfectly, and the busiest GPU gets this many times the
# mean.
EXPERT_IMBALANCE = 1.25


@dataclass(frozen=True)
class MemoryParts:
    """Memory of one GPU at one moment, in GiB.

    Attributes:
        weights: Its shard of the fp32 weights.
        gradients: Its shard of the fp32 gradients.
        optimizer: Its shard of the two Adam moments.
        activations: The inputs of all layers, and the activations and temporaries of the running layer.
        logits: Those of one chunk of the loss, with their gradients.
        gathered: Unsharded tensors: all-gathered weights, and gradients before their reduce-scatter.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    gathered: float

    @property
    def states(self) -> float:
        """Weights, gradients and optimizer states, which stay allocated between steps."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum(astuple(self))


@dataclass(frozen=True)
class MemoryModel:
    """Estimated memory of one GPU of a layout, or of one CPU worker (``dtype_bytes=4``).

    Attributes:
        architecture: Dimensions of the model.
        layout: Sharding and batch size.
        seq_len: Tokens of a packed sequence.
        activation_checkpointing: Recompute each layer in the backward pass.
        logits_budget_mib: Memory limit of the logits of one chunk of the loss.
        dtype_bytes: Of the compute dtype: 2 for bf16, 4 for fp32.
    """

    architecture: Architecture
    layout: Layout
    seq_len: int
    activation_checkpointing: bool
    logits_budget_mib: int
    dtype_bytes: int

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch of a GPU."""
        return self.seq_len * self.layout.micro_batch_size

    @property
    def params(self) -> float:
        """Number of parameters whose states one GPU holds."""
        model = self.architecture
        layout = self.layout
        layer_params = sum(num * model.layer_params(kind) for kind, num in self._layers.items())
        # Embedding, output layer and final norm are not split by tensor parallelism.
        outside_layers = model.dense_params - layer_params
        dense = outside_layers + sum(num * self._layer_params(kind) for kind, num in self._layers.items())
        if model.experts is None:
            return dense / layout.fsdp_size
        # FSDP and expert parallelism assign whole experts to a GPU; only pure tensor parallelism splits them.
        if layout.ep_size == 1:
            shards = layout.fsdp_size
            splits = layout.tp_size
        else:
            shards = layout.fsdp_size * layout.tp_size
            splits = 1
        experts_per_gpu = math.ceil(model.experts.num / shards)
        experts = model.num_expert_layers * experts_per_gpu * model.expert_params / splits
        return dense / layout.fsdp_size + experts

    @property
    def state_gib(self) -> tuple[float, float, float]:
        """One GPU's shard of weights, gradients and moments, wherever they are stored."""
        weights, gradients, moments = (
            self.params * size / GIB
            for size in (WEIGHT_BYTES, GRADIENT_BYTES, MOMENT_BYTES[self.layout.states])
        )
        return weights, gradients, moments

    def at_loss(self) -> MemoryParts:
        """Memory while one chunk of logits is allocated; no layer is running."""
        # The final norm's two intermediates (one of them fp32), its output, and the output's gradient.
        norm = self.tokens * self.architecture.hidden_size * (4 + 3 * self._stream_bytes)
        return self._parts(self._saved_activations + norm, self._logits, self._unsharded_at_loss)

    def at_layer(self) -> MemoryParts:
        """Memory in the backward pass of the largest layer, while the next layer's weights are prefetched."""
        recomputed = max(map(self._layer_activations, self._layers)) if self.activation_checkpointing else 0.0
        work = recomputed + max(map(self._layer_temporaries, self._layers))
        # On CPU, sdpa needs an explicit mask for a packed sequence: a boolean one (1 byte) and a float one
        # (4).
        mask = 5 * self.tokens * self.seq_len if self.dtype_bytes == 4 else 0
        activations = self._saved_activations + self.tokens * work + mask
        return self._parts(activations, 0.0, self._unsharded_at_layer)

    def _parts(self, activations: float, logits: float, gathered: float) -> MemoryParts:
        states = (0.0, 0.0, 0.0) if self.layout.cpu_offload else self.state_gib
        return MemoryParts(*states, activations / GIB, logits / GIB, gathered / GIB)

    @property
    def _layers(self) -> dict[bool, int]:
        """Number of layers without (False) and with (True) routed experts, where there are any."""
        with_experts = self.architecture.num_expert_layers
        numbers = {False: self.architecture.num_layers - with_experts, True: with_experts}
        return {kind: num for kind, num in numbers.items() if num}

    @property
    def _is_unsharded(self) -> bool:
        """One data-parallel worker: no FSDP; bf16 is autocast, which keeps the residual stream in fp32."""
        return self.layout.dp_size == 1

    @property
    def _stream_bytes(self) -> int:
        """Bytes of one element of the residual stream."""
        return 4 if self._is_unsharded else self.dtype_bytes

    @property
    def _logits(self) -> float:
        return min(self.logits_budget_mib * 2.0**20, self._all_logits)

    @property
    def _all_logits(self) -> float:
        return float(BYTES_PER_LOGIT * self.tokens * self.architecture.vocab_size)

    @property
    def _saved_activations(self) -> float:
        """Bytes kept for the backward pass: every layer's input, or without checkpointing all it saves."""
        if self.activation_checkpointing:
            model = self.architecture
            return model.num_layers * self.tokens * model.hidden_size * self._stream_bytes
        return self.tokens * sum(num * self._layer_activations(kind) for kind, num in self._layers.items())

    def _layer_activations(self, with_experts: bool) -> float:
        """Bytes per token that one layer saves for its backward pass."""
        model = self.architecture
        width = self.dtype_bytes
        tp = self.layout.tp_size
        norm = 4 + 2 * self._stream_bytes
        saved = 2.0 * norm * model.hidden_size
        if latent := model.latent:
            # Queries, keys, joint keys and values, values, and the output twice; both latents have a norm.
            heads = 2 * latent.qk_head_dim + latent.qk_nope_head_dim + 3 * latent.v_head_dim
            latents = (latent.q_lora_rank or 0) + latent.kv_lora_rank
            saved += width * model.num_heads * heads + norm * latents
        else:
            # Queries, keys and values, expanded to all heads, and the output twice.
            saved += 5 * width * model.num_heads * model.head_dim / tp
        if not (with_experts and model.experts):
            return saved + 4 * width * model.intermediate_size / tp
        saved += 4 * model.hidden_size + 4 * width * model.shared_expert_size / tp
        expert_rows = 2 * model.hidden_size + 4 * model.experts.intermediate_size
        return saved + width * self._expert_rows * expert_rows

    def _layer_temporaries(self, with_experts: bool) -> float:
        """Bytes per token of gradients and copies while one layer runs backward."""
        model = self.architecture
        if with_experts:
            return self.dtype_bytes * 3 * self._expert_rows * model.hidden_size
        return self.dtype_bytes * 2 * (model.intermediate_size / self.layout.tp_size + model.hidden_size)

    @property
    def _expert_rows(self) -> float:
        """Routed-expert rows per token, on the busiest GPU."""
        experts = self.architecture.experts
        return EXPERT_IMBALANCE * experts.per_token / self.layout.tp_size if experts else 0.0

    def _layer_params(self, with_experts: bool) -> float:
        """Parameters of one layer on one tensor-parallel rank, without routed experts."""
        model = self.architecture
        split = model.mlp_params(model.shared_expert_size if with_experts else model.intermediate_size)
        # transformers' tensor-parallel plan replicates latent attention.
        split += 0 if model.latent else model.attention_params
        return model.layer_params(with_experts) - split + split / self.layout.tp_size

    @property
    def _unsharded_at_loss(self) -> float:
        """Bytes of the unsharded output layer: its weights, and its gradient until it is reduce-scattered."""
        model = self.architecture
        width = self.dtype_bytes
        # Accumulating over chunks holds the running sum, the new gradient and their sum.
        gradients = 3 if self._all_logits > self._logits else 1
        if not self._is_unsharded:
            accumulation = (1 + gradients) * width
            reduction = 2 * width + GRADIENT_BYTES
            return model.embedding_params * max(accumulation, reduction)
        # Autocast caches bf16 copies of all weights but the embedding.
        copies = width * (self.params - model.embedding_params) if width == 2 else 0.0
        return max(model.embedding_params * gradients * GRADIENT_BYTES, copies)

    @property
    def _unsharded_at_layer(self) -> float:
        """Bytes of one layer's weights, the prefetched layer's weights, the gradients and their reduction."""
        model = self.architecture
        width = self.dtype_bytes
        layer = max(map(self._unsharded_layer_params, self._layers))
        tied = model.tied * model.embedding_params
        if not self._is_unsharded:
            return layer * (3 * width + GRADIENT_BYTES) + tied * 2 * width
        mlp_gradient = model.hidden_size * model.intermediate_size * GRADIENT_BYTES
        return (layer * 2 * width if width == 2 else mlp_gradient) + tied * GRADIENT_BYTES

    def _unsharded_layer_params(self, with_experts: bool) -> float:
        """Parameters of one layer after FSDP's all-gather, on one tensor- and expert-parallel rank."""
        params = self._layer_params(with_experts)
        if not (with_experts and self.architecture.experts):
            return params
        layout = self.layout
        splits = layout.tp_size if layout.ep_size == 1 else layout.ep_size
        return params + self.architecture.experts.num * self.architecture.expert_params / splits
