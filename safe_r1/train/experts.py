"""Dispatch of routed tokens to experts on several nodes, each token once per node.

transformers sends every (token, expert) pair to the GPU of the expert. R1's router takes the 8 experts of a
token from 4 of 8 groups, and with 64 GPUs a node holds one group: half of the pairs go to a node to which
another pair of the same token goes. Here a token is sent once to each node that has an expert for it, to the
GPU with the sender's place in that node; from there its pairs go to their GPUs inside the node. The results
of a node are weighted and summed there, and come back as one row. Gradients take the same ways.

Source: the node-limited routing of the DeepSeek-V3 report, section 2.1.2.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd, wait_tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers.distributed.expert_parallel import EPImplementation, EPImplementationInterface

from safe_r1.train.parallel import local_world_size

NODE_DISPATCH = "safe_r1_node_dispatch"


@dataclass(frozen=True)
class _Routes:
    """The rows that this rank sends and receives in one layer.

    A row is a token on its way to one node; a pair is a row on its way to one expert of that node.

    Attributes:
        token_of_row: Token of each sent row, ordered by node.
        rows_out: Rows sent to each node.
        rows_in: Rows received from each node.
        pairs_out: Pairs sent to each rank of the node.
        pairs_in: Pairs received from each rank of the node.
        pair_counts: Pairs received from each rank for each of this rank's experts, on the device.
    """

    token_of_row: Tensor
    rows_out: list[int]
    rows_in: list[int]
    pairs_out: list[int]
    pairs_in: list[int]
    pair_counts: Tensor


class NodeDispatch(EPImplementation):
    """Routed tokens travel between nodes once per node, and inside a node once per expert."""

    def __init__(self, experts: nn.Module, ep_mesh: DeviceMesh, tp_mesh: DeviceMesh) -> None:
        super().__init__(experts, ep_mesh, tp_mesh)
        self.num_own: int = experts.num_experts  # pyright: ignore[reportAttributeAccessIssue]
        mesh = _node_mesh(dist.group.WORLD, ep_mesh.size(), local_world_size())
        self.between = mesh["between"].get_group()
        self.inside = mesh["inside"].get_group()
        self.num_nodes = mesh["between"].size()
        self.node = mesh["between"].get_local_rank()
        self.experts_per_node = self.num_own * mesh["inside"].size()

    def __call__(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """The weighted sum of each token's experts.

        Args:
            hidden_states: Tokens of this rank, shape (tokens, hidden).
            top_k_index: Their experts, shape (tokens, k).
            top_k_weights: The experts' weights, shape (tokens, k).
        """
        routes = self._routes(top_k_index)
        send = functools.partial(
            _exchange, group=self.between, num_out=routes.rows_out, num_in=routes.rows_in
        )
        rows = send(hidden_states[routes.token_of_row])
        weights = send(top_k_weights[routes.token_of_row])
        experts = send(top_k_index[routes.token_of_row].to(torch.int32))
        # Experts of other nodes are served by the row's copies there.
        experts = experts - self.node * self.experts_per_node
        is_here = (experts >= 0) & (experts < self.experts_per_node)
        # Pairs ordered by expert, and so by rank; those of other nodes come last and are cut off.
        key = torch.where(is_here, experts, self.experts_per_node).flatten()
        pairs = torch.argsort(key, stable=True)[: sum(routes.pairs_out)]
        row_of_pair = pairs // top_k_index.shape[-1]
        outputs = self._run_experts(rows[row_of_pair], routes)
        # Sums are fp32, as those of transformers.
        weighted = outputs * weights.flatten()[pairs, None].float()
        node_sums = weighted.new_zeros(rows.shape).index_add(0, row_of_pair, weighted)
        return _Combine.apply(node_sums.to(hidden_states.dtype), routes, self.between, len(hidden_states))

    def _routes(self, top_k_index: Tensor) -> _Routes:
        """Count the rows and pairs; one copy of the counts to the host is what the exchanges need."""
        num_tokens = top_k_index.shape[0]
        reached = top_k_index.new_zeros(num_tokens, self.num_nodes)
        reached.scatter_(1, top_k_index // self.experts_per_node, 1)
        pairs = top_k_index.new_zeros(self.num_nodes * self.experts_per_node)
        pairs.scatter_add_(0, top_k_index.flatten(), torch.ones_like(top_k_index).flatten())
        sent = torch.cat([reached.sum(0)[:, None], pairs.view(self.num_nodes, -1)], dim=1)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.between)
        # Of the pairs that came to this rank's place in the node, from all nodes, by owner and expert.
        to_ranks = received[:, 1:].sum(0).view(-1, self.num_own)
        pair_counts = torch.empty_like(to_ranks)
        dist.all_to_all_single(pair_counts, to_ranks, group=self.inside)
        counts = [sent[:, 0], received[:, 0], to_ranks.sum(1), pair_counts.sum(1)]
        on_host = torch.cat(counts).tolist()
        rows_out, rows_in, pairs_out, pairs_in = _split(on_host, [len(count) for count in counts])
        by_node = torch.argsort(reached.T.flatten(), descending=True, stable=True)[: sum(rows_out)]
        return _Routes(by_node % num_tokens, rows_out, rows_in, pairs_out, pairs_in, pair_counts)

    def _run_experts(self, pairs: Tensor, routes: _Routes) -> Tensor:
        """Outputs of the experts for pairs that are ordered by expert, in the same order."""
        inputs = _exchange(pairs, self.inside, routes.pairs_out, routes.pairs_in)
        own = torch.arange(self.num_own, device=pairs.device).repeat(len(routes.pairs_in))
        experts = own.repeat_interleave(routes.pair_counts.flatten(), output_size=len(inputs))[:, None]
        if len(inputs):
            outputs = self.experts_forward(inputs, experts, torch.ones_like(experts, dtype=inputs.dtype))
        else:
            # A row of zeros keeps the experts in the graph, so that FSDP reduces their gradients here too.
            row = inputs.sum(0, keepdim=True)
            outputs = self.experts_forward(row, experts.new_zeros(1, 1), row.new_ones(1, 1))[:0]
        return _exchange(outputs, self.inside, routes.pairs_in, routes.pairs_out)


class _Combine(torch.autograd.Function):
    """Rows of all nodes back to the rank of their token, summed there.

    Nothing is saved by autograd, so that recomputation of a layer ends before this exchange.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, routes: _Routes, group: dist.ProcessGroup, num_tokens: int) -> Tensor:
        ctx.routes = routes
        ctx.group = group
        returned = _exchange_now(rows, group, routes.rows_in, routes.rows_out)
        sums = returned.new_zeros(num_tokens, rows.shape[1], dtype=torch.float32)
        return sums.index_add_(0, routes.token_of_row, returned.float()).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        routes: _Routes = ctx.routes
        rows = gradients[0][routes.token_of_row]
        return _exchange_now(rows, ctx.group, routes.rows_out, routes.rows_in), None, None, None


