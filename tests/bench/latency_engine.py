"""Stands for an evaluation whose time is an engine's latency: holds GPUs for so long, then says when and
where it did.

``python -m tests.bench.latency_engine SECONDS GPUS RECORD``
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import ray


@ray.remote(max_restarts=3, max_task_retries=3)
class Engine:
    """Holds its GPUs while it waits."""

    def wait(self, seconds: float) -> dict[str, Any]:
        """Give start, end and node."""
        started = time.time()
        time.sleep(seconds)
        return {"started": started, "ended": time.time(), "node": ray.get_runtime_context().get_node_id()}


def main(seconds: str, gpus: str, record: str) -> None:
    ray.init(address="auto", log_to_driver=False)
    engine: Any = Engine.options(num_gpus=int(gpus), num_cpus=0)
    found = ray.get(engine.remote().wait.remote(float(seconds)))
    Path(record).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
