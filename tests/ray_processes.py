"""Ends one Ray of this machine, which `ray stop` cannot: it ends them all."""

import contextlib
import os

import psutil


def end_ray(*marks: str) -> None:
    """End the processes of a Ray that `ray start` left in the background.

    Args:
        marks: Texts that its processes alone have on their command lines: its folder, its address.
    """
    own = _find(marks)
    for process in own:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _gone, alive = psutil.wait_procs(own, timeout=20)
    # While they end, some start others.
    for process in {*alive, *_find(marks)}:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _find(marks: tuple[str, ...]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if process.pid != os.getpid() and any(mark in command for mark in marks):
                found.append(process)
    return found
