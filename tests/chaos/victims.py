"""The processes of a job, by kind."""

import contextlib
import random
from collections.abc import Mapping

import psutil

_MARKS: Mapping[str, tuple[str, ...]] = {
    "raylet": ("raylet/raylet",),
    "gcs_server": ("gcs/gcs_server",),
    "engine": ("EngineCore", "vLLMEngine"),
    "training worker": ("RayTrainWorker",),
    "data worker": ("ray::MapWorker", "ray::Map(", "ray::ReadParquet", "ray::MapBatches", "ray::IDLE"),
}
"""Kind to what its command line has, one of these."""

VICTIMS = ("driver", *_MARKS)


def family(pid: int) -> list[psutil.Process]:
    """A job's driver and all that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        driver = psutil.Process(pid)
        return [driver, *driver.children(recursive=True)]
    return []


def find_victim(pid: int, kind: str, dice: random.Random) -> psutil.Process | None:
    """One of a job's processes of a kind; None where there is none now.

    Args:
        pid: The driver's.
        kind: One of ``VICTIMS``.
        dice: Chooses among several.
    """
    processes = family(pid)
    if kind == "driver":
        return processes[0] if processes else None
    found = []
    for process in processes[1:]:
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if any(mark in command for mark in _MARKS[kind]):
                found.append(process)
    return dice.choice(sorted(found, key=lambda process: process.pid)) if found else None
