"""The process of a job and its supervisor: signals, a terminal that is gone, locales, and lost Rays."""

import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest

from ray_jobs.common import Console
from ray_jobs.ray_loss import is_local_head_gone, is_ray_lost
from safe_r1.progress import Progress

REPOSITORY = Path(__file__).parents[2]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the supervisor is Linux's")
# A thread that blocks no signal, as libraries have them; and a process that the job leaves.
_JOB = """
import os, subprocess, sys, threading, time
from ray_jobs import supervise

supervise._LEFTOVERS_S = 2.0
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

def app():
    supervise.report_begin("example")
    left = "import time; print('left', flush=True); time.sleep(60)"
    subprocess.Popen([sys.executable, "-c", left])
    {end}

supervise.supervise(app)
"""


def start(end: str) -> "subprocess.Popen[str]":
    source = _JOB.replace("{end}", end)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", source], env=environment, stdout=subprocess.PIPE, text=True
    )


@LINUX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_end_of_a_job_changes_nothing(number: signal.Signals):
    with start("supervise.report_end(4); os._exit(4)") as job:
        assert job.stdout is not None
        job.stdout.readline()
        job.send_signal(number)
        assert job.wait(60) == 4


@LINUX
@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_terminal_that_is_closed_stops_a_job_unless_it_is_to_go_on(is_ignored: bool):
    """As `nohup` has it."""
    end = (
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(5)); print('ready', flush=True); time.sleep(60); "
        "os._exit(6)"
    )
    handler = signal.SIG_IGN if is_ignored else signal.SIG_DFL
    before = signal.signal(signal.SIGHUP, handler)
    try:
        job = start(f"import signal; {end}")
    finally:
        signal.signal(signal.SIGHUP, before)
    with job:
        assert job.stdout is not None
        while job.stdout.readline() not in ("ready\n", ""):
            pass
        job.send_signal(signal.SIGHUP)
        if is_ignored:
            with pytest.raises(subprocess.TimeoutExpired):
                job.wait(2)
            job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 143


@LINUX
def test_a_loss_that_nobody_reads_has_its_code():
    with start("os._exit(1)") as job:
        assert job.stdout is not None
        job.stdout.readline()
        job.stdout.close()
        assert job.wait(60) == 3


def test_a_terminal_that_is_gone_does_not_end_the_job(tmp_path: Path):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    console = Console(Gone(), tmp_path / "log")
    console.show("a line")
    console.progress(Progress("completions", 1, 2))


@LINUX
def test_a_locale_that_cannot_be_changed_starts_a_process_once_more_and_no_oftener():
    source = "import sys; from safe_r1.language import use_utf8; print('begin', flush=True); use_utf8()"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "LC_ALL": "C"}
    command = [sys.executable, "-X", "utf8=0", "-c", source]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count("begin") <= 2


def test_a_node_that_knows_its_head_by_another_name_is_there(monkeypatch: pytest.MonkeyPatch):
    command = ["/ray/raylet/raylet", "--raylet_socket_name=/s/raylet", "--gcs-address=10.0.0.1:6379"]
    processes = [SimpleNamespace(info={"cmdline": command})]
    monkeypatch.setattr(psutil, "process_iter", lambda fields: processes)
    server = socket.create_server(("127.0.0.1", 0))
    address = f"localhost:{server.getsockname()[1]}"
    node = SimpleNamespace(raylet_socket_name="/s/raylet")
    ray = SimpleNamespace(
        is_initialized=lambda: True,
        get_runtime_context=lambda: SimpleNamespace(gcs_address=address),
        _private=SimpleNamespace(worker=SimpleNamespace(_global_node=node)),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert not is_ray_lost()
    node.raylet_socket_name = "/s/raylet.1"
    assert is_ray_lost()
    node.raylet_socket_name = "/s/raylet"
    server.close()
    assert is_ray_lost()


def test_a_ray_that_is_being_imported_is_not_lost(monkeypatch: pytest.MonkeyPatch):
    # The thread that watches the head looks every two seconds; on a busy machine the import takes longer.
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    assert not is_local_head_gone()
    assert not is_ray_lost()
