"""What this cluster has, and the connection to it.

Owns ``ray.init``: a job joins a Ray that is running; where there is none, it starts a local one with enough
logical CPUs for all stages.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from safe_r1.errors import ClusterLostError, ConfigError, ResourceError
from safe_r1.progress import STARTUP_LOGGER
from safe_r1.provenance import check_nodes

if TYPE_CHECKING:
    from ray._private.worker import BaseContext

logger = logging.getLogger(__name__)

Device = Literal["cpu", "gpu"]
NODE_LABELS = "SAFE_R1_NODE_LABELS"
"""Environment variable: ``key=value,key=value``, the labels of the nodes that this job's work takes; others
are left alone.
"""
GPU_KIND = "ray.io/accelerator-type"
"""Ray's label of a node with GPUs: their kind."""

# The engine, the renderers and the sinks each want a logical CPU at the same time: with fewer the stream
# waits for itself.
MIN_LOGICAL_CPUS = 8
# Ray reads these when it is imported.
_AT_IMPORT = {
    # Ray gives its own processes 30 s, too little on a loaded laptop.
    "RAY_raylet_start_wait_time_s": "180",
    # A job that was stopped left Ray; what Ray Data then still counts would start a new one and wait for it.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # Ray Data would wrap an error of a stage in one of its own, in which it is lost on the way to the driver.
    "RAY_DATA_RAISE_ORIGINAL_MAP_EXCEPTION": "1",
}

# Ray would start a worker for every logical CPU and take the job only then, and keep as many to its
# end, each with what it has imported: torch for tokenizing, half a GiB beside the training that follows.
_WORKERS_AS_NEEDED = {
    "prestart_worker_first_driver": False,
    "num_workers_soft_limit": 0,
    "idle_worker_killing_time_threshold_ms": 10_000,
}

_ADDRESS = "RAY_ADDRESS"
_START_LOCAL = "local"
# Ray would take 30% of the memory. Stages pass blocks of text on and spill what is more than this to disk.
_OBJECT_STORE_BYTES = 2**30
_OBJECT_STORE_SHARE = 0.3
_OBJECT_STORE_SETTINGS = (
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES",
    "RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION",
)
_PROBE_TIMEOUT_S = 5.0
# Ray's monitor writes its first report some seconds after the head has started.
_MONITOR_REPORT_S = 15.0


@dataclass(frozen=True)
class Cluster:
    """Totals of the connected cluster.

    Attributes:
        gpu_total: GPUs of all nodes.
        cpu_total: Logical CPUs of all nodes.
        memory_gib: Free memory of this machine.
        num_nodes: Nodes that are alive.
        address: Of its head, ``host:port``.
        node_gpus: GPUs of the node with the most of them.
        gpu_kinds: Ray's names of its kinds of GPU, such as ``H100``.
    """

    gpu_total: float
    cpu_total: float
    memory_gib: float
    num_nodes: int = 1
    address: str = ""
    node_gpus: float = 0.0
    gpu_kinds: frozenset[str] = frozenset()

    @property
    def num_workers(self) -> int:
        """Processes that can compute at the same time: a local Ray has more logical CPUs than real ones."""
        cores = min(self.cpu_total, os.cpu_count() or 1) if self.num_nodes == 1 else self.cpu_total
        return max(1, int(cores))


@dataclass(frozen=True)
class RayLocation:
    """Which Ray a job uses.

    Attributes:
        address: Of the Ray to join; None where a local one is to be started.
        is_named: ``RAY_ADDRESS`` says so; otherwise it was found on this machine.
        dead_address: Of a Ray on this machine that ended without ``ray stop``, which left its address behind.
    """

    address: str | None = None
    is_named: bool = False
    dead_address: str | None = None


def locate_ray() -> RayLocation:
    """The Ray that a job joins, looked for as ``ray.init()`` does: ``RAY_ADDRESS``, then one on this machine.

    ``RAY_ADDRESS=local`` always starts a new one. The address of a Ray that is dead is ignored, where
    ``ray.init()`` waits for minutes and fails.
    """
    if named := os.environ.get(_ADDRESS):
        return RayLocation() if named == _START_LOCAL else RayLocation(named, is_named=True)
    from ray._private.services import find_bootstrap_address

    found = find_bootstrap_address(None)
    if not found:
        return RayLocation()
    return RayLocation(found) if is_alive(found) else RayLocation(dead_address=found)


