"""Host memory of a node: how much this process can still allocate."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import psutil

# Limits of the control group of a container, version 2 and version 1: limit, use, statistics, and the name
# of the page cache that can be dropped.
_CONTROL_GROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
_ROOT = Path("/sys/fs/cgroup")


def available_bytes(root: Path = _ROOT) -> int:
    """Free memory of this machine, or of the container that this process runs in if that is less.

    Args:
        root: Where the control groups are mounted.
    """
    free = psutil.virtual_memory().available
    for limit, used, statistics, cache in _CONTROL_GROUPS:
        try:
            maximum = int((root / limit).read_text())
            reclaimable = dict(line.split() for line in (root / statistics).read_text().splitlines())[cache]
            free = min(free, maximum - int((root / used).read_text()) + int(reclaimable))
        except (OSError, ValueError, KeyError):
            # Not this version, or no limit ("max").
            continue
    return max(0, free)


def fullest_node(workers: Iterable[tuple[str, int, int]]) -> tuple[str, int, int]:
    """The node that has the least room for what its workers need together.

    Args:
        workers: Node of each worker, bytes that the worker needs, and bytes that are free there.

    Returns:
        Its name, the bytes needed and the bytes free.
    """
    needed: dict[str, int] = defaultdict(int)
    free: dict[str, int] = {}
    for node, worker_needed, node_free in workers:
        needed[node] += worker_needed
        free[node] = min(node_free, free.get(node, node_free))
    fullest = max(needed, key=lambda node: needed[node] / max(1, free[node]))
    return fullest, needed[fullest], free[fullest]
