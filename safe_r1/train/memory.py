"""What one GPU holds at the two moments when it holds most: at the loss, and in the backward pass of the
largest layer.

Weights are fp32 and sharded (FSDP2). A layer's are gathered in the type of the computation just before it
runs; its gradients leave in that type and are summed in fp32. The backward pass computes every layer again
from its input.

Source: what transformers' layers save and what FSDP2 allocates, counted with torch's memory trackers; the
    test of this module
counts again.
"""

import math
from dataclasses import astuple, dataclass

from safe_r1.models.registry import Layout
from safe_r1.train.architecture import Architecture

GIB = 2**30

# Bytes a parameter.
WEIGHT = 4
GRADIENT = 4
MOMENTS = {"fp32": 8, "bf16": 4, "8bit": 2}
# Moments in 8 bits are kept as fp32, so that any number of workers can take them up.
MOMENTS_ON_DISK = MOMENTS | {"8bit": 8}
# fp32 log-softmax, and the gradients before and after it; the logits themselves are gone by then.
BYTES_PER_LOGIT = 12
# Experts are not asked for equally often: the busiest GPU gets so many times its share of the tokens. An
# assumption.
EXPERT_IMBALANCE = 1.25


@dataclass(frozen=True)
class MemoryParts:
    """Memory of one GPU at one moment, in GiB.

    Attributes:
        weights: Its share of the fp32 weights.
        gradients: Its share of the fp32 gradients.
        optimizer: Its share of the two moments.
        activations: The inputs of all layers, and what the layer at work saves and makes.
        logits: Those of one piece of the loss, with their gradients.
        gathered: What is there whole for a moment: gathered weights, and gradients not yet shared out.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    gathered: float

    @property
    def states(self) -> float:
        """What stays from step to step."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        """All parts."""
        return sum(astuple(self))


@dataclass(frozen=True)
class MemoryModel:
    """The memory of one GPU of a layout; with ``dtype_bytes=4`` as well that of a CPU worker.

    Attributes:
        dtype_bytes: Of the computation: 2 for bf16, 4 for fp32.
        logits_budget_mib: What the logits of one piece of the loss may take.
    """

    architecture: Architecture
    layout: Layout
    seq_len: int
    activation_checkpointing: bool
    logits_budget_mib: int
    dtype_bytes: int

    @property
    def tokens(self) -> int:
        """Tokens that a GPU computes at once."""
        return self.seq_len * self.layout.micro_batch_size

    @property
    def params(self) -> float:
        """Parameters whose states a GPU keeps."""
        model, layout = self.architecture, self.layout
        outside = model.dense_params - sum(
            num * model.layer_params(kind) for kind, num in self._layers.items()
        )
        dense = outside + sum(num * self._layer_params(kind) for kind, num in self._layers.items())
        if model.experts is None:
            return dense / layout.fsdp_size
        # An expert goes to one GPU whole, unless tensor parallelism alone cuts it.
        shards, cut = (
            (layout.fsdp_size, layout.tp_size)
            if layout.ep_size == 1
            else (layout.fsdp_size * layout.tp_size, 1)
        )
        experts = model.num_expert_layers * math.ceil(model.experts.num / shards) * model.expert_params / cut
        return dense / layout.fsdp_size + experts

    @property
    def state_gib(self) -> tuple[float, float, float]:
        """A GPU's share of weights, gradients and moments, wherever they are kept."""
        weights, gradients, moments = (
            self.params * size / GIB for size in (WEIGHT, GRADIENT, MOMENTS[self.layout.states])
        )
        return weights, gradients, moments

    def at_loss(self) -> MemoryParts:
        """With the logits of a piece there; no layer is at work."""
        # The last norm's two steps and its output, and the gradient of that.
        around = self.tokens * self.architecture.hidden_size * (4 + 3 * self._stream_bytes)
        return self._parts(self._kept + around, self._logits, self._whole_at_loss)

    def at_layer(self) -> MemoryParts:
        """In the backward pass of the largest layer, with the next one's weights under way."""
        again = max(map(self._saves, self._layers)) if self.activation_checkpointing else 0.0
        work = again + max(map(self._makes, self._layers))
        # On CPU, a packed sequence needs a mask: as booleans and as numbers.
        mask = 5 * self.tokens * self.seq_len if self.dtype_bytes == 4 else 0
        return self._parts(self._kept + self.tokens * work + mask, 0.0, self._whole_at_layer)

    def _parts(self, activations: float, logits: float, gathered: float) -> MemoryParts:
        states = (0.0, 0.0, 0.0) if self.layout.cpu_offload else self.state_gib
        return MemoryParts(*states, activations / GIB, logits / GIB, gathered / GIB)

    @property
    def _layers(self) -> dict[bool, int]:
        """Number of layers without and with experts."""
        with_experts = self.architecture.num_expert_layers
        numbers = {False: self.architecture.num_layers - with_experts, True: with_experts}
        return {kind: num for kind, num in numbers.items() if num}

    @property
    def _alone(self) -> bool:
        """One worker has no FSDP: nothing is gathered, and bf16 comes from autocast, whose residual stream is
        fp32.
        """
        return self.layout.dp_size == 1

    @property
    def _stream_bytes(self) -> int:
        return 4 if self._alone else self.dtype_bytes

    @property
    def _logits(self) -> float:
        return min(self.logits_budget_mib * 2.0**20, self._all_logits)

    @property
    def _all_logits(self) -> float:
        return float(BYTES_PER_LOGIT * self.tokens * self.architecture.vocab_size)

    @property
    def _kept(self) -> float:
        """Bytes that the layers keep for the backward pass: their inputs, or all that they save."""
        if self.activation_checkpointing:
            return (
                self.architecture.num_layers
                * self.tokens
                * self.architecture.hidden_size
                * self._stream_bytes
            )
        return self.tokens * sum(num * self._saves(kind) for kind, num in self._layers.items())

    def _saves(self, with_experts: bool) -> float:
        """Bytes a token that one layer saves for its backward pass."""
        model, width, tp = self.architecture, self.dtype_bytes, self.layout.tp_size
        norm = 4 + 2 * self._stream_bytes
        saved = 2.0 * norm * model.hidden_size
        if latent := model.latent:
            # Queries, keys, keys and values before their split, and the output twice; the two latents have
            # norms.
            heads = 2 * latent.qk_head_dim + latent.qk_nope_head_dim + 3 * latent.v_head_dim
            saved += width * model.num_heads * heads + norm * (
                (latent.q_lora_rank or 0) + latent.kv_lora_rank
            )
        else:
            # Queries, keys and values of every head, and the output twice.
            saved += 5 * width * model.num_heads * model.head_dim / tp
        if not (with_experts and model.experts):
            return saved + 4 * width * model.intermediate_size / tp
        saved += 4 * model.hidden_size + 4 * width * model.shared_expert_size / tp
        return saved + width * self._expert_rows * (
            2 * model.hidden_size + 4 * model.experts.intermediate_size
        )

    def _makes(self, with_experts: bool) -> float:
        """Bytes a token of gradients and copies while one layer runs backward."""
        model = self.architecture
        if with_experts:
            return self.dtype_bytes * 3 * self._expert_rows * model.hidden_size
        return self.dtype_bytes * 2 * (model.intermediate_size / self.layout.tp_size + model.hidden_size)

    @property
    def _expert_rows(self) -> float:
        """Times that one token goes through a routed expert, on the busiest GPU."""
        experts = self.architecture.experts
        return EXPERT_IMBALANCE * experts.per_token / self.layout.tp_size if experts else 0.0

    def _layer_params(self, with_experts: bool) -> float:
        """Of one layer without routed experts, after tensor parallelism; it leaves latent attention whole."""
        model = self.architecture
        cut = model.mlp_params(model.shared_expert_size if with_experts else model.intermediate_size)
        cut += 0 if model.latent else model.attention_params
        return model.layer_params(with_experts) - cut + cut / self.layout.tp_size

    @property
    def _whole_at_loss(self) -> float:
        """Bytes of the output layer: its weights, its gradient (thrice while pieces add up), and the sum over
        the workers.
        """
        model, width = self.architecture, self.dtype_bytes
        gradients = 3 if self._all_logits > self._logits else 1
        if not self._alone:
            return model.embedding_params * max((1 + gradients) * width, 2 * width + GRADIENT)
        # Autocast has copies of all weights but the embedding.
        copies = width * (self.params - model.embedding_params) if width == 2 else 0.0
        return max(model.embedding_params * gradients * GRADIENT, copies)

    @property
    def _whole_at_layer(self) -> float:
        """Bytes of one layer: its weights, the next one's, its gradients, and their sum over the workers."""
        model, width = self.architecture, self.dtype_bytes
        layer = max(map(self._whole_layer, self._layers))
        tied = model.tied * model.embedding_params
        if not self._alone:
            return layer * (3 * width + GRADIENT) + tied * 2 * width
        return (
            layer * 2 * width if width == 2 else model.hidden_size * model.intermediate_size * GRADIENT
        ) + tied * GRADIENT

    def _whole_layer(self, with_experts: bool) -> float:
        params, layout = self._layer_params(with_experts), self.layout
        if not (with_experts and self.architecture.experts):
            return params
        cut = layout.tp_size if layout.ep_size == 1 else layout.ep_size
        return params + self.architecture.experts.num * self.architecture.expert_params / cut
