"""The GPU of this machine among those that the plan knows."""

import re
from dataclasses import dataclass, replace

from safe_r1.models.gpus import GPUS, Gpu

# These have the chip of an SXM version, and less power and lower peaks.
_OTHER_FORMS = re.compile(r"pcie|nvl", re.IGNORECASE)


@dataclass(frozen=True)
class FoundGpu:
    """The GPU of this machine.

    Attributes:
        type: With the memory that is free; ``is_known`` tells whether the rest is true.
        is_known: Whether the plan knows it, and so its peak.
    """

    type: Gpu
    is_known: bool


def find_gpu() -> FoundGpu:
    """The first GPU of this machine."""
    import torch

    free, total = torch.cuda.mem_get_info()
    known = match_gpu(torch.cuda.get_device_properties(0).name, total / 2**30)
    # Of an unknown one the plan's memory still holds, which does not depend on the type.
    return FoundGpu(replace(known or GPUS["h100-80"], memory_gib=free / 2**30), known is not None)


def match_gpu(device_name: str, memory_gib: float) -> Gpu | None:
    """The entry of ``GPUS`` for a device; None if there is none.

    Args:
        device_name: As CUDA reports it, such as ``NVIDIA H100 80GB HBM3``.
        memory_gib: Its total memory.
    """
    words = re.split(r"[\s\-_]+", device_name.lower())
    of_chip = [gpu for gpu in GPUS.values() if gpu.name.split("-")[0] in words]
    if not of_chip or _OTHER_FORMS.search(device_name):
        return None
    nearest = min(of_chip, key=lambda gpu: abs(gpu.memory_gib - memory_gib))
    return nearest if abs(nearest.memory_gib - memory_gib) < 0.1 * nearest.memory_gib else None
