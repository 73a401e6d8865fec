"""Bytes that a training step moves between GPUs, and how long the links take for them.

All figures are of one GPU. Times of collectives are those of rings, whose limit is the slower of NVLink and
of the network adapters of a group's GPUs in one node, since each of these GPUs carries a ring of its own.

Source: NCCL's documentation of bus bandwidth; what FSDP2 and transformers' parallel plans send.
"""

import math
from dataclasses import dataclass

from safe_r1.models.gpus import Gpu
from safe_r1.models.registry import Layout
from safe_r1.train.architecture import Architecture
from safe_r1.train.memory import EXPERT_IMBALANCE, GRADIENT_BYTES, layer_params_per_rank

# Share of a link's peak that collectives of hundreds of MiB reach. Source: bus bandwidths that nccl-tests
# print on nodes of eight GPUs (NVLink), and DeepEP's table for dispatch between nodes (44 of 50 GB/s).
LINK_SHARE = 0.75
NETWORK_SHARE = 0.80
# Collectives move bf16, which FSDP's mixed precision reduces in as well.
WIDTH = 2


@dataclass(frozen=True)
class ExpertExchange:
    """How tokens travel to their experts and back.

    Attributes:
        node_copies: Nodes to which a token is sent once each, its own among them; None: a row for every
            expert that it chose, as transformers' dispatch does.
        gpu_copies: GPUs to which a node passes a token on; None: a row for every chosen expert.
        resends: The recomputation of a layer sends its rows again; False: they were kept.
        imbalance: Rows of the busiest GPU as a multiple of the mean.
        syncs: Times that the host waits for the GPU in one dispatch, to learn the numbers of rows.
    """

    node_copies: float | None = None
    gpu_copies: float | None = None
    resends: bool = True
    imbalance: float = EXPERT_IMBALANCE
    syncs: int = 2


TRANSFORMERS_EXCHANGE = ExpertExchange()


@dataclass(frozen=True)
class Traffic:
    """What one GPU sends in one micro-batch.

    Attributes:
        architecture: Dimensions of the model.
        layout: GPUs and sharding.
        gpu: The GPU type, with its links.
        tokens: Tokens of a micro-batch.
        width: Bytes of an element that is gathered, reduced or exchanged.
        recomputed: Share of the layers' forward pass that the backward pass repeats.
        exchange: How tokens travel to their experts.
    """

    architecture: Architecture
    layout: Layout
    gpu: Gpu
    tokens: int
    width: int = WIDTH
    recomputed: float = 1.0
    exchange: ExpertExchange = TRANSFORMERS_EXCHANGE

    def ring_s(self, size: float, members: int, members_per_node: int) -> float:
        """Seconds of an all-gather or reduce-scatter.

        Args:
            size: Bytes of the whole tensor.
            members: GPUs of the group.
            members_per_node: Of these, GPUs of one node.
        """
        moved = size * (members - 1) / members
        link = self.gpu.link_gb_s * 1e9 * LINK_SHARE
        network = self.gpu.network_gb_s * 1e9 * NETWORK_SHARE * members_per_node
        return moved / (link if members <= members_per_node else min(link, network))

    @property
    def gather_s(self) -> float:
        """Seconds to all-gather all sharded weights once; a reduce-scatter of all gradients takes as long."""
        layout = self.layout
        dense = self.ring_s(
            self.width * self._dense_params, layout.fsdp_size, self._group_per_node(layout.tp_size)
        )
        if not self.architecture.experts:
            return dense
        # Without expert parallelism, experts are sharded like all other weights. With it, the GPUs that own
        # the same experts are one group.
        ep = layout.ep_size if layout.ep_size > 1 else layout.tp_size
        size = self.width * self.architecture.routed_params / ep
        return dense + self.ring_s(size, self.expert_shards, self._group_per_node(ep))

    @property
    def expert_shards(self) -> int:
        """GPUs over which the weights of the same experts are sharded."""
        layout = self.layout
        if layout.ep_size == 1:
            return layout.fsdp_size
        return layout.fsdp_size * layout.tp_size // layout.ep_size

    @property
    def replica_s(self) -> float:
        """Seconds to all-reduce the gradients' shards over the copies of the model."""
        layout = self.layout
        shard = self.architecture.total_params / (layout.fsdp_size * layout.tp_size)
        # FSDP accumulates in fp32, and an all-reduce is a reduce-scatter and an all-gather.
        size = 2 * GRADIENT_BYTES * shard
        per_node = self._group_per_node(layout.fsdp_size * layout.tp_size)
        return self.ring_s(size, layout.dp_replicate_size, per_node)

    @property
    def tensor_parallel_s(self) -> float:
        """Seconds of the all-reduces of tensor parallelism, which nothing hides."""
        tp = self.layout.tp_size
        # One after attention and one after the MLP; latent attention is replicated.
        per_layer = 1 if self.architecture.latent else 2
        number = self.architecture.num_layers * per_layer * (2 + self.recomputed)
        size = 2 * self.width * self.tokens * self.architecture.hidden_size
        return number * self.ring_s(size, tp, self.gpu.per_node)

    @property
    def num_exchanges(self) -> float:
        """Dispatches and combines of all layers: forward, backward, and in the recomputation."""
        if self.layout.ep_size == 1:
            return 0.0
        resent = self.recomputed if self.exchange.resends else 0.0
        return self.architecture.num_expert_layers * (4 + 2 * resent)

    @property
    def exchange_bytes(self) -> float:
        """Bytes of all rows that are exchanged, wherever they go."""
        experts = self.architecture.experts
        copies = self.exchange.node_copies or (experts.per_token if experts else 0)
        return self.num_exchanges * copies * self._row_bytes

    @property
    def exchange_bytes_between_nodes(self) -> float:
        """Of these, bytes that leave the node."""
        nodes = self._exchange_nodes
        return self.exchange_bytes * (nodes - 1) / nodes

    @property
    def exchange_s(self) -> float:
        """Seconds of the exchange, which waits for the router and for which the experts wait."""
        experts = self.architecture.experts
        if not experts:
            return 0.0
        copies = self.exchange.gpu_copies or experts.per_token
        inside = self.num_exchanges * copies * self._row_bytes * (1 - 1 / self.layout.ep_size)
        link = inside / (self.gpu.link_gb_s * 1e9 * LINK_SHARE)
        network = self.exchange_bytes_between_nodes / (self.gpu.network_gb_s * 1e9 * NETWORK_SHARE)
        return self.exchange.imbalance * max(link, network)

    @property
    def _row_bytes(self) -> float:
        """Bytes of one row of each token; the GPUs of a tensor-parallel group share the tokens."""
        return self.width * self.architecture.hidden_size * self.tokens / self.layout.tp_size

    @property
    def _exchange_nodes(self) -> int:
        return math.ceil(self.layout.ep_size / self.gpu.per_node)

    @property
    def _dense_params(self) -> float:
        """Parameters of one tensor-parallel rank that FSDP shards, without routed experts."""
        model = self.architecture
        num_experts = model.num_expert_layers
        layers = {False: model.num_layers - num_experts, True: num_experts}
        whole = sum(number * model.layer_params(kind) for kind, number in layers.items())
        split = sum(
            number * layer_params_per_rank(model, self.layout, kind)
            for kind, number in layers.items()
            if number
        )
        return model.dense_params - whole + split

    def _group_per_node(self, stride: int) -> int:
        """GPUs of one node in a group whose members are ``stride`` ranks apart."""
        return max(1, self.gpu.per_node // stride)
