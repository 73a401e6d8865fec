"""GPU memory of a training step at its two peaks: the loss, and the backward pass of the largest layer.

Weights are fp32 and sharded (FSDP2). A layer's weights are all-gathered in the compute dtype just before the
layer runs; its gradients are reduced in that dtype and accumulated in fp32. With activation checkpointing the
backward pass recomputes every layer from its input.

Source: what transformers' layers save for backward and what FSDP2 allocates, measured with torch's memory
    trackers; the unit test of this module repeats the measurement.
"""

import math
from dataclasses import astuple, dataclass
from functools import cached_property

from safe_r1.models.registry import Layout, States
from safe_r1.train.architecture import Architecture
from safe_r1.train.shards import Shards

GIB = 2**30

# Bytes per parameter.
WEIGHT_BYTES = 4
GRADIENT_BYTES = 4
MOMENT_BYTES = {"fp32": 8, "bf16": 4, "8bit": 2}
# 8-bit moments are saved as codes, with an fp32 scale for each block.
QUANTIZATION_BLOCK = 256
MOMENT_BYTES_ON_DISK = MOMENT_BYTES | {"8bit": 2 + 2 * 4 / QUANTIZATION_BLOCK}
# Logits in fp32, which become their gradient in place, and the copy in bf16 before or after.
BYTES_PER_LOGIT = 6
# Assumption: the router does not balance experts perfectly, and the busiest GPU gets this many times the
# mean.
EXPERT_IMBALANCE = 1.25


