"""How an optimizer step computes, and its duration by part."""

from dataclasses import astuple, dataclass
from typing import Literal

from safe_r1.train.communication import ExpertExchange
from safe_r1.train.config import Fp8Recipe
from safe_r1.train.memory import EXPERT_IMBALANCE, GRADIENT_BYTES


@dataclass(frozen=True)
class StepSettings:
    """How a step computes.

    Attributes:
        recomputed: Share of the layers' forward pass that the backward pass repeats.
        compiled: A compiler fuses the elementwise operations.
        attention: ``fa2`` (torch's variable-length attention) or ``fa3``.
        fp8: Matrix products of the layers in FP8, scaled in this way.
        fp8_experts: Those of routed experts too.
        loss_is_recomputed: Logits are computed again in the backward pass, chunk by chunk.
        output_splits: GPUs that share the output layer.
        exchange: How tokens travel to their experts; None: as in this project's training.
        imbalance: Rows of the GPU with the busiest experts as a multiple of the mean.
        defer_gradient_reduction: Gradients are reduced with the last micro-batch only.
        gradient_bytes: See ``Communication``, as for the following.
        is_fsdp2: FSDP2 shards experts whole, and reduces the gradients of one unit at a time.
    """

    recomputed: float = 1.0
    compiled: bool = False
    attention: Literal["fa2", "fa3"] = "fa2"
    fp8: Fp8Recipe | None = None
    fp8_experts: bool = False
    loss_is_recomputed: bool = True
    output_splits: int = 1
    exchange: ExpertExchange | None = None
    imbalance: float = EXPERT_IMBALANCE
    defer_gradient_reduction: bool = False
    gradient_bytes: int = GRADIENT_BYTES
    is_fsdp2: bool = True


@dataclass(frozen=True)
class StepParts:
    """Seconds of one optimizer step by what takes them.

    Attributes:
        matmul: Matrix products of the layers, without routed experts.
        experts: Matrix products of routed experts.
        attention: Attention.
        output: Output layer and loss.
        elementwise: Norms, activations, RoPE and residuals, which memory bandwidth limits.
        recomputation: The layers' forward pass again, without its communication.
        optimizer: Gradient norm and update.
        sharding: All-gathers and reduce-scatters that no computation hides.
        tensor_parallel: All-reduces of tensor parallelism.
        expert_exchange: Rows sent to experts and back.
        host_syncs: Waits of the host for the GPU.
        offload: Transfers to and from host memory, and the update on the CPU.
    """

    matmul: float
    experts: float
    attention: float
    output: float
    elementwise: float
    recomputation: float
    optimizer: float
    sharding: float
    tensor_parallel: float
    expert_exchange: float
    host_syncs: float
    offload: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum(astuple(self))
