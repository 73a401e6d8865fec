"""The GPU types that plans of training and of inference know, by the names in layouts."""

import difflib
from dataclasses import dataclass

from safe_r1.errors import ConfigError

# The CUDA context, NCCL buffers and allocator fragmentation take the rest of a GPU's memory.
USABLE_SHARE = 0.92
# FP8 matrix products came with compute capability 8.9. Source: the data sheets of L40S, H100 and B200.
_WITH_FP8 = ("ada", "hopper", "blackwell")
# Memory of a node of eight GPUs that the manifests of `cluster/` request for a worker.
NODE_MEMORY_GIB = 900.0


@dataclass(frozen=True)
class Gpu:
    """A GPU type, and the node that it is in.

    Attributes:
        name: Name in layouts and on the command line.
        memory_gib: Total memory, as CUDA reports it.
        tflops: Peak dense bf16 matrix throughput in TFLOP/s.
        per_node: GPUs of one node.
        generation: Architecture, which decides how much of the peaks kernels achieve (``train.step_time``,
            ``inference.throughput``) and whether there are FP8 matrix products.
        memory_gb_s: Peak bandwidth of its memory in GB/s.
        link_gb_s: Peak bandwidth to the other GPUs of the node in GB/s, in one direction.
        network_gb_s: Peak bandwidth to other nodes in GB/s, in one direction.
        node_memory_gib: Host memory of a node in GiB.
    """

    name: str
    memory_gib: float
    tflops: float
    per_node: int = 8
    generation: str = "hopper"
    memory_gb_s: float = 3350.0
    link_gb_s: float = 450.0
    network_gb_s: float = 50.0
    node_memory_gib: float = NODE_MEMORY_GIB

    @property
    def fp8_tflops(self) -> float:
        """Peak dense FP8 matrix throughput in TFLOP/s: twice that of bf16; 0 without such kernels."""
        return 2 * self.tflops if self.generation in _WITH_FP8 else 0.0

    @property
    def usable_gib(self) -> float:
        """Memory that is available for tensors."""
        return self.memory_gib * USABLE_SHARE

    @property
    def has_fp8(self) -> bool:
        """True where matrix products are twice as fast in FP8 as in bf16."""
        return self.generation not in ("ampere", "cpu")


def _ampere(name: str, memory_gib: float, memory_gb_s: float, link_gb_s: float = 300.0) -> Gpu:
    # DGX A100 has one adapter of 200 Gb/s for each GPU, later systems one of 400.
    return Gpu(
        name,
        memory_gib,
        312,
        generation="ampere",
        memory_gb_s=memory_gb_s,
        link_gb_s=link_gb_s,
        network_gb_s=25,
    )


# Source: the vendors' data sheets for the SXM versions; peaks without sparsity, NVLink in one direction (half
# of the sum that is printed), and of the DGX or HGX systems one network adapter for each GPU. A800 and H800
# have 400 GB/s of NVLink in place of 600 and 900. L40S has PCIe 4.0 x16 alone. The last entry is a laptop
# without a GPU that computes in fp32.
GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _ampere("a100-40", 39.4, 1555),
        _ampere("a100-80", 79.2, 2039),
        _ampere("a800-80", 79.2, 2039, link_gb_s=200),
        Gpu("h20-96", 95.1, 148, memory_gb_s=4000),
        Gpu("h100-80", 79.1, 989),
        Gpu("h800-80", 79.1, 989, link_gb_s=200),
        Gpu("h200-141", 139.8, 989, memory_gb_s=4800),
        Gpu("b200-180", 178.4, 2250, generation="blackwell", memory_gb_s=8000, link_gb_s=900),
        Gpu("l40s-48", 44.4, 362, generation="ada", memory_gb_s=864, link_gb_s=32, network_gb_s=25),
        Gpu(
            "cpu",
            16.0,
            0.2,
            per_node=1,
            generation="cpu",
            memory_gb_s=40,
            link_gb_s=10,
            network_gb_s=1.25,
            node_memory_gib=16.0,
        ),
    )
}


def get_gpu(name: str) -> Gpu:
    """The GPU type with this name.

    Raises:
        ConfigError: The name is unknown; the nearest one is suggested.
    """
    if name in GPUS:
        return GPUS[name]
    near = difflib.get_close_matches(name, GPUS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"unknown GPU {name!r}: {hint}known are {', '.join(GPUS)}")
