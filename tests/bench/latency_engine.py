"""Stand-in for an evaluation that takes only time.

``python -m tests.bench.latency_engine SECONDS GPUS RECORD`` holds GPUs for that long and writes to the file
RECORD when and on which node it did.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, TypedDict

import ray


class Span(TypedDict):
    """Start and end in seconds since the epoch, and the node's id."""

    started: float
    ended: float
    node: str


class Engine:
    """Holds its GPUs while it waits."""

    def wait(self, seconds: float) -> Span:
        """Wait, and give the time and place of it."""
        started = time.time()
        time.sleep(seconds)
        return Span(started=started, ended=time.time(), node=ray.get_runtime_context().get_node_id())


def main(seconds: str, gpus: str, record: str) -> None:
    ray.init(address="auto", log_to_driver=False)
    actor_class = ray.remote(num_gpus=int(gpus), num_cpus=0, max_restarts=3, max_task_retries=3)(Engine)
    engine: Any = actor_class.remote()
    span = ray.get(engine.wait.remote(float(seconds)))
    Path(record).write_text(json.dumps(span), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
