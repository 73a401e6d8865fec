"""A Ray cluster on this machine whose autoscaler adds and removes nodes, beside any other Ray.

Ray's own ``AutoscalingCluster`` stops every Ray of the machine, and reads a configuration that its wheel
lacks.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Self

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.util import get_node_ip_address

from tests.ray_processes import end_ray
from tests.serving import ports

# By its type alone, Ray would look for a file that its wheel lacks.
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
_IDLE_MINUTES = 0.2


class GrowingCluster:
    """A head without GPUs, and up to ``max_nodes`` nodes of one GPU; a context manager.

    Attributes:
        address: For ``ray.init``.
    """

    def __init__(self, max_nodes: int, folder: Path):
        """Decide the ports; starts nothing.

        Args:
            max_nodes: Largest number of GPU nodes.
            folder: Where the configuration goes.
        """
        self._port, self._dashboard_port, self._agent_port, self._client_port = ports(4)
        # Paths of Ray's sockets may have about 100 characters.
        self._temp_dir = f"/tmp/growing-{os.getpid()}-{self._port}"
        self._config_file = folder / "autoscaler.yaml"
        # Ray replaces the loopback address by this one wherever it reads an address.
        self.address = f"{get_node_ip_address()}:{self._port}"
        self._config = _config(max_nodes, self.address)

    def __enter__(self) -> Self:
        """Start the head.

        Raises:
            CalledProcessError: It does not start.
        """
        self._config_file.write_text(json.dumps(self._config), "utf-8")
        command = [
            str(Path(sys.executable).with_name("ray")),
            "start",
            "--head",
            f"--autoscaling-config={self._config_file}",
            f"--port={self._port}",
            f"--dashboard-port={self._dashboard_port}",
            f"--dashboard-agent-listen-port={self._agent_port}",
            f"--ray-client-server-port={self._client_port}",
            f"--temp-dir={self._temp_dir}",
            "--num-cpus=16",
        ]
        env = {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        }
        subprocess.run(command, env=os.environ | env, check=True, stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """End the processes of this cluster alone; its logs stay if there was an error."""
        end_ray(self._temp_dir, self.address)
        if error is None:
            shutil.rmtree(self._temp_dir, ignore_errors=True)


def _config(max_nodes: int, address: str) -> dict[str, object]:
    """Configuration of Ray's autoscaler."""
    head = {"resources": {"CPU": 16}, "node_config": {}, "max_workers": 0}
    engine = {
        "resources": {"CPU": 1, "GPU": 1},
        "node_config": {},
        "min_workers": 0,
        "max_workers": max_nodes,
    }
    return {
        "cluster_name": "growing",
        "max_workers": max_nodes,
        "idle_timeout_minutes": _IDLE_MINUTES,
        "upscaling_speed": 100,
        "provider": {
            "type": "external",
            "module": _PROVIDER,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": address,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "docker": {},
        "auth": {},
        "file_mounts": {},
        "available_node_types": {"engine": engine, "ray.head.default": head},
        "head_node_type": "ray.head.default",
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "no_restart": False,
    }
