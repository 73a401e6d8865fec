"""What this cluster has, and the connection to it.

Owns ``ray.init``: a job inside a cluster joins it; a laptop gets a local Ray with enough logical CPUs for all
stages.
"""

import os
from dataclasses import dataclass
from typing import Any, Literal

from safe_r1.errors import ClusterLostError, ConfigError, ResourceError
from safe_r1.models.registry import Variant

Device = Literal["cpu", "gpu"]
NODE_LABELS = "SAFE_R1_NODE_LABELS"
"""Environment variable: ``key=value,key=value``, the labels of the nodes that this job's work takes; others
are left alone.
"""

# The engine, the renderers and the sinks each want a logical CPU at the same time: with fewer the stream
# waits for itself.
MIN_LOGICAL_CPUS = 8
# Ray gives its own processes 30 s, too little on a loaded laptop; it reads this when it is imported.
_START_WAIT = ("RAY_raylet_start_wait_time_s", "180")
# A larger model on CPU takes days: it has to be asked for by engine.device=cpu.
MAX_PARAMS_B_ON_CPU = 2.0


@dataclass(frozen=True)
class Cluster:
    """Totals of the connected cluster.

    Attributes:
        gpu_total: GPUs of all nodes.
        cpu_total: Logical CPUs of all nodes.
        memory_gib: Free memory of this machine.
        is_local: True where Ray was started by this process.
    """

    gpu_total: float
    cpu_total: float
    memory_gib: float
    is_local: bool


def connect(min_cpus: int = MIN_LOGICAL_CPUS) -> Cluster:
    """Join the cluster of ``RAY_ADDRESS``, or start a local Ray.

    Args:
        min_cpus: Logical CPUs that a local Ray has at least; each beyond the real ones is a further process
            to start.

    Raises:
        ClusterLostError: The cluster of ``RAY_ADDRESS`` does not answer.
    """
    os.environ.setdefault(*_START_WAIT)
    import psutil
    import ray

    if not ray.is_initialized():
        init_ray(num_cpus=max(min_cpus, os.cpu_count() or 1), include_dashboard=False)
    if labels := node_labels():
        from ray.data import DataContext

        DataContext.get_current().execution_options.label_selector = labels
    totals = ray.cluster_resources()
    free_gib = psutil.virtual_memory().available / 2**30
    return Cluster(
        totals.get("GPU", 0.0), totals.get("CPU", 0.0), free_gib, is_local=not os.environ.get("RAY_ADDRESS")
    )


def init_ray(*, log_to_driver: bool = True, **local: Any) -> Any:
    """Join the cluster of ``RAY_ADDRESS``, or start a local Ray with the options ``local``; gives Ray's
    context.

    Raises:
        ResourceError: Its address cannot be read.
        ClusterLostError: It does not answer.
    """
    os.environ.setdefault(*_START_WAIT)
    import ray

    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {
        "log_to_driver": log_to_driver,
        "logging_level": "warning",
        "ignore_reinit_error": True,
    }
    options |= {"address": address} if address else local
    try:
        return ray.init(**options)
    except Exception as error:  # noqa: BLE001 - a start that takes too long is a bare Exception of Ray's
        kind = (
            ResourceError if isinstance(error, ValueError) else ClusterLostError
        )  # a head that restarts answers later
        raise kind(
            f"cannot connect to Ray at {address or 'a local start'}: {str(error).splitlines()[0]}"
        ) from None


def node_labels() -> dict[str, str]:
    """The labels of ``SAFE_R1_NODE_LABELS``; empty: any node.

    Raises:
        ConfigError: It cannot be read.
    """
    pairs = [pair.partition("=") for pair in os.environ.get(NODE_LABELS, "").split(",") if pair.strip()]
    if wrong := [key for key, equals, value in pairs if not (key.strip() and equals and value.strip())]:
        raise ConfigError(f"{NODE_LABELS}: expected key=value,key=value, got {wrong[0]!r}")
    return {key.strip(): value.strip() for key, _, value in pairs}


def disconnect() -> None:
    """Leave the cluster, giving back everything this process holds in it; a local Ray ends."""
    import ray

    ray.shutdown()


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
        f"({variant.weights_gib():.0f} GiB of weights) and this cluster has none. Submit the job to a GPU cluster "
        "(--set engine.device=gpu where GPU nodes start on demand), try --variant demo, "
        "or --set engine.device=cpu to run it very slowly."
    )
