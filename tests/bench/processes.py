"""Runs a side of a comparison as a process of its own, and watches it and its descendants from outside."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[2]
RAY_ENVIRONMENT = {"RAY_worker_niceness": "0"}
"""Ray would start its workers at nice 15, and the other sides have the niceness of the benchmark."""

_TIMEOUT_S = 3600
_INTERVAL_S = 0.5


@dataclass
class Watched:
    """A process; times in seconds since the epoch.

    Attributes:
        parent: Its parent's id.
        name: As last seen: Ray's workers change it.
        created: When it started.
        cpu_s: CPU seconds until a time, in the order of the times.
    """

    parent: int
    name: str
    created: float
    cpu_s: list[tuple[float, float]] = field(default_factory=list)

    def cpu_until(self, at: float) -> float:
        """CPU seconds until a time, as last seen before it."""
        return max((cpu_s for seen, cpu_s in self.cpu_s if seen <= at), default=0.0)


@dataclass(frozen=True)
class Finished:
    """A process that has ended.

    Attributes:
        pid: Its id.
        started: In seconds since the epoch.
        wall_s: Seconds until it ended.
        processes: It and its descendants, by id.
    """

    pid: int
    started: float
    wall_s: float
    processes: Mapping[int, Watched]


def run_watched(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Finished:
    """Run a script with this Python until it ends.

    Args:
        arguments: The script and its arguments.
        environment: Added to this process's own; an empty value removes a variable.
        log: File of its output.

    Raises:
        RuntimeError: It failed or took more than an hour; the message shows the end of its log.
    """
    processes: dict[int, Watched] = {}
    removed = {name for name, value in environment.items() if not value}
    whole = {name: value for name, value in (os.environ | dict(environment)).items() if name not in removed}
    started = time.time()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=whole,
            cwd=REPOSITORY,
            stdout=file,
            stderr=file,
        )
        watcher = threading.Thread(target=_watch, args=(process, processes), daemon=True)
        watcher.start()
        try:
            code = process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    wall_s = time.time() - started
    watcher.join()
    if code:
        raise RuntimeError(f"exit code {code}; the end of {log}:\n{log.read_text('utf-8')[-3000:]}")
    return Finished(process.pid, started, wall_s, processes)


def _watch(process: "subprocess.Popen[bytes]", processes: dict[int, Watched]) -> None:
    """Fill ``processes`` while the process runs."""
    while process.poll() is None:
        now = time.time()
        try:
            root = psutil.Process(process.pid)
            for each in (root, *root.children(recursive=True)):
                _look(each, now, processes)
        except psutil.NoSuchProcess:
            return
        time.sleep(_INTERVAL_S)


def _look(process: psutil.Process, now: float, processes: dict[int, Watched]) -> None:
    try:
        with process.oneshot():
            times = process.cpu_times()
            if process.pid not in processes:
                processes[process.pid] = Watched(process.ppid(), process.name(), process.create_time())
            processes[process.pid].name = process.name()
        processes[process.pid].cpu_s.append((now, times.user + times.system))
    except psutil.Error:
        pass
