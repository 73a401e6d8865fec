"""How the table's variants are fine-tuned: on which GPUs, and how each model is spread over them."""

from dataclasses import dataclass
from typing import Literal

States = Literal["fp32", "bf16", "8bit"]


@dataclass(frozen=True)
class Layout:
    """How a variant is fine-tuned: on which GPUs, and how the model is spread over them.

    Attributes:
        gpu: Kind of GPU, a name of ``safe_r1.models.gpus.GPUS``.
        fsdp_size: GPUs that share one copy of the parameters, gradients and optimizer states.
        tp_size: GPUs that share each matrix product.
        ep_size: GPUs that share the experts of a layer: a multiple of ``tp_size`` that divides ``fsdp_size *
            tp_size``.
        dp_replicate_size: Copies of all that, each on its own GPUs.
        micro_batch_size: Packed sequences that a GPU computes at once.
        states: Type of the optimizer's moments.
        cpu_offload: Parameters, gradients and moments wait in host memory.
        keep_routed_rows: Tokens that came from other nodes to a GPU's experts are kept for the backward pass,
            not sent again.
        why: The reason for this layout.
    """

    gpu: str
    fsdp_size: int
    tp_size: int = 1
    ep_size: int = 1
    dp_replicate_size: int = 1
    micro_batch_size: int = 1
    states: States = "fp32"
    cpu_offload: bool = False
    keep_routed_rows: bool = False
    why: str = ""

    @property
    def num_gpus(self) -> int:
        """Workers of the whole run."""
        return self.dp_replicate_size * self.fsdp_size * self.tp_size

    @property
    def dp_size(self) -> int:
        """Workers that each see other sequences."""
        return self.dp_replicate_size * self.fsdp_size


# States (weights, gradients, moments) take 16 bytes a parameter, 10 with 8-bit moments. Of 80 GB, 73 GiB are
# usable; 5 to 23 of them go to activations and gathered layers (`safe-r1 plan` counts). One sequence of 8,192
# tokens keeps a GPU busy, and all numbers of workers divide a batch of 64 sequences.
LAYOUTS: dict[str, Layout] = {
    "r1-distill-qwen-1.5b": Layout(
        "h100-80", 1, why="26 GiB of states: one GPU holds them, without communication"
    ),
    "r1-distill-qwen-7b": Layout(
        "h100-80", 8, why="113 GiB of states: 14 each on one node, all traffic over NVLink"
    ),
    "r1-distill-llama-8b": Layout(
        "h100-80", 8, why="120 GiB of states: 15 each on one node, all traffic over NVLink"
    ),
    "r1-distill-qwen-14b": Layout(
        "h100-80", 8, why="220 GiB of states: 28 each on one node, all traffic over NVLink"
    ),
    "r1-distill-qwen-32b": Layout(
        "h100-80",
        16,
        why="488 GiB of states: 61 each on one node leave too little for activations, 31 on two do not",
    ),
    "r1-distill-llama-70b": Layout(
        "h100-80",
        32,
        why="1,051 GiB of states: 66 each on two nodes leave too little for activations, 33 on four do not",
    ),
    "r1": Layout(
        "h200-141",
        64,
        ep_size=32,
        states="8bit",
        why=(
            "6,249 GiB of states with 8-bit moments: 98 each, where fp32 moments would be 156. 32 GPUs share "
            "the 256 experts of a layer, which is fastest: 64 would send more tokens between nodes, and 16 "
            "more experts. A batch of 64 sequences has no work for more GPUs"
        ),
    ),
    "demo": Layout("cpu", 1, why="2 GiB of states: any machine holds them"),
}
