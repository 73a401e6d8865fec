"""Runs one untrusted Python program in a container of its own, without root and without a container service.

Contained: the program sees a new root with ``/usr``, the interpreter and its site-packages, all read-only, an
empty ``/tmp`` that is deleted after it, ``/dev/{null,zero,urandom}`` and nothing else: no home folder, no run
folder, no ``/proc``, no ``/etc``, no other process, no network interface. It may open no socket of any kind,
not even a pair within itself. It has no capability and cannot get one. Its environment is fixed. Every
process that it starts ends with it.

Limited from outside (``watch``): wall time, and processor time and memory of all its processes together,
whatever it does with signals, timers and its own resource limits. How it ended is told by the exit code of
the container, in whose choice the program has no part; its output is only an answer.

Not hidden or not bounded: what lies in ``/usr`` and in the interpreter's own folders (without ``safe_r1``);
the names of these folders; the machine's clock, number of cores, kernel version and load. Memory is looked at
20 times a second; between two looks it may reach ``num_processes`` times ``memory_mib``. The kernel itself is
shared: this keeps a careless or cheating program in, and an attack on the kernel only as well as the kernel
does.

Needs Linux 5.14 on x86_64 or aarch64 with user namespaces (as root or as an ordinary user); see
``check_sandbox``.
"""

import fcntl
import functools
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safe_r1.errors import SandboxError
from safe_r1.sandbox import child
from safe_r1.sandbox.plan import MACHINES, Plan, call_filter
from safe_r1.sandbox.usage import is_readable
from safe_r1.sandbox.watch import Limits, Status, Watch

__all__ = ["Limits", "Outcome", "Status", "check_sandbox", "run_calls", "run_program"]

_PROGRAM = "/program.py"
_PACKAGE = Path(__file__).parents[1]
_GRACE_S = 5.0
_ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin",
    # Otherwise numpy starts a thread a core, each with memory of its own, and fails at the limits.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
_REMEDY = (
    "run on Linux 5.14 or newer where this user may make user namespaces (sysctl "
    "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0, "
    "user.max_user_namespaces above 0; a container needs --security-opt seccomp=unconfined or --privileged)"
)


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        status: ``ok`` for exit code 0; ``timeout``, ``memory``, ``output`` for the limit it met; ``failed``
            for the rest.
        stdout: What it printed, up to the limit; bytes that are no UTF-8 are replaced.
        stderr_tail: The last 4 KiB of stderr.
        wall_s: Seconds it took.
    """

    status: Status
    stdout: str
    stderr_tail: str
    wall_s: float


def run_program(source: str, stdin: str, limits: Limits | None = None) -> Outcome:
    """Run a Python program in a container; returns when all of its processes have ended.

    Args:
        source: The program; it runs as ``__main__`` with this interpreter.
        stdin: Its standard input, a file that ends.
        limits: None for the defaults.

    Raises:
        SandboxError: This machine cannot contain it; the program has not run.
    """
    check_sandbox()
    return _run(source, stdin, limits or Limits())


def run_calls(source: str, calls: Sequence[str], limits: Limits, call_limits: Limits) -> Outcome:
    """Run a Python program that answers calls one after the other, each with its own clocks.

    The program prints a line when it is ready, then reads one JSON text a line from its standard input and
    prints a line for each. It gets a call only after it has answered the one before, so that the time of one
    cannot be spent on another.

    Args:
        source: As in ``run_program``.
        calls: Texts of the calls.
        limits: Of the whole program.
        call_limits: Wall and processor time until it is ready, and of each call; the rest is not read.

    Raises:
        SandboxError: This machine cannot contain it; the program has not run.
    """
    check_sandbox()
    return _run(source, None, limits, calls, call_limits)


@functools.cache
def check_sandbox() -> None:
    """Check, once in each process, that programs are contained: a probe tries what must be refused.

    Raises:
        SandboxError: They are not; the message says why and what to do.
    """
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        raise SandboxError(
            f"untrusted programs cannot be contained on {sys.platform} {platform.machine()}; {_REMEDY}"
        )
    if not is_readable():
        raise SandboxError(
            "untrusted programs cannot be limited here: /proc does not show this process under its own id; "
            "mount /proc of this process namespace"
        )
    outcome = _run(_PROBE, "", Limits(num_processes=4))
    if outcome.status != "ok" or outcome.stdout.strip() != "contained":
        found = " ".join((outcome.stdout.strip() or outcome.stderr_tail).split()[-30:]) or outcome.status
        raise SandboxError(
            f"untrusted programs cannot be contained here (the probe says: {found}); {_REMEDY}"
        )


_PROBE = """
import os, socket, time
def is_refused(attempt):
    try:
        attempt()
    except OSError:
        return True
