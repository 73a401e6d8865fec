"""Runs one untrusted Python program in a container of its own, without root and without a container service.

Contained: the program sees a new root with ``/usr``, the interpreter and its site-packages, all read-only, an
empty ``/tmp`` that is deleted after it, ``/dev/{null,zero,urandom}`` and nothing else: no home folder, no run
folder, no ``/proc``, no ``/etc``, no other process, no network interface. It may open no socket of any kind.
It has no capability and cannot get one. Its environment is fixed. Every process that it starts ends with it.

Not hidden or not bounded: what lies in ``/usr`` and in the interpreter's own folders (without ``safe_r1``);
the names of these folders; the machine's clock, number of cores, kernel version and load. Memory and
processor time are limits of one process; together it may use ``num_processes`` times as much (within
``wall_s``). The kernel itself is shared: this keeps a careless or cheating program in, and an attack on the
kernel only as well as the kernel does.

Needs Linux 5.14 on x86_64 or aarch64 with user namespaces (as root or as an ordinary user); see
``check_sandbox``.
"""

import fcntl
import functools
import json
import os
import platform
import re
import selectors
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from safe_r1.errors import SandboxError
from safe_r1.sandbox import child
from safe_r1.sandbox.plan import MACHINES, Plan, call_filter

Status = Literal["ok", "failed", "timeout", "memory", "output"]

_PROGRAM = "/program.py"
_PACKAGE = Path(__file__).parents[1]
_STDERR_TAIL_BYTES = 4096
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
class Limits:
    """What one program may use.

    Attributes:
        wall_s: Seconds from the start of the container to its end; the container itself takes about a tenth
            of one.
        cpu_s: Whole seconds of processor time of one process.
        memory_mib: Address space of one process in MiB.
        output_kib: Longest stdout, and longest stderr, in KiB.
        num_processes: Processes and threads at one time, the program itself included.
        file_mib: Size of the throw-away folder in MiB.
    """

    wall_s: float = 15.0
    cpu_s: int = 6
    memory_mib: int = 2048
    output_kib: int = 16 * 1024
    num_processes: int = 4
    file_mib: int = 16


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


def _run(source: str, stdin: str, limits: Limits) -> Outcome:
    start = time.monotonic()
    source_fd = _sealed(source)
    stdin_fd = _sealed(stdin)
    try:
        process = subprocess.Popen(
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
        os.close(stdin_fd)
    met_limit: Status | None = "timeout"
    try:
        met_limit, stdout, stderr_tail = _collect(process, limits, start + limits.wall_s)
    finally:
        # The pipes end with the container, whose outer process holds them too.
        code = _end(process, at_once=met_limit is not None)
    errors = stderr_tail.decode(errors="replace")
    status = met_limit or child.EXIT_CODES.get(code)
    if status is None:
        raise SandboxError(
            f"an untrusted program cannot be contained here ({errors or f'exit code {code}'}); {_REMEDY}"
        )
    # Python reports the memory limit by this error on the last line; text of the program may only precede it.
    if status == "failed" and re.search(r"^\S*MemoryError\b.*\Z", errors.strip(), re.MULTILINE):
        status = "memory"
    return Outcome(status, stdout.decode(errors="replace"), errors, time.monotonic() - start)


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


def _collect(
    process: subprocess.Popen[bytes], limits: Limits, deadline: float
) -> tuple[Status | None, bytes, bytes]:
    """Read both pipes until they end or a limit is met: the limit (or None), stdout, the tail of stderr."""
    assert process.stdout is not None
    assert process.stderr is not None
    most = limits.output_kib * 1024
    stdout = bytearray()
    stderr = bytearray()
    num_stderr = 0
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map():
            events = selector.select(max(0.0, deadline - time.monotonic()))
            if not events or time.monotonic() > deadline:
                return "timeout", bytes(stdout), bytes(stderr)
            for key, _ in events:
                pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]
                chunk = os.read(pipe.fileno(), 65536)
                if not chunk:
                    selector.unregister(pipe)
                elif pipe is process.stdout:
                    stdout += chunk
                else:
                    num_stderr += len(chunk)
                    # The tail alone is kept, but all is counted: endless output has to meet the limit.
                    stderr = (stderr + chunk)[-_STDERR_TAIL_BYTES:]
            if len(stdout) > most or num_stderr > most:
                return "output", bytes(stdout[:most]), bytes(stderr)
    return None, bytes(stdout), bytes(stderr)


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
