"""Parameters of a model by the GPU that holds them: its shards, and what FSDP gathers for a layer."""

import math
from dataclasses import dataclass

from safe_r1.models.gpus import get_gpu
from safe_r1.models.registry import Layout
from safe_r1.train.architecture import Architecture
from safe_r1.train.parallel import spans_nodes


def nodes_per_token(model: Architecture, layout: Layout, per_node: int) -> float:
    """Nodes to which a routed token is sent; 0 where the experts of a layer are on one node.

    Args:
        model: Dimensions of the model.
        layout: Sharding.
        per_node: GPUs of one node.
    """
    if model.experts is None or not spans_nodes(layout.ep_size, layout.tp_size, per_node):
        return 0.0
    return model.experts.nodes_per_token(layout.ep_size // per_node)


def layer_params_per_rank(model: Architecture, layout: Layout, with_experts: bool) -> float:
    """Parameters of one layer on one tensor-parallel rank, without routed experts."""
    split = model.mlp_params(model.shared_expert_size if with_experts else model.intermediate_size)
    # transformers' tensor-parallel plan replicates latent attention.
    split += 0 if model.latent else model.attention_params
    return model.layer_params(with_experts) - split + split / layout.tp_size


@dataclass(frozen=True)
class Shards:
    """Numbers of parameters on one GPU of a layout.

    Attributes:
        architecture: Dimensions of the model.
        layout: Sharding.
    """

    architecture: Architecture
    layout: Layout

    @property
    def layers(self) -> dict[bool, int]:
        """Number of layers without (False) and with (True) routed experts, where there are any."""
        with_experts = self.architecture.num_expert_layers
        numbers = {False: self.architecture.num_layers - with_experts, True: with_experts}
        return {kind: num for kind, num in numbers.items() if num}

    @property
    def outside_layers(self) -> float:
        """Parameters of embedding, output layer and final norm on one tensor-parallel rank.

        Tensor parallelism splits none but an embedding that the output layer does not share.
        """
        model = self.architecture
        layers = sum(num * model.layer_params(kind) for kind, num in self.layers.items())
        split = 0.0 if model.tied else model.embedding_params * (1 - 1 / self.layout.tp_size)
        return model.dense_params - layers - split

    @property
    def params(self) -> float:
        """Number of parameters whose states one GPU holds."""
        model = self.architecture
        layout = self.layout
        dense = self.outside_layers + sum(num * self.layer_params(kind) for kind, num in self.layers.items())
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

    def layer_params(self, with_experts: bool) -> float:
        """Parameters of one layer on one tensor-parallel rank, without routed experts."""
        return layer_params_per_rank(self.architecture, self.layout, with_experts)

    def unsharded_layer_params(self, with_experts: bool) -> float:
        """Parameters of one layer after FSDP's all-gather, without experts that are a unit of their own."""
        params = self.layer_params(with_experts)
        experts = self.architecture.experts
        if not (with_experts and experts) or self.layout.ep_size > 1:
            return params
        return params + experts.num * self.architecture.expert_params / self.layout.tp_size

    @property
    def unsharded_expert_params(self) -> float:
        """Parameters of a layer's experts on one expert-parallel rank after FSDP's all-gather."""
        experts = self.architecture.experts
        if not experts or self.layout.ep_size == 1:
            return 0.0
        return experts.num * self.architecture.expert_params / self.layout.ep_size

    @property
    def nodes_per_token(self) -> float:
        """Nodes to which a routed token is sent; 0 where the experts of a layer are on one node."""
        return nodes_per_token(self.architecture, self.layout, get_gpu(self.layout.gpu).per_node)
