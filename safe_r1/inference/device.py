"""Whether a model runs on CPU or GPU."""

from typing import Literal

from safe_r1.errors import ResourceError
from safe_r1.models.variant import Variant
from safe_r1.resources import Device

# A larger model on CPU takes days: it has to be asked for by engine.device=cpu.
MAX_PARAMS_B_ON_CPU = 2.0


def pick_device(variant: Variant, wanted: Literal["auto", "cpu", "gpu"], gpu_total: float) -> Device:
    """CPU or GPU for a variant.

    Raises:
        ResourceError: The variant is too large for CPU and there is no GPU.
    """
    if wanted != "auto":
        return wanted
    if gpu_total >= 1:
        return "gpu"
    if variant.params_b <= MAX_PARAMS_B_ON_CPU:
        return "cpu"
    raise ResourceError(
        f"{variant.name} needs {variant.tensor_parallel_size} GPU(s) of {variant.gpu_gb} GB "
        f"({variant.weights_gib():.0f} GiB of weights) and this cluster has none. Submit the job to a GPU "
        "cluster (--set engine.device=gpu where GPU nodes start on demand), try --variant demo, "
        "or --set engine.device=cpu to run it very slowly."
    )
