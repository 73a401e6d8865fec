"""The GPU types that a training plan knows."""

import difflib
from dataclasses import dataclass

from safe_r1.errors import ConfigError

# The CUDA context, NCCL buffers and allocator fragmentation take the rest of a GPU's memory.
USABLE_SHARE = 0.92


@dataclass(frozen=True)
class Gpu:
    """A GPU type.

    Attributes:
        name: Name in layouts and on the command line.
        memory_gib: Total memory, as CUDA reports it.
        tflops: Peak dense bf16 matrix throughput in TFLOP/s.
        per_node: GPUs of one node.
    """

    name: str
    memory_gib: float
    tflops: float
    per_node: int = 8

    @property
    def usable_gib(self) -> float:
        """Memory that is available for tensors."""
        return self.memory_gib * USABLE_SHARE


# Source: the vendors' data sheets for the SXM versions, peaks without sparsity. The last entry is a laptop
# without a GPU that computes in fp32.
GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40", 39.4, 312),
        Gpu("a100-80", 79.2, 312),
        Gpu("a800-80", 79.2, 312),
        Gpu("h20-96", 95.1, 148),
        Gpu("h100-80", 79.1, 989),
        Gpu("h800-80", 79.1, 989),
        Gpu("h200-141", 139.8, 989),
        Gpu("b200-180", 178.4, 2250),
        Gpu("l40s-48", 44.4, 362),
        Gpu("cpu", 16.0, 0.2, per_node=1),
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
