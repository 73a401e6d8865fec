"""What a GPU sends in one optimizer step, by collective and link, and how long the links take for it.

A weight is all-gathered in the compute dtype for the forward pass and, as it is freed in between, again for
the backward pass; its gradient is reduce-scattered in fp32 after every micro-batch, or once a step where that
is deferred. The final norm and the output layer are not freed and so gathered once. Routed tokens travel to
their experts and back, and so do their gradients: four trips, and more where the forward pass is repeated.
Where the experts of a layer are on several nodes, a token goes to each node once (``safe_r1.train.experts``).

Source: transformers' plans for FSDP2 and expert parallelism; ``tests/scale`` counts the collectives of the
    project's own training step on a fake process group.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from safe_r1.models.gpus import Gpu
from safe_r1.models.registry import Layout
from safe_r1.train.architecture import Architecture
from safe_r1.train.memory import GRADIENT_BYTES
from safe_r1.train.shards import layer_params_per_rank, nodes_per_token

Collective = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all"]
Link = Literal["intra_node", "inter_node"]

# Share of a link's peak that collectives of hundreds of MiB reach. Source: bus bandwidths that nccl-tests
# print on nodes of eight GPUs (NVLink), and DeepEP's table for dispatch between nodes (44 of 50 GB/s).
LINK_SHARE = 0.75
NETWORK_SHARE = 0.80


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
    """All calls of a collective in an optimizer step that serve one purpose in one group.

    Attributes:
        collective: The operation.
        purpose: What is sent: ``weights``, ``gradients``, ``expert weights``, ``expert gradients``,
            ``tensor parallel`` or ``tokens``.
        group: The ranks that take part.
        payload: Bytes of all calls together, as ``bytes_by_link`` takes them.
        num_calls: Number of calls.
    """

    collective: Collective
    purpose: str
    group: Group
    payload: float
    num_calls: int

    @property
    def sent(self) -> dict[Link, float]:
        """Bytes that a rank sends over each link, on average over the ranks."""
        return bytes_by_link(self.collective, self.payload, self.group)

    def seconds(self, gpu: Gpu) -> float:
        """Time of all calls, one after the other; the slower link decides.

        Every GPU of a node has a network adapter of its own, and a ring through it.
        """
        links = (gpu.link_gb_s * LINK_SHARE, gpu.network_gb_s * NETWORK_SHARE)
        return max(self.sent["intra_node"] / links[0], self.sent["inter_node"] / links[1]) / 1e9


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


@dataclass(frozen=True)
class ExpertExchange:
    """How tokens travel to their experts and back.

    Attributes:
        node_copies: Nodes to which a token is sent once each, its own among them; 0: a row goes straight to
            each GPU.
        gpu_copies: GPUs to which a token is sent, or to which its nodes pass it on; a GPU counts once for
            each of its experts that the token chose, unless the dispatch sends one row for all of them.
        resends: The recomputation of a layer sends the rows between nodes again; False: they were kept.
        syncs: Times that the host waits for the GPU in one dispatch, to learn the numbers of rows.
    """

    node_copies: float
    gpu_copies: float
    resends: bool = True
    syncs: int = 2


def expert_exchange(model: Architecture, layout: Layout, per_node: int) -> ExpertExchange | None:
    """How this project's training sends tokens to their experts; None where every GPU has all of them."""
    if model.experts is None or layout.ep_size == 1:
        return None
    node_copies = nodes_per_token(model, layout, per_node)
    syncs = 1 if node_copies else 2
    return ExpertExchange(node_copies, model.experts.per_token, not layout.keep_routed_rows, syncs)


