"""How a job ends whose Ray or process is killed, or which is stopped: its exit code, and what is left.

The job is a small script with the real ``job``, ``supervise`` and, where it says so, a real local Ray.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
BOUND_S = 300.0
SLEEP = "time.sleep(10000)"
PLAIN = """
import asyncio, os, signal, subprocess, sys, time
from ray_jobs.common import job
from ray_jobs.supervise import supervise

def main():
    with job("example") as console:
        # Neither knows that the job ends, as an engine whose worker was killed.
        left = [sys.executable, "-c", "import time; time.sleep(10000)", {mark!r}]
        subprocess.Popen(left, start_new_session=True)
        try:
            console.show("ready")
            {body}
        finally:
            console.show("written")

if __name__ == "__main__":
    supervise(main)
"""
WITH_RAY = """
import sys, time
from ray_jobs.common import job
from ray_jobs.supervise import supervise

def main():
    with job("example") as console:
        from safe_r1.resources import connect
        connect(2)
        import ray

        @ray.remote(num_cpus=1)
        class Worker:
            def work(self):
                time.sleep(1)
                return 1

        worker = Worker.remote()
        ray.get(worker.work.remote())
        console.show("ready")
        while True:
            ray.get(worker.work.remote())

if __name__ == "__main__":
    supervise(main)
"""
TRAINING = """
import pathlib, sys, threading, time
from ray_jobs.common import job
from ray_jobs.supervise import supervise

RUNS = pathlib.Path(sys.argv[0]).parent.resolve() / "runs"

def train():
    RUNS.with_name("begun").touch()
    while True:
        time.sleep(0.1)

def main():
    with job("example") as console:
        from safe_r1.resources import connect
        connect(2)
        from ray.train import RunConfig
        from ray.train.torch import TorchTrainer

        def tell():
            while not RUNS.with_name("begun").exists():
                time.sleep(0.1)
            console.show("ready")

        threading.Thread(target=tell, daemon=True).start()
        TorchTrainer(train, run_config=RunConfig(storage_path=str(RUNS))).fit()

if __name__ == "__main__":
    supervise(main)
"""


class Running:
    """A job that has shown ``ready``."""

    def __init__(self, source: str, folder: Path):
        self.mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
        script = folder / "job.py"
        script.write_text(source.replace("{mark!r}", repr(self.mark)), "utf-8")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            env=os.environ
            | {"PYTHONPATH": str(REPOSITORY), "RAY_ADDRESS": "local", "SAFE_R1_CACHE": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        shown = [line for line in iter(self.process.stdout.readline, "ready\n") if line]
        assert self.process.poll() is None, shown
        self.tree = psutil.Process(self.process.pid).children(recursive=True)

    def find(self, name: str) -> psutil.Process:
        """The process of the job whose command line begins so."""
        [found] = [each for each in self.tree if re.search(name, " ".join(each.cmdline()[:3]))]
        return found

    def end(self) -> tuple[int, str]:
        """Exit code, and what was shown; everything that belonged to the job has ended by then."""
        shown, _ = self.process.communicate(timeout=BOUND_S)
        _, alive = psutil.wait_procs(self.tree, timeout=10)
        assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
        return self.process.returncode, shown


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Running]]:
    """Jobs that are ended with the test."""
    jobs: list[Running] = []
    yield jobs
    for each in jobs:
        for process in (*psutil.Process(os.getpid()).children(recursive=False), *each.tree):
            if process.pid == each.process.pid or process in each.tree:
                try:
                    process.kill()
                except psutil.Error:
                    continue


@pytest.mark.parametrize(
    ("body", "number", "code", "shown"),
    [
        ("time.sleep(10000)", signal.SIGTERM, 143, "the same command goes on from here"),
        ("time.sleep(10000)", signal.SIGINT, 130, "the same command goes on from here"),
        ("asyncio.run(asyncio.sleep(10000))", signal.SIGTERM, 143, "the same command goes on from here"),
        *(
            # As Ray Train does.
            (
                f"signal.signal(signal.SIGINT, lambda *_: sys.exit({ended})); time.sleep(10000)",
                number,
                code,
                "goes on",
            )
            for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130))
            for ended in (0, 1)
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", None, 3, "was lost (SIGKILL)"),
        ("os.abort()", None, 3, "was lost (SIGABRT)"),
        ("os._exit(1)", None, 3, "was lost (exit code 1)"),
        ("os._exit(0)", None, 3, "was lost (exit code 0)"),
        ("raise ValueError('ours')", None, 1, "unexpected error"),
        ("raise ConnectionError from __import__('ray').exceptions.NodeDiedError('x')", None, 3, "NodeDied"),
        ("pass", None, 0, "written"),
    ],
)
def test_a_job_ends_with_one_code_and_leaves_nothing(
    body: str, number: int | None, code: int, shown: str, tmp_path: Path, started: list[Running]
):
    # The script must not end before its tree was looked at.
    job = Running(PLAIN.replace("{body}", body if number else f"time.sleep(5); {body}"), tmp_path)
    started.append(job)
    # The kernel shows a command line a moment after the process has begun.
    deadline = time.monotonic() + 4
    while not (found := any(job.mark in each.cmdline() for each in job.tree)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found
    if number:
        job.process.send_signal(number)
    ended, text = job.end()
    assert (ended, shown in text) == (code, True), text
    if number:
        assert "written" in text


def test_a_job_that_does_not_stop_is_ended_by_a_second_signal(tmp_path: Path, started: list[Running]):
    body = "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    job = Running(
        PLAIN.replace(
            'console.show("ready")\n            {body}', f"{body}console.show('ready'); time.sleep(10000)"
        ),
        tmp_path,
    )
    started.append(job)
    job.process.terminate()
    time.sleep(2.5)
    job.process.terminate()
    assert job.end()[0] == 143


def test_no_process_outlives_a_job_that_is_killed(tmp_path: Path, started: list[Running]):
    job = Running(PLAIN.replace("{body}", "time.sleep(10000)"), tmp_path)
    started.append(job)
    [child] = [each for each in job.tree if "job.py" in " ".join(each.cmdline())]
    job.process.kill()
    job.process.wait(BOUND_S)
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()


@pytest.mark.very_long
@pytest.mark.parametrize("victim", ["raylet/raylet", "gcs/gcs_server", "ray::Worker", "driver"])
def test_a_job_whose_ray_is_killed_was_lost(victim: str, tmp_path: Path, started: list[Running]):
    job = Running(WITH_RAY, tmp_path)
    started.append(job)
    (psutil.Process(job.process.pid).children()[0] if victim == "driver" else job.find(victim)).kill()
    code, text = job.end()
    assert (code, text.count("example: ")) == (3, 1), text
    assert "goes on" in text


@pytest.mark.very_long
def test_a_job_beside_ray_is_stopped_by_sigterm(tmp_path: Path, started: list[Running]):
    job = Running(WITH_RAY, tmp_path)
    started.append(job)
    job.process.terminate()
    code, text = job.end()
    assert (code, "the same command goes on from here" in text) == (143, True), text


@pytest.mark.very_long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_that_is_stopped_ends_as_stopped(
    number: int, code: int, tmp_path: Path, started: list[Running]
):
    job = Running(TRAINING, tmp_path)
    started.append(job)
    job.process.send_signal(number)
    ended, text = job.end()
    assert (ended, "the same command goes on from here" in text) == (code, True), text