def moment_bytes_on_disk(states: States, architecture: Architecture) -> float:
    """Bytes per parameter of the moments in a checkpoint.

    8-bit moments are saved as fp32 where the rows of matrices are not whole quantization blocks, which
    would depend on the number of shards.
    """
    widths = [architecture.hidden_size, architecture.intermediate_size]
    widths += [architecture.experts.intermediate_size] if architecture.experts else []
    is_decoded = states == "8bit" and any(width % QUANTIZATION_BLOCK for width in widths)
    return MOMENT_BYTES["fp32"] if is_decoded else MOMENT_BYTES_ON_DISK[states]


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
        recompute_every: With ``activation_checkpointing``: one of so many layers is recomputed, beginning
            with the first; the others keep what they save.
        defer_gradient_reduction: Between micro-batches, the gradients are unsharded and in fp32.
    """

    architecture: Architecture
    layout: Layout
    seq_len: int
    activation_checkpointing: bool
    logits_budget_mib: int
    dtype_bytes: int
    recompute_every: int = 1
    defer_gradient_reduction: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch of a GPU."""
        return self.seq_len * self.layout.micro_batch_size

    @cached_property
    def shards(self) -> Shards:
        """Parameters of the model by the GPU that holds them."""
        return Shards(self.architecture, self.layout)

    @property
    def params(self) -> float:
        """Number of parameters whose states one GPU holds."""
        return self.shards.params

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
        # The final norm's two intermediates (one of them fp32) and its output; the positions with labels in
        # the compute dtype, and their gradient.
        rows = 4 + 2 * self._stream_bytes + 2 * self.dtype_bytes
        norm = self.tokens * self.architecture.hidden_size * rows
        return self._parts(self._saved_activations + norm, self._logits, self._unsharded_at_loss)

    def at_layer(self) -> MemoryParts:
        """Memory in the backward pass of the largest layer, while the next layer's weights are prefetched."""
        # The backward pass begins at the last layer: if that one keeps what it saves, so many are never
        # held at once again.
        recomputes_last = (self.architecture.num_layers - 1) % self.recompute_every == 0
        recomputes = self.activation_checkpointing and recomputes_last
        recomputed = max(map(self._layer_activations, self.shards.layers)) if recomputes else 0.0
        work = recomputed + max(map(self._layer_temporaries, self.shards.layers))
        # On CPU, sdpa needs an explicit mask for a packed sequence: a boolean one (1 byte) and a float one
        # (4).
        mask = 5 * self.tokens * self.seq_len if self.dtype_bytes == 4 else 0
        activations = self._saved_activations + self.tokens * work + mask
        return self._parts(activations, 0.0, self._unsharded_at_layer)

    def _parts(self, activations: float, logits: float, gathered: float) -> MemoryParts:
        states = (0.0, 0.0, 0.0) if self.layout.cpu_offload else self.state_gib
        gathered += self._deferred_gradients
        return MemoryParts(*states, activations / GIB, logits / GIB, gathered / GIB)

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
        model = self.architecture
        whole = self.tokens * sum(
            num * self._layer_activations(kind) for kind, num in self.shards.layers.items()
        )
        if not self.activation_checkpointing:
            return whole
        recomputed = math.ceil(model.num_layers / self.recompute_every)
        inputs = recomputed * self.tokens * model.hidden_size * self._stream_bytes
        return (
            inputs
            + self._kept_rows * recomputed / model.num_layers
            + whole * (1 - recomputed / model.num_layers)
        )

    @property
    def _kept_rows(self) -> float:
        """Bytes of the tokens that came to experts and that all layers keep."""
        if not self.layout.keep_routed_rows:
            return 0.0
        model = self.architecture
        rows = self.tokens * self.shards.nodes_per_token
        return model.num_expert_layers * rows * model.hidden_size * self.dtype_bytes

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
            # Queries and the output twice; keys and values, which sdpa on CPU expands to all heads.
            kv_heads = model.num_heads if width == 4 else model.num_kv_heads
            saved += width * (3 * model.num_heads + 2 * kv_heads) * model.head_dim / tp
        if not (with_experts and model.experts):
            return saved + 4 * width * model.intermediate_size / tp
        saved += 4 * model.hidden_size + 4 * width * model.shared_expert_size / tp
        expert_rows = 2 * model.hidden_size + 4 * model.experts.intermediate_size
        return saved + width * self._expert_rows * expert_rows

    def _layer_temporaries(self, with_experts: bool) -> float:
        """Bytes per token of gradients and copies while one layer runs backward."""
        model = self.architecture
        if with_experts:
            # What a node's experts make of a token is summed in fp32.
            sums = 4 * self.shards.nodes_per_token
            return (self.dtype_bytes * 3 * self._expert_rows + sums) * model.hidden_size
        return self.dtype_bytes * 2 * (model.intermediate_size / self.layout.tp_size + model.hidden_size)

    @property
    def _expert_rows(self) -> float:
        """Routed-expert rows per token, on the busiest GPU."""
        experts = self.architecture.experts
        return EXPERT_IMBALANCE * experts.per_token / self.layout.tp_size if experts else 0.0

    @property
    def _unsharded_at_loss(self) -> float:
        """Bytes of the unsharded output layer: its weights, and its gradient until it is reduce-scattered."""
        model = self.architecture
        width = self.dtype_bytes
        # The fp32 sum of the weight's gradient and, in bf16, the product of one chunk before it is added.
        gradient = GRADIENT_BYTES + (width if width == 2 else 0)
        if not self._is_unsharded:
            # FSDP keeps the buffer of the last all-gather, beside the weights that were copied out of it.
            accumulation = 2 * width + gradient
            reduction = 2 * width + self._reduced_bytes
            return model.embedding_params * max(accumulation, reduction)
        # The loss makes its own bf16 copy of the output layer. Before it, with no logits yet, autocast has
        # cached copies of all other weights but the embedding.
        copy = width if width == 2 else 0
        outside_layers = (1 if model.tied else 2) * model.embedding_params
        cached = copy * (self.params - outside_layers) - self._logits
        return max(model.embedding_params * (copy + gradient), cached)

    @property
    def _unsharded_at_layer(self) -> float:
        """Bytes of one layer's weights, the prefetched layer's weights, the gradients and their reduction."""
        model = self.architecture
        width = self.dtype_bytes
        layer = max(map(self.shards.unsharded_layer_params, self.shards.layers))
        if self._is_unsharded:
            mlp_gradient = model.hidden_size * model.intermediate_size * GRADIENT_BYTES
            tied = model.tied * model.embedding_params * GRADIENT_BYTES
            return (layer * 2 * width if width == 2 else mlp_gradient) + tied
        # Experts with a mesh of their own are a unit of their own. Where they are sharded, those of the layer
        # before are gathered ahead (``experts.prefetch_experts``).
        experts = self.shards.unsharded_expert_params
        shards_experts = 1 < self.layout.ep_size < self.layout.fsdp_size * self.layout.tp_size
        prefetched = experts * width if shards_experts else 0.0
        # The buffer of gradients that are reduced is freed when the next unit is reduced: the last layer,
        # which runs backward first, has that of the output layer beside it. Its activations are the most
        # while the experts' gradients are only those of their down projections, a third.
        running = layer * 2 * width + experts * 4 / 3 * width + model.embedding_params * self._reduced_bytes
        reducing = layer * 3 * width + max(
            layer * self._reduced_bytes, experts * (width + self._reduced_bytes)
        )
        # When the gradients of experts are reduced, their activations are gone, which are more than what is
        # gathered ahead.
        return max(running + prefetched, reducing) + model.tied * model.embedding_params * 2 * width

    @property
    def _reduced_bytes(self) -> float:
        """Bytes per unsharded parameter for the reduction of gradients, over shards and over replicas."""
        if self.defer_gradient_reduction:
            return 0.0
        shard = GRADIENT_BYTES / self.layout.fsdp_size if self.layout.dp_replicate_size > 1 else 0.0
        return GRADIENT_BYTES + shard

    @property
    def _deferred_gradients(self) -> float:
        """Bytes that unsharded fp32 gradients take more than shards, until the last micro-batch."""
        if not self.defer_gradient_reduction or self._is_unsharded:
            return 0.0
        layers = sum(
            num * self.shards.unsharded_layer_params(kind) for kind, num in self.shards.layers.items()
        )
        return GRADIENT_BYTES * (self.shards.outside_layers + layers - self.params)