@dataclass(frozen=True)
class Communication:
    """What a GPU sends in one optimizer step; nothing on a single GPU.

    Collectives of a few bytes (counts of tokens, the loss, the gradient norm) are left out.

    Attributes:
        architecture: Dimensions of the model.
        layout: Sharding and micro-batch size.
        gpu: The GPU type, with its links and its number per node.
        seq_len: Tokens of a packed sequence.
        micro_batches: Micro-batches of a worker in a step.
        recomputed: Share of the layers whose forward pass the backward pass repeats.
        exchange: How tokens travel to their experts; None: there is no expert parallelism.
        defer_gradient_reduction: Gradients are reduced with the last micro-batch only.
        dtype_bytes: Of the compute dtype: 2 for bf16, 4 for fp32.
        gradient_bytes: Bytes of a gradient that is reduced.
        is_fsdp2: Whole experts are sharded, so that their number is rounded up; False: even shards.
    """

    architecture: Architecture
    layout: Layout
    gpu: Gpu
    seq_len: int
    micro_batches: int
    recomputed: float
    exchange: ExpertExchange | None
    defer_gradient_reduction: bool = False
    dtype_bytes: int = 2
    gradient_bytes: int = GRADIENT_BYTES
    is_fsdp2: bool = True

    @cached_property
    def transfers(self) -> list[Transfer]:
        """All collectives of a step."""
        return list(self._transfers())

    def sent(self, link: Link, *purposes: str) -> float:
        """Bytes that a rank sends over a link for some purposes, or for all."""
        return sum(each.sent[link] for each in self._with(purposes))

    def seconds(self, *purposes: str) -> float:
        """Time that the links take for some purposes, or for all, one after the other."""
        return sum(each.seconds(self.gpu) for each in self._with(purposes))

    def _with(self, purposes: tuple[str, ...]) -> list[Transfer]:
        return [each for each in self.transfers if not purposes or each.purpose in purposes]

    @property
    def num_reductions(self) -> int:
        """Micro-batches after which gradients are reduced."""
        return 1 if self.defer_gradient_reduction else self.micro_batches

    def _transfers(self) -> Iterator[Transfer]:
        layout = self.layout
        model = self.architecture
        if layout.dp_size > 1:
            yield from self._sharded("", self._group(layout.fsdp_size, layout.tp_size), *self._dense_units())
            if model.experts and layout.ep_size > 1:
                shards = layout.fsdp_size * layout.tp_size // layout.ep_size
                params = (
                    self._sharded_experts(model.experts.num / layout.ep_size, shards) * model.expert_params
                )
                units = [params] * model.num_expert_layers
                yield from self._sharded("expert ", self._group(shards, layout.ep_size), units, [])
        if layout.tp_size > 1:
            yield from self._tensor_parallel()
        if self.exchange:
            yield from self._tokens(self.exchange)

    def _group(self, size: int, stride: int) -> Group:
        return group_of(size, stride, self.gpu.per_node)

    def _sharded_experts(self, num: float, shards: int) -> float:
        """Experts of a layer that are gathered, with those that fill up the last shard."""
        return float(math.ceil(num / shards) * shards) if self.is_fsdp2 else num

    def _dense_units(self) -> tuple[list[float], list[float]]:
        """Parameters of the units that FSDP gathers twice and of those that it gathers once."""
        model = self.architecture
        # Tensor parallelism splits the embedding by vocabulary, unless the output layer shares it.
        twice: list[float] = [] if model.tied else [model.embedding_params / self.layout.tp_size]
        with_experts = model.num_expert_layers
        for kind, number in {False: model.num_layers - with_experts, True: with_experts}.items():
            params = layer_params_per_rank(model, self.layout, kind)
            if kind and model.experts and self.layout.ep_size == 1:
                experts = self._sharded_experts(model.experts.num, self.layout.fsdp_size)
                params += experts * model.expert_params / self.layout.tp_size
            twice += [params] * number
        return twice, [float(model.embedding_params + model.hidden_size)]

    def _sharded(self, name: str, group: Group, twice: list[float], once: list[float]) -> Iterator[Transfer]:
        """FSDP's collectives for units of parameters that are gathered twice or once in a micro-batch."""
        params = sum(twice) + sum(once)
        units = len(twice) + len(once)
        gathered = self.micro_batches * self.dtype_bytes * (2 * sum(twice) + sum(once))
        gathers = self.micro_batches * (units + len(twice))
        yield Transfer("all_gather", f"{name}weights", group, gathered, gathers)
        reduced = self.num_reductions * self.gradient_bytes * params
        reductions = self.num_reductions * units
        yield Transfer("reduce_scatter", f"{name}gradients", group, reduced, reductions)
        replicas = self.layout.dp_replicate_size
        if replicas > 1:
            across = self._group(replicas, self.layout.fsdp_size * self.layout.tp_size)
            yield Transfer("all_reduce", f"{name}gradients", across, reduced / group.size, reductions)

    @property
    def _row_bytes(self) -> float:
        """Bytes of one row for each token of a step; the GPUs of a tensor-parallel group share the tokens."""
        tokens = self.micro_batches * self.seq_len * self.layout.micro_batch_size / self.layout.tp_size
        return tokens * self.architecture.hidden_size * self.dtype_bytes

    def _tensor_parallel(self) -> Iterator[Transfer]:
        """All-reduces of the hidden states: outputs in the forward pass, input gradients in the backward."""
        model = self.architecture
        # Outputs: of attention (not of latent attention, which is replicated), of the MLP, of the embedding.
        # Gradients: of the inputs of query, key, value, gate and up projection, each on its own.
        # Recomputation ends before the reduction of the MLP's output, which nothing saves.
        attention = 0 if model.latent else 1
        per_layer = attention + 1 + 3 * attention + 2 + self.recomputed * attention
        reductions = model.num_layers * per_layer + (0 if model.tied else 1)
        payload = self.layout.tp_size * self._row_bytes * reductions
        calls = round(self.micro_batches * reductions)
        yield Transfer("all_reduce", "tensor parallel", self._group(self.layout.tp_size, 1), payload, calls)

    def _tokens(self, exchange: ExpertExchange) -> Iterator[Transfer]:
        """Dispatch of tokens to their experts and return of the results, and the same for their gradients."""
        layers = self.architecture.num_expert_layers
        per_node = self.gpu.per_node
        by_node = exchange.node_copies > 0
        ranks = per_node if by_node else self.layout.ep_size
        trips = layers * (4 + 2 * self.recomputed)
        payload = exchange.gpu_copies * self._row_bytes * trips
        calls = round(self.micro_batches * trips)
        yield Transfer("all_to_all", "tokens", self._group(ranks, 1), payload, calls)
        if by_node:
            # Results do not return between nodes when a layer is recomputed; tokens are sent again, or were
            # kept.
            trips = layers * (4 + self.recomputed * exchange.resends)
            payload = exchange.node_copies * self._row_bytes * trips
            nodes = self._group(self.layout.ep_size // per_node, per_node)
            yield Transfer("all_to_all", "tokens", nodes, payload, round(self.micro_batches * trips))
