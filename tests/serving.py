"""A service as a process of its own, for tests and benchmarks."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil

REPOSITORY = Path(__file__).parents[1]
START_S = 420
_STOP_S = 90
# Ray's dashboard agent listens there, in the range of free ports.
_RAYS_PORT = 52365


class Service:
    """A running service.

    Attributes:
        url: Base URL.
        model: Name of its first model; empty if it only judges.
        process: Process of the job.
    """

    def __init__(self, url: str, process: "subprocess.Popen[bytes]"):
        self.url = url
        self.process = process
        self.model = ""

    def post(self, path: str, body: object, timeout: float = 1800) -> httpx.Response:
        """Response to one request."""
        return httpx.post(self.url + path, json=body, timeout=timeout)

    def get(self, path: str, timeout: float = 60) -> httpx.Response:
        """Response to a GET request."""
        return httpx.get(self.url + path, timeout=timeout)

    def is_ready(self) -> bool:
        """Whether all models and the judge are up."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def processes(self) -> list[psutil.Process]:
        """The job and all its descendants."""
        try:
            return [
                psutil.Process(self.process.pid),
                *psutil.Process(self.process.pid).children(recursive=True),
            ]
        except psutil.NoSuchProcess:
            return []

    def engine(self) -> psutil.Process | None:
        """Engine process of vLLM."""
        return self._find("EngineCore")

    def replica(self) -> psutil.Process | None:
        """Replica of a model, the parent process of its engine."""
        return self._find("ServeReplica", "LLM")

    def ingress(self) -> psutil.Process | None:
        """Replica of the ingress."""
        return self._find("ServeReplica", "Ingress")

    def _find(self, *parts: str) -> psutil.Process | None:
        return next(iter(self.all_with(*parts)), None)

    def all_with(self, *parts: str) -> list[psutil.Process]:
        """Processes whose name or command line has all these parts."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                title = f"{process.name()} {' '.join(process.cmdline())}"
                if all(part in title for part in parts):
                    found.append(process)
        return found

    def memory_gib(self) -> float:
        """Proportional set size of all processes: their own memory, and their share of shared memory."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / 2**30


def ports(number: int) -> list[int]:
    """Free ports, all different."""
    # All are held open until the last is found, so that none is found twice.
    probes = [socket.socket() for _ in range(number + 1)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    found = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return [port for port in found if port != _RAYS_PORT][:number]


@contextlib.contextmanager
def start_service(arguments: Sequence[str], log: Path, **env: str) -> Iterator[Service]:
    """Start ``ray_jobs/serve.py`` on a free port and wait until it is ready; stop it at the end of the block.

    Args:
        arguments: Arguments of the job.
        log: File for its output.
        env: Further environment variables.

    Raises:
        RuntimeError: It did not start; the message has its output.
    """
    [port] = ports(1)
    command = [sys.executable, "ray_jobs/serve.py", "--port", str(port), *arguments]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=file, stderr=file, start_new_session=True, env=os.environ | env
        )
    service = Service(f"http://127.0.0.1:{port}", process)
    try:
        deadline = time.monotonic() + START_S
        while not service.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not start: {log.read_text()}")
            time.sleep(1)
        models = httpx.get(f"{service.url}/v1/models", timeout=30).json()["data"]
        service.model = models[0]["id"] if models else ""
        yield service
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
