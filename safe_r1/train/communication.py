"""Bytes that a GPU sends in one optimizer step, by collective and by link.

A weight is all-gathered in the compute dtype for the forward pass and, as it is freed in between, again for
the backward pass; its gradient is reduce-scattered in fp32 after every micro-batch. The final norm and the
output layer are not freed and so gathered once. Routed tokens travel to their experts and back, and so do
their gradients: four trips, and more where the forward pass is repeated. Where the experts of a layer are on
several nodes, a token goes to each node once (``safe_r1.train.experts``).

Source: transformers' plans for FSDP2 and expert parallelism; ``tests/scale`` counts the collectives of the
    project's own training step on a fake process group.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from safe_r1.models.gpus import Gpu
from safe_r1.models.registry import Layout
from safe_r1.train.architecture import Architecture
from safe_r1.train.memory import GRADIENT_BYTES, layer_params_per_rank, nodes_per_token

Collective = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all"]
Link = Literal["intra_node", "inter_node"]


@dataclass(frozen=True)
class Group:
    """The ranks that take part in a collective.

    Attributes:
        size: Number of ranks.
        per_node: How many of them are on one node.
    """

    size: int
    per_node: int


@dataclass(frozen=True)
class Transfer:
    """What one GPU sends in an optimizer step by one kind of collective over one link.

    Attributes:
        collective: The operation.
        purpose: What is sent: ``weights``, ``gradients``, ``expert weights``, ``expert gradients``,
            ``tensor parallel`` or ``tokens``.
        link: Inside a node (NVLink) or between nodes (the network).
        bytes_per_rank: Bytes that a rank sends, on average over the ranks.
        num_calls: Collectives of a step in which they are sent.
    """

    collective: Collective
    purpose: str
    link: Link
    bytes_per_rank: float
    num_calls: int


@dataclass(frozen=True)
class _Call:
    """A collective that is repeated ``num_calls`` times; the payload is that of all calls together."""

    collective: Collective
    purpose: str
    group: Group
    payload: float
    num_calls: int


def bytes_by_link(collective: Collective, payload: float, group: Group) -> dict[Link, float]:
    """Bytes that a rank of the group sends over each link, on average over its ranks.

    All-gather and reduce-scatter are rings (NCCL's algorithm for large messages), in which every rank sends
    all shards but one to its neighbour, and one neighbour in ``per_node`` is on another node. An all-reduce
    is both of them. In an all-to-all every rank sends to every other one directly.

    Args:
        collective: The operation.
        payload: Bytes of the gathered output, of the input that is reduced, or of the rows of all peers that
            a rank sends (its own included).
        group: The ranks that take part.
    """
    between = 0.0
    total = payload * (group.size - 1) / group.size
    if collective == "all_to_all":
        between = payload * (group.size - group.per_node) / group.size
    elif group.size > group.per_node:
        between = total / group.per_node
    twice = 2 if collective == "all_reduce" else 1
    return {"intra_node": twice * (total - between), "inter_node": twice * between}


def group_of(size: int, stride: int, gpus_per_node: int) -> Group:
    """The group of every ``stride``-th rank; nodes hold adjacent ranks."""
    return Group(size, min(size, max(1, gpus_per_node // stride)))


def communication(
    architecture: Architecture,
    layout: Layout,
    gpu: Gpu,
    seq_len: int,
    grad_accum_steps: int,
    activation_checkpointing: bool,
    dtype_bytes: int,
) -> list[Transfer]:
    """What a GPU sends in one optimizer step; nothing on a single GPU.

    Collectives of a few bytes (counts of tokens, the loss, the gradient norm) are left out.

    Args:
        architecture: Dimensions of the model.
        layout: Sharding and micro-batch size.
        gpu: The GPU type, with its number per node.
        seq_len: Tokens of a packed sequence.
        grad_accum_steps: Micro-batches of a worker in a step.
        activation_checkpointing: Each layer is recomputed in the backward pass.
        dtype_bytes: Of the compute dtype: 2 for bf16, 4 for fp32.
    """
    model = _StepModel(architecture, layout, gpu, seq_len, activation_checkpointing, dtype_bytes)
    transfers: list[Transfer] = []
    for call in model.calls():
        for link, size in bytes_by_link(call.collective, call.payload, call.group).items():
            if size:
                calls = call.num_calls * grad_accum_steps
                transfers.append(
                    Transfer(call.collective, call.purpose, link, size * grad_accum_steps, calls)
                )
    return transfers


def total_bytes(transfers: list[Transfer], link: Link, purpose: str | None = None) -> float:
    """Bytes that a rank sends over a link, for one purpose or for all."""
    return sum(
        transfer.bytes_per_rank
        for transfer in transfers
        if transfer.link == link and purpose in (None, transfer.purpose)
    )


@dataclass(frozen=True)
class _StepModel:
    """Collectives of one micro-batch; the attributes are those of ``communication``."""

    architecture: Architecture
    layout: Layout
    gpu: Gpu
    seq_len: int
    activation_checkpointing: bool
    dtype_bytes: int

    def calls(self) -> Iterator[_Call]:
        """All collectives of one micro-batch."""
        layout = self.layout
        model = self.architecture
        if layout.dp_size > 1:
            yield from self._sharded("", self._group(layout.fsdp_size, layout.tp_size), *self._dense_units())
            if model.experts and layout.ep_size > 1:
                shards = layout.fsdp_size * layout.tp_size // layout.ep_size
                experts = math.ceil(model.experts.num / layout.ep_size / shards) * shards
                units = [float(experts * model.expert_params)] * model.num_expert_layers
                yield from self._sharded("expert ", self._group(shards, layout.ep_size), units, [])
        if layout.tp_size > 1:
            yield from self._tensor_parallel()
        if model.experts and layout.ep_size > 1:
            yield from self._tokens()

    def _group(self, size: int, stride: int) -> Group:
        return group_of(size, stride, self.gpu.per_node)

    def _dense_units(self) -> tuple[list[float], list[float]]:
        """Parameters of the units that FSDP gathers twice and of those that it gathers once."""
        model = self.architecture
        # Tensor parallelism splits the embedding by vocabulary, unless the output layer shares it.
        twice: list[float] = [] if model.tied else [model.embedding_params / self.layout.tp_size]
        for with_experts, number in self._layers.items():
            params = layer_params_per_rank(model, self.layout, with_experts)
            if with_experts and model.experts and self.layout.ep_size == 1:
                # Whole experts are assigned to a shard, so that their number is rounded up.
                shards = self.layout.fsdp_size
                params += math.ceil(model.experts.num / shards) * shards * model.expert_params
            twice += [params] * number
        return twice, [float(model.embedding_params + model.hidden_size)]

    @property
    def _layers(self) -> dict[bool, int]:
        with_experts = self.architecture.num_expert_layers
        return {False: self.architecture.num_layers - with_experts, True: with_experts}

    def _sharded(self, name: str, group: Group, twice: list[float], once: list[float]) -> Iterator[_Call]:
        """FSDP's collectives for units of parameters that are gathered twice or once in a micro-batch."""
        params = sum(twice) + sum(once)
        units = len(twice) + len(once)
        gathered = self.dtype_bytes * (2 * sum(twice) + sum(once))
        yield _Call("all_gather", f"{name}weights", group, gathered, units + len(twice))
        yield _Call("reduce_scatter", f"{name}gradients", group, GRADIENT_BYTES * params, units)
        replicas = self.layout.dp_replicate_size
        if replicas > 1:
            across = self._group(replicas, self.layout.fsdp_size * self.layout.tp_size)
            yield _Call("all_reduce", f"{name}gradients", across, GRADIENT_BYTES * params / group.size, units)

    @property
    def _tokens_per_rank(self) -> float:
        """Tokens of a micro-batch that a rank sends to experts."""
        return self.seq_len * self.layout.micro_batch_size / self.layout.tp_size

    def _tensor_parallel(self) -> Iterator[_Call]:
        """All-reduces of the hidden states: outputs in the forward pass, input gradients in the backward."""
        model = self.architecture
        size = self.layout.tp_size * self._tokens_per_rank * model.hidden_size * self.dtype_bytes
        # Outputs: of attention (not of latent attention, which is replicated), of the MLP, of the embedding.
        # Gradients: of the inputs of query, key, value, gate and up projection, each on its own.
        # Recomputation ends before the reduction of the MLP's output, which nothing saves.
        attention = 0 if model.latent else 1
        per_layer = attention + 1 + 3 * attention + 2
        if self.activation_checkpointing:
            per_layer += attention
        calls = model.num_layers * per_layer + (0 if model.tied else 1)
        yield _Call("all_reduce", "tensor parallel", self._group(self.layout.tp_size, 1), size * calls, calls)

    def _tokens(self) -> Iterator[_Call]:
        """Dispatch of tokens to their experts and return of the results, and the same for their gradients."""
        model = self.architecture
        layout = self.layout
        experts = model.experts
        assert experts
        row = self._tokens_per_rank * model.hidden_size * self.dtype_bytes
        layers = model.num_expert_layers
        pairs = (6 if self.activation_checkpointing else 4) * layers
        per_node = self.gpu.per_node
        node_copies = nodes_per_token(model, layout, per_node)
        if not node_copies:
            everyone = self._group(layout.ep_size, 1)
            yield _Call("all_to_all", "tokens", everyone, experts.per_token * row * pairs, pairs)
            return
        inside = self._group(per_node, 1)
        yield _Call("all_to_all", "tokens", inside, experts.per_token * row * pairs, pairs)
        # The results are not returned when a layer is recomputed; tokens are sent again or were kept.
        resent = self.activation_checkpointing and not layout.keep_routed_rows
        trips = (5 if resent else 4) * layers
        nodes = layout.ep_size // per_node
        rows = node_copies * row * trips
        yield _Call("all_to_all", "tokens", self._group(nodes, per_node), rows, trips)