def is_jobs_server(address: str | None) -> bool:
    """True for the address of a dashboard, which takes jobs, but which ``ray.init()`` cannot connect to."""
    return address is not None and address.startswith(("http://", "https://"))


def is_alive(address: str, raylet_socket: str = "") -> bool:
    """True where a node of the Ray of this address runs on this machine, and its head answers.

    A process of Ray may outlive the others, and no job can join without both.

    Args:
        address: Of the head, ``host:port``.
        raylet_socket: Of the node, where it is known; otherwise it is found by the head's address, which it
            must have been given in the same form.
    """
    import psutil

    flag = f"--raylet_socket_name={raylet_socket}" if raylet_socket else f"--gcs-address={address}"
    commands = (process.info["cmdline"] or [""] for process in psutil.process_iter(["cmdline"]))
    if not any(flag in command and os.path.basename(command[0]) == "raylet" for command in commands):
        return False
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PROBE_TIMEOUT_S).close()
    except (OSError, ValueError):
        return False
    return True


def connect(min_cpus: int = MIN_LOGICAL_CPUS) -> Cluster:
    """Join the Ray that ``locate_ray`` finds, or start a local one.

    Args:
        min_cpus: Logical CPUs that the job needs at the same time; a local Ray has at least as many, and each
            beyond the real ones is a further process to start.

    Raises:
        ClusterLostError: The Ray that was joined does not answer.
        ResourceError: It has too few logical CPUs and does not grow, or it or one of its nodes is of another
            version.
    """
    set_import_variables()
    import psutil
    import ray

    if not ray.is_initialized():
        init_ray(num_cpus=max(min_cpus, os.cpu_count() or 1))
        logging.getLogger(STARTUP_LOGGER).info("ray: connected")
    if labels := node_labels():
        from ray.data import DataContext

        DataContext.get_current().execution_options.label_selector = labels
    totals = ray.cluster_resources()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    check_nodes([node for node in nodes if has_labels(node["Labels"], labels)])
    cluster = Cluster(
        gpu_total=totals.get("GPU", 0.0),
        cpu_total=totals.get("CPU", 0.0),
        memory_gib=psutil.virtual_memory().available / 2**30,
        num_nodes=len(nodes),
        address=ray.get_runtime_context().gcs_address,
        node_gpus=max((node["Resources"].get("GPU", 0.0) for node in nodes), default=0.0),
        # A GPU that only the node's command line claims has no kind.
        gpu_kinds=frozenset(node["Labels"][GPU_KIND] for node in nodes if GPU_KIND in node["Labels"]),
    )
    _check_cpus(cluster, min_cpus)
    return cluster


def _check_cpus(cluster: Cluster, min_cpus: int) -> None:
    if cluster.cpu_total >= min_cpus or _can_grow():
        return
    raise ResourceError(
        f"the Ray at {cluster.address} has {cluster.cpu_total:g} logical CPUs and this job needs {min_cpus} "
        f"at the same time: start it with `ray start --head --num-cpus={min_cpus}` (it may be more than the "
        f"machine has), or set {_ADDRESS}={_START_LOCAL} and the job starts a Ray of its own"
    )


def _can_grow() -> bool:
    """True where the cluster has an autoscaler, and where that is not known."""
    from ray.experimental.internal_kv import _internal_kv_get

    deadline = time.monotonic() + _MONITOR_REPORT_S
    while not (report := _internal_kv_get(b"__autoscaling_status")) and time.monotonic() < deadline:
        time.sleep(0.5)
    nodes = (json.loads(report).get("autoscaler_report") or {}).get("active_nodes") if report else None
    # Without an autoscaler, the monitor knows no node groups and calls each node a kind of its own.
    return not nodes or not all(kind.startswith("node_") for kind in nodes)


def set_import_variables() -> None:
    """Set what Ray reads when it is imported; who has set a variable decides."""
    for name, value in _AT_IMPORT.items():
        os.environ.setdefault(name, value)