def start_too_many():
    for _ in range(8):
        if os.fork() == 0:
            time.sleep(60)
checks = {
    "files": not set(os.listdir("/")) & {"home", "etc/passwd", "proc", "sys", "var", "run"},
    "root": is_refused(lambda: os.chroot("/tmp")),
    "writes": is_refused(lambda: open("/probe", "w")),
    "network": is_refused(socket.socket),
    "processes": is_refused(start_too_many),
}
failed = [name for name, passed in checks.items() if not passed]
print("not contained: " + ", ".join(failed) if failed else "contained")
"""


def _run(
    source: str,
    stdin: str | None,
    limits: Limits,
    calls: Sequence[str] | None = None,
    call_limits: Limits | None = None,
) -> Outcome:
    start = time.monotonic()
    process = _start(source, stdin, limits)
    watch = Watch(process, limits, start, calls, call_limits)
    met_limit: Status | None = "timeout"
    try:
        met_limit = watch.run()
    finally:
        # The pipes end with the container, whose outer process holds them too.
        code = _end(process, at_once=met_limit is not None)
    errors = watch.stderr_tail.decode(errors="replace")
    status = met_limit or child.EXIT_CODES.get(code)
    if status is None:
        raise SandboxError(
            f"an untrusted program cannot be contained here ({errors or f'exit code {code}'}); {_REMEDY}"
        )
    # Python reports the memory limit by this error on the last line; text of the program may only precede it.
    if status == "failed" and re.search(r"^\S*MemoryError\b.*\Z", errors.strip(), re.MULTILINE):
        status = "memory"
    return Outcome(status, watch.stdout.decode(errors="replace"), errors, time.monotonic() - start)


def _start(source: str, stdin: str | None, limits: Limits) -> subprocess.Popen[bytes]:
    """Start a container; ``stdin`` None makes it a pipe."""
    source_fd = _sealed(source)
    stdin_fd = subprocess.PIPE if stdin is None else _sealed(stdin)
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", child.__file__, json.dumps(_plan(limits, source_fd))],
            stdin=stdin_fd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(source_fd,),
            env={},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxError(f"an untrusted program cannot be started ({error}); {_REMEDY}") from error
    finally:
        os.close(source_fd)
        if stdin_fd != subprocess.PIPE:
            os.close(stdin_fd)


def _plan(limits: Limits, source_fd: int) -> Plan:
    """What the inner half needs to know."""
    machine = MACHINES[platform.machine()]
    return {
        "cpu_s": limits.cpu_s,
        "memory_mib": limits.memory_mib,
        "num_processes": limits.num_processes,
        "file_mib": limits.file_mib,
        "argv": [sys.executable, "-I", "-B", "-X", "utf8", _PROGRAM],
        "binds": _binds(),
        "call_filter": call_filter(machine),
        "environment": _ENVIRONMENT,
        # An installed package would show the benchmarks' own answers.
        "hidden": [str(_PACKAGE)],
        "parent": os.getpid(),
        "pivot_root": machine.pivot_root,
        "program": _PROGRAM,
        "source_fd": source_fd,
    }


@functools.cache
def _binds() -> list[tuple[str, str]]:
    """Source and place of everything that the program may read, without what lies in another entry."""
    places = {"/usr": "/usr"}
    for folder in (sys.base_prefix, sys.prefix):
        # An interpreter may refer to its folder by a link and by its real name.
        places |= {folder: os.path.realpath(folder), os.path.realpath(folder): os.path.realpath(folder)}
    outer = [
        place
        for place in sorted(places)
        if not any(Path(other) in Path(place).parents for other in places if other != place)
    ]
    files = ["/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom"]
    return [(places[place], place) for place in outer] + [(place, place) for place in files]


def _sealed(text: str) -> int:
    """A file in memory that its reader cannot change."""
    number = os.memfd_create("input", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    with open(number, "wb", closefd=False) as file:
        file.write(text.encode(errors="replace"))
    os.lseek(number, 0, os.SEEK_SET)
    fcntl.fcntl(number, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return number


def _end(process: subprocess.Popen[bytes], *, at_once: bool) -> int:
    """Wait for the container, or end it at once, and give its exit code."""
    with process:
        if not at_once:
            try:
                return process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                pass
        process.terminate()
        try:
            return process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