def _exchange_now(rows: Tensor, group: dist.ProcessGroup, num_out: list[int], num_in: list[int]) -> Tensor:
    """All-to-all of rows, without autograd."""
    received = rows.new_empty(sum(num_in), *rows.shape[1:])
    dist.all_to_all_single(received, rows.contiguous(), num_in, num_out, group=group)
    return received


def _exchange(rows: Tensor, group: dist.ProcessGroup, num_out: list[int], num_in: list[int]) -> Tensor:
    """All-to-all of rows, whose backward pass is one the other way."""
    if not rows.is_floating_point():
        return _exchange_now(rows, group, num_out, num_in)
    # A functional collective, which `checkpoint_contexts` can keep.
    return wait_tensor(all_to_all_single_autograd(rows.contiguous(), num_in, num_out, group))


def _split(values: list[int], sizes: list[int]) -> list[list[int]]:
    parts: list[list[int]] = []
    for size in sizes:
        parts.append(values[:size])
        values = values[size:]
    return parts


@functools.cache
def _node_mesh(world: object, ep_size: int, per_node: int) -> DeviceMesh:
    """The ranks of each expert-parallel group by node; all layers share the process groups of one mesh."""
    device = accelerator.type if (accelerator := torch.accelerator.current_accelerator()) else "cpu"
    shape = (dist.get_world_size() // ep_size, ep_size // per_node, per_node)
    return init_device_mesh(device, shape, mesh_dim_names=("copy", "between", "inside"))


def register_node_dispatch() -> str:
    """Make ``NodeDispatch`` known to transformers; returns the name of it."""
    EPImplementationInterface.register(NODE_DISPATCH, NodeDispatch)
    return NODE_DISPATCH


def compute_shared_experts_first(model: nn.Module) -> None:
    """Let each layer end with the return of its routed tokens.

    Recomputation of a layer stops at the last tensor that its backward pass needs. With the shared experts
    before the routed ones, as here, that is before the return, which is then not repeated.
    """
    for module in model.modules():
        if hasattr(module, "experts") and hasattr(module, "shared_experts"):
            module.forward = functools.partial(_forward_moe, module)


def prefetch_experts(model: nn.Module) -> None:
    """Gather the sharded experts of a layer while the layer after it runs backward.

    FSDP gathers one unit ahead, and in the backward pass the experts of a layer come right after the layer
    itself: their gather would hide behind nothing.

    Args:
        model: Sharded, with the experts of each layer as a unit of their own.
    """
    layers: list[Any] = [each for each in model.modules() if hasattr(getattr(each, "mlp", None), "experts")]
    for before, after in itertools.pairwise(layers):
        after.mlp.experts.set_modules_to_backward_prefetch([before, before.mlp.experts])


def _forward_moe(moe: Any, hidden_states: Tensor) -> Tensor:
    shared = moe.shared_experts(hidden_states)
    _, weights, experts = moe.gate(hidden_states)
    routed = moe.experts(hidden_states.flatten(0, -2), experts, weights)
    return shared + routed.view_as(shared)


def keep_routed_rows(ep_size: int) -> Callable[[], tuple[Any, Any]]:
    """The ``context_fn`` of activation checkpointing that keeps the rows that came from other nodes.

    They are then not sent again when a layer is recomputed.
    """
    between = _node_mesh(dist.group.WORLD, ep_size, local_world_size())["between"].get_group().group_name

    def policy(context: object, operation: object, *args: Any, **kwargs: object) -> CheckpointPolicy:
        if operation is torch.ops._c10d_functional.all_to_all_single.default:
            group = args[3]
            if getattr(group, "group_name", group) == between:
                return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return functools.partial(create_selective_checkpoint_contexts, policy)
