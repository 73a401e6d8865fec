"""Whether a model runs on CPU or GPU, and how much memory the GPUs have."""

import functools
import subprocess
from typing import Literal

from safe_r1.errors import ResourceError
from safe_r1.models.variant import Variant
from safe_r1.resources import GPU_KIND, Device, node_labels

# A larger model on CPU takes days: it has to be asked for by engine.device=cpu.
MAX_PARAMS_B_ON_CPU = 2.0
# Ray starts a worker for the question first.
_GPU_TIMEOUT_S = 30.0


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


@functools.lru_cache(maxsize=8)
def cluster_gpu_memory_gib(kinds: frozenset[str]) -> float | None:
    """Memory of the smallest GPU of a cluster that this job may use, in GiB.

    Asks one node of each kind of GPU, among those with the job's labels.

    Args:
        kinds: See ``Cluster.gpu_kinds``.

    Returns:
        None where no GPU answers: there is none yet, or it is not NVIDIA's.
    """
    if not kinds:
        return None
    import ray

    read = ray.remote(num_cpus=0)(_read_gpu_memory_gib)
    asked = [read.options(label_selector=node_labels() | {GPU_KIND: kind}).remote() for kind in sorted(kinds)]
    # A kind that no node with the job's labels has does not answer.
    answered, unanswered = ray.wait(asked, num_returns=len(asked), timeout=_GPU_TIMEOUT_S)
    for reference in unanswered:
        ray.cancel(reference, force=True)
    return min((memory for memory in ray.get(answered) if memory is not None), default=None)


def _read_gpu_memory_gib() -> float | None:
    """Memory of this machine's smallest GPU, as CUDA reports it; None without NVIDIA's driver."""
    query = ["nvidia-smi", "--query-gpu=memory.total,memory.reserved", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=True)
        pairs = [line.split(",") for line in done.stdout.splitlines()]
        return min((int(total) - int(reserved)) / 1024 for total, reserved in pairs)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
