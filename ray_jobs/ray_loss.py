"""Whether the Ray that this process is connected to is gone."""

import sys
from typing import Any

from safe_r1.resources import is_alive

# Ray ends a driver whose raylet is gone, but lets one wait for ever whose head is gone.
_HEAD = ("gcs_server", "raylet")


def is_ray_lost() -> bool:
    """True where this process is connected to a Ray whose head or whose node on this machine is gone."""
    ray = _connected_ray()
    if ray is None:
        return False
    node = ray._private.worker._global_node
    if node is None:
        # A client of a Ray elsewhere has no node, and its own errors say what was lost.
        return False
    try:
        # By the socket, as this process and its node may have been given the head under two names.
        return not is_alive(ray.get_runtime_context().gcs_address, node.raylet_socket_name)
    except Exception:  # noqa: BLE001 - Ray does not say how it fails when it is gone
        return True


def is_local_head_gone() -> bool:
    """True where this process has started a Ray of its own whose head has ended; costs no call."""
    ray = _connected_ray()
    if ray is None:
        return False
    node = ray._private.worker._global_node
    try:
        return node is not None and any(kind in _HEAD for kind, _ in node.dead_processes())
    except RuntimeError:
        # Its processes change meanwhile: it is being started or shut down.
        return False


def _connected_ray() -> Any:
    """The module where this process is connected to a Ray; None where it is not."""
    ray = sys.modules.get("ray")
    # Another thread may be importing it: for seconds on a busy machine it is there without its functions.
    is_initialized = getattr(ray, "is_initialized", None)
    return ray if is_initialized is not None and is_initialized() else None