def init_ray(
    *, num_cpus: int | None = None, include_dashboard: bool = False, log_to_driver: bool = True
) -> "BaseContext":
    """Join the Ray that ``locate_ray`` finds, or start a local one; gives Ray's context.

    Args:
        num_cpus: Logical CPUs of a local Ray; None: those of the machine.
        include_dashboard: A local Ray gets a dashboard, and with it a Jobs server.
        log_to_driver: Show what the workers print.

    Raises:
        ResourceError: Its address cannot be read, it is of another version, or it wants a token.
        ClusterLostError: It does not answer.
    """
    set_import_variables()
    import ray

    location = locate_ray()
    if location.dead_address:
        logger.warning(
            "nothing answers at %s, the address that Ray keeps: starting a local one", location.dead_address
        )
    options: dict[str, object] = {
        "log_to_driver": log_to_driver,
        "logging_level": "warning",
        "ignore_reinit_error": True,
    }
    if location.is_named:
        options["address"] = location.address
    elif location.address is None:
        # "local" and not None, with which Ray would look for an address by itself.
        options |= {"address": _START_LOCAL, "num_cpus": num_cpus, "include_dashboard": include_dashboard}
        options |= _object_store_options()
        # Who sets Ray's own variable decides.
        options["_system_config"] = {
            name: value for name, value in _WORKERS_AS_NEEDED.items() if f"RAY_{name}" not in os.environ
        }
    # One that was found is joined without its address: only then does Ray use the token of its `ray start`.
    try:
        with _own_sigterm():
            return ray.init(**options)  # pyright: ignore[reportArgumentType]
    except Exception as error:  # noqa: BLE001 - a start that takes too long is a bare Exception of Ray's
        raise _explain(error, location) from None


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, for which Ray sets one of its own that ends the process."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _object_store_options() -> dict[str, object]:
    import psutil

    if any(name in os.environ for name in _OBJECT_STORE_SETTINGS):
        return {}
    share = int(_OBJECT_STORE_SHARE * psutil.virtual_memory().total)
    return {"object_store_memory": min(_OBJECT_STORE_BYTES, share)}


def _explain(error: Exception, location: RayLocation) -> ResourceError:
    """The error of a connection that failed, with its remedy."""
    place = location.address or "a local start"
    reason = " ".join(str(error).split())
    own_ray = f"set {_ADDRESS}={_START_LOCAL} and the job starts a Ray of its own"
    if "Version mismatch" in reason:
        return ResourceError(
            f"the Ray at {place} is of another version ({reason}): use the environment that it was started "
            f"from, or {own_ray}"
        )
    if isinstance(error, ValueError):
        return ResourceError(f"cannot connect to Ray at {place}: {reason}")
    if location.address and not location.is_named:
        reason = f"{reason}; wait until it answers, or {own_ray}"
    # A head that restarts answers later.
    return ClusterLostError(f"cannot connect to Ray at {place}: {reason}")


def node_labels() -> dict[str, str]:
    """The labels of ``SAFE_R1_NODE_LABELS``; empty: any node.

    Raises:
        ConfigError: It cannot be read.
    """
    pairs = [pair.partition("=") for pair in os.environ.get(NODE_LABELS, "").split(",") if pair.strip()]
    if wrong := [key for key, equals, value in pairs if not (key.strip() and equals and value.strip())]:
        raise ConfigError(f"{NODE_LABELS}: expected key=value,key=value, got {wrong[0]!r}")
    return {key.strip(): value.strip() for key, _, value in pairs}


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a node has the labels that a job wants.

    Args:
        labels: Of the node.
        wanted: Values as Ray has them: ``x``, ``!x``, ``in(x,y)`` or ``!in(x,y)``.
    """
    return all(_is_wanted(labels.get(key), value) for key, value in wanted.items())


def _is_wanted(value: str | None, wanted: str) -> bool:
    bare = wanted.removeprefix("!")
    names = bare[3:-1].split(",") if bare.startswith("in(") and bare.endswith(")") else [bare]
    return (value in [name.strip() for name in names]) != wanted.startswith("!")


def disconnect() -> None:
    """Leave the cluster, giving back everything this process holds in it; a local Ray ends."""
    import ray

    ray.shutdown()
