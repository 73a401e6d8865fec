"""The processes of a job, by kind."""

import contextlib
import random
import re
from collections.abc import Mapping

import psutil

_COMMANDS: Mapping[str, str] = {
    "raylet": r"raylet/raylet",
    "gcs_server": r"gcs/gcs_server",
    "engine": r"EngineCore|vLLMEngine",
    "training worker": r"RayTrainWorker",
    "replica": r"ServeReplica.*LLM",
    "ingress": r"ServeReplica.*Ingress",
    "data worker": r"ray::(MapWorker|Map\(|ReadParquet|MapBatches|IDLE)",
}
"""Kind to what its command line has."""

VICTIMS = ("supervisor", "driver", *_COMMANDS)
"""The first is the process that a user or a scheduler sees; see ``ray_jobs/supervise.py``."""


def family(pid: int) -> list[psutil.Process]:
    """A job's supervisor and all that belongs to it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        supervisor = psutil.Process(pid)
        return [supervisor, *supervisor.children(recursive=True)]
    return []


def find_victim(pid: int, kind: str, dice: random.Random) -> psutil.Process | None:
    """One of a job's processes of a kind; None where there is none now.

    Args:
        pid: The process that was started.
        kind: One of ``VICTIMS``.
        dice: Chooses among several.
    """
    commands: dict[psutil.Process, list[str]] = {}
    for process in family(pid):
        with contextlib.suppress(psutil.Error):
            commands[process] = process.cmdline()
    if kind in ("supervisor", "driver"):
        found = _pair(commands)
        return found[kind == "driver"] if found else None
    found = [each for each, command in commands.items() if re.search(_COMMANDS[kind], " ".join(command))]
    return dice.choice(sorted(found, key=lambda process: process.pid)) if found else None


def _pair(commands: Mapping[psutil.Process, list[str]]) -> list[psutil.Process]:
    """Supervisor and driver: a process of a job, and its child by fork with the same command line."""
    for process, command in commands.items():
        with contextlib.suppress(psutil.Error):
            for child in process.children():
                if command and commands.get(child) == command:
                    return [process, child]
    return []
