"""One trial: a job, a kill at a random moment, the same command until it is finished, and a comparison."""

import contextlib
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.jobs import Job, Result
from tests.chaos.victims import family, find_victim
from tests.serving import REPOSITORY

LIMIT_S = 900.0
"""A run that takes longer hangs."""
_OUTLIVES_S = 10.0
_MAX_RUNS = 4
# Finished; lost or not there, so that the same command goes on.
_EXPECTED = (0, 3)


@dataclass
class Trial:
    """What happened.

    Attributes:
        job: Name of the job.
        victim: Kind of the process that was to be killed.
        moment_s: Seconds from the start of the job to the kill; None: there was no such process.
        codes: Exit codes of the disturbed run and of those that followed.
        outcome: ``equal``, ``unequal``, ``hung``, ``failed`` or ``missed`` (nothing was killed).
        different: Parts of the result that differ from those of the undisturbed run.
        outlived: Processes that were there ten seconds after their job had ended.
        missed_s: Seconds of a run in which nothing was killed; None otherwise.
        output: The end of the last run's output, where the outcome is not ``equal``.
    """

    job: str
    victim: str
    moment_s: float | None = None
    codes: list[int] = field(default_factory=list)
    outcome: str = "hung"
    different: list[str] = field(default_factory=list)
    outlived: list[str] = field(default_factory=list)
    missed_s: float | None = None
    output: str = ""


def run_undisturbed(job: Job, output: Path) -> tuple[Result, float]:
    """Result of the job, and its seconds.

    Raises:
        RuntimeError: It failed.
    """
    started = time.monotonic()
    process = _start(job, output)
    if _wait(process) != 0:
        raise RuntimeError(f"{job.name} failed undisturbed:\n{_tail(output)}")
    return job.read(output), time.monotonic() - started


def run_trial(
    job: Job, expected: Result, duration_s: float, victim: str, output: Path, dice: random.Random
) -> Trial:
    """Disturb the job once.

    Args:
        job: The job.
        expected: Its undisturbed result.
        duration_s: How long that took; the moment is drawn from it.
        victim: Kind of the process to kill.
        output: A folder of its own.
        dice: Draws the moment, and the process among several.
    """
    trial = Trial(job.name, victim)
    started = time.monotonic()
    process = _start(job, output)
    trial.moment_s = _kill(process, victim, dice.uniform(0, duration_s), dice)
    if trial.moment_s is None:
        trial.outcome = "missed"
        trial.codes.append(_wait(process) or 0)
        trial.missed_s = round(time.monotonic() - started, 1)
        return trial
    if (code := _end(process, trial)) is None:
        return trial
    if victim == "supervisor" and code == -signal.SIGKILL:
        code = None
    while code != 0:
        if code not in (None, *_EXPECTED) or len(trial.codes) >= _MAX_RUNS:
            trial.outcome, trial.output = "failed", _tail(output)
            return trial
        if (code := _end(_start(job, output), trial)) is None:
            return trial
    found = job.read(output)
    trial.different = sorted(key for key in expected.keys() | found if expected.get(key) != found.get(key))
    trial.outcome = "unequal" if trial.different else "equal"
    trial.output = _tail(output) if trial.different else ""
    return trial


def _start(job: Job, output: Path) -> "subprocess.Popen[bytes]":
    output.parent.mkdir(parents=True, exist_ok=True)
    with _log(output).open("ab") as log:
        return subprocess.Popen(
            job.command(output),
            cwd=REPOSITORY,
            env=os.environ | {"RAY_ADDRESS": "local", "PYTHONPATH": str(REPOSITORY)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _kill(
    process: "subprocess.Popen[bytes]", victim: str, moment_s: float, dice: random.Random
) -> float | None:
    """Kill at the moment, or as soon after as there is such a process; the seconds, or None."""
    started = time.monotonic()
    while process.poll() is None:
        passed = time.monotonic() - started
        if passed >= moment_s and (found := find_victim(process.pid, victim, dice)):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.kill()
                return round(passed, 1)
        if passed > LIMIT_S:
            return None
        time.sleep(0.1)
    return None


def _end(process: "subprocess.Popen[bytes]", trial: Trial) -> int | None:
    """Exit code of a run; None where it hangs, and is ended."""
    members = {each.pid: each for each in family(process.pid)}
    deadline = time.monotonic() + LIMIT_S
    while (code := process.poll()) is None and time.monotonic() < deadline:
        members |= {each.pid: each for each in family(process.pid)}
        time.sleep(0.5)
    if code is None:
        for each in members.values():
            with contextlib.suppress(psutil.Error):
                each.kill()
        process.wait()
        return None
    trial.codes.append(code)
    _, alive = psutil.wait_procs(list(members.values()), timeout=_OUTLIVES_S)
    for each in alive:
        with contextlib.suppress(psutil.Error):
            if each.status() != psutil.STATUS_ZOMBIE:
                trial.outlived.append(each.name())
                each.kill()
    return code


def _wait(process: "subprocess.Popen[bytes]") -> int | None:
    try:
        return process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        for each in family(process.pid):
            with contextlib.suppress(psutil.Error):
                each.kill()
        return None


def _log(output: Path) -> Path:
    return output.with_suffix(".log")


def _tail(output: Path) -> str:
    return _log(output).read_text("utf-8", "replace")[-3000:]
