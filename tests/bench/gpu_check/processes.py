"""Runs each part as a process of its own: one that crashes, hangs or runs out of memory costs no other."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.bench.gpu_check.rows import Row, read_rows
from tests.bench.processes import REPOSITORY

PARTS = {
    "versions": 45.0,
    "attention": 75.0,
    "losses": 75.0,
    "training": 150.0,
    "options": 180.0,
    "engine": 180.0,
    "service": 180.0,
}
"""Time-out of each part in seconds, in the order in which they run: the cheapest first."""

_WHOLE = "the whole part"
_INTERVAL_S = 0.2
_END_S = 10.0


def run_parts(
    names: Sequence[str], arguments: Sequence[str], folder: Path, total_s: float, scale: float = 1.0
) -> list[Row]:
    """The rows of all parts, in order.

    Args:
        names: Parts to run, of ``PARTS``.
        arguments: Arguments that all parts get.
        folder: For rows, logs and files.
        total_s: Seconds for all of them; a part that has none left is a failed row.
        scale: Factor of all time-outs.
    """
    end = time.monotonic() + total_s
    rows: list[Row] = []
    for name in names:
        left = end - time.monotonic()
        if left <= 0:
            reason = f"the {total_s:.0f} s of the check were over: run --only {name}"
            rows.append(Row(name, _WHOLE, verdict="failed", reason=reason))
            continue
        print(f"gpu-check: {name}", flush=True)
        command = [sys.executable, "-m", f"tests.bench.gpu_check.{name}", *arguments, "--folder", str(folder)]
        rows += run_part(name, command, min(left, PARTS[name] * scale), folder)
    return rows


def run_part(name: str, command: Sequence[str], timeout_s: float, folder: Path) -> list[Row]:
    """Run one part to its end or its time-out, and end all processes that it leaves.

    Returns:
        The rows that it has written, and a failed one if it did not end well.
    """
    log = folder / f"{name}.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        descendants: dict[int, psutil.Process] = {}
        try:
            _wait(process, timeout_s, descendants)
            code = process.poll()
        finally:
            _end(process, descendants)
    rows = read_rows(folder, name)
    if code is None:
        reason = f"not done after {timeout_s:.0f} s: {_last_line(log)}"
    elif code < 0:
        reason = f"ended by {signal.Signals(-code).name}: {_last_line(log)}"
    elif code:
        reason = _last_line(log)
    elif not rows:
        reason = f"measured nothing: {_last_line(log)}"
    else:
        return rows
    return [*rows, Row(name, _WHOLE, verdict="failed", reason=reason)]


def _wait(
    process: "subprocess.Popen[bytes]", timeout_s: float, descendants: dict[int, psutil.Process]
) -> None:
    """Wait for the end or the time-out, and remember all descendants: one whose parent has died has none."""
    end = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(process.pid).children(recursive=True)
            descendants.update((child.pid, child) for child in found)
        time.sleep(_INTERVAL_S)


def _end(process: "subprocess.Popen[bytes]", descendants: dict[int, psutil.Process]) -> None:
    with contextlib.suppress(psutil.Error):
        descendants.update((child.pid, child) for child in psutil.Process(process.pid).children(True))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for descendant in descendants.values():
        # psutil refuses a process that has only got the same id since.
        with contextlib.suppress(psutil.Error):
            descendant.kill()
    process.wait()
    # The next part wants the memory of the GPU that they have.
    end = time.monotonic() + _END_S
    while any(map(_is_alive, descendants.values())) and time.monotonic() < end:
        time.sleep(_INTERVAL_S)


def _is_alive(process: psutil.Process) -> bool:
    # One that has ended and that nobody waits for stays as a zombie.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'no output'} (log: {log})"
