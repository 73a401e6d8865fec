"""``vllm serve`` with the engine arguments of a benchmark: the other side of the service's own routes."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

from tests.bench.work import Bench
from tests.serving import REPOSITORY, START_S, ports


@contextlib.contextmanager
def start_bare_server(bench: Bench, log: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Start vLLM's own server, wait until it is ready, and stop it at the end of the block.

    Args:
        bench: Model and engine arguments.
        log: File of its output.
        environment: Added to this process's own.

    Yields:
        Its base URL; the model's name is the variant's.

    Raises:
        RuntimeError: It did not start; the message has its output.
    """
    [port] = ports(1)
    arguments = {name: value for name, value in bench.engine.items() if name != "model"}
    arguments |= {"served_model_name": bench.plan.variant.name, "host": "127.0.0.1", "port": port}
    command = [sys.executable, "tests/vllm_server.py", "serve", str(bench.engine["model"])]
    command += [_flag(name.replace("_", "-"), value) for name, value in arguments.items()]
    whole = os.environ | dict(environment) | bench.engine_environment
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=REPOSITORY, stdout=file, stderr=file, env=whole)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_S
    try:
        while not _is_ready(url):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"vLLM's server did not start: {log.read_text()[-3000:]}")
            time.sleep(1)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()


def _flag(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"


def _is_ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/v1/models", timeout=5).status_code == 200
    return False
