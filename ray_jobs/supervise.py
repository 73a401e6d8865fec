"""Runs a job in a child process, whose end this process turns into an exit code.

Ray ends the process of a driver by itself when its node or its head is gone, with an exit code of its own,
and nothing inside that process can prevent it. So the exit code is decided outside of it: the child reports
it before it shuts anything down, and a child that ends without a report was lost. What the job has started
on this machine is a descendant of this process and ends with it.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable

import psutil

from safe_r1.errors import ExitCode

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STOPS = {
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
    # Of a terminal that is closed.
    signal.SIGHUP: ExitCode.TERMINATED,
}
_LOOK_S = 0.5
# One stop may arrive several times, at a process and at its group; a later one means that waiting is over.
_REPEAT_S = 2.0
# Of Ray's shutdown, after the job's end was reported; and of what it has left.
_SHUTDOWN_S = 20.0
_LEFTOVERS_S = 5.0

_report_fd: int | None = None


def supervise(app: Callable[[], object]) -> None:
    """Run a job's command line in a child process, and end this process with its exit code.

    A stop (SIGINT, SIGTERM, SIGHUP unless `nohup` has it ignored) is passed on; a second one, two seconds
    later or more, ends the job at once.
    """
    global _report_fd
    if sys.platform != "linux":
        app()
        return
    reports, report_fd = os.pipe()
    stops = {number for number in _STOPS if number != signal.SIGHUP or not _is_ignored(number)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*stops, signal.SIGCHLD})
    own = os.getpid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child == 0:
        # So that a terminal's Ctrl-C comes once, from the supervisor, and reaches none of Ray's processes.
        os.setpgid(0, 0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != own:
            os._exit(ExitCode.LOST)
        os.close(reports)
        _report_fd = report_fd
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        app()
        return
    supervisor = _Supervisor(child, reports, stops)
    # A signal may also come to a thread of a library, which does not block it, and would end this process.
    for number in stops:
        signal.signal(number, lambda number, _: supervisor.stop(signal.Signals(number)))
    os.close(report_fd)
    os.set_blocking(reports, False)
    code = supervisor.wait()
    with contextlib.suppress(OSError):  # its reader is gone, or its disk is full
        sys.stdout.flush()
    # The modules' own clean-up belongs to the child.
    os._exit(code)


def report_begin(name: str) -> None:
    """The body of a job begins."""
    _report(f"begin {name}")


def report_end(code: int) -> None:
    """The job has ended with this exit code; what follows is shutdown alone."""
    _report(f"end {code}")


def _report(line: str) -> None:
    if _report_fd is not None:
        with contextlib.suppress(OSError):
            os.write(_report_fd, f"{line}\n".encode())


class _Supervisor:
    """Waits for one child."""

    def __init__(self, child: int, reports: int, stops: set[signal.Signals]):
        self._child = child
        self._reports = reports
        self._stops = stops
        self._text = ""
        self._stopped_by: signal.Signals | None = None
        self._stopped_at = 0.0
        self._has_ended = False
        self._reported_at: float | None = None

    def wait(self) -> int:
        """Wait for the child and for what it has started; gives the exit code."""
        status: int | None = None
        while status is None:
            info = signal.sigtimedwait({*self._stops, signal.SIGCHLD}, _LOOK_S)
            if info and info.si_signo in self._stops:
                self.stop(signal.Signals(info.si_signo))
            self._read()
            status = _reap(self._child)
            if self._reported_at and time.monotonic() > self._reported_at + _SHUTDOWN_S:
                self._kill()
        # Its id may be another process's from here on.
        self._has_ended = True
        self._read()
        _end_leftovers()
        return self._decide(status)

    def stop(self, number: signal.Signals) -> None:
        """Pass a stop on to the child; a later one ends it."""
        now = time.monotonic()
        if self._has_ended:
            return
        if self._stopped_by is None:
            self._stopped_by = number
            self._stopped_at = now
            with contextlib.suppress(ProcessLookupError):
                # The job takes two kinds alone.
                os.kill(self._child, signal.SIGTERM if number == signal.SIGHUP else number)
        elif now > self._stopped_at + _REPEAT_S:
            self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._text += os.read(self._reports, 4096).decode()
        if self._reported_at is None and self._find("end"):
            self._reported_at = time.monotonic()

    def _find(self, kind: str) -> str:
        words = (line.split(maxsplit=1) for line in self._text.splitlines())
        return next((rest[0] for first, *rest in words if first == kind and rest), "")

    def _decide(self, status: int) -> int:
        """Exit code of a child that has ended."""
        if reported := self._find("end"):
            return int(reported)
        if self._stopped_by is not None:
            return _STOPS[self._stopped_by]
        ended = os.waitstatus_to_exitcode(status)
        name = self._find("begin")
        if not name:
            # Before the job: a wrong flag, or the help.
            return ended if ended >= 0 else 128 - ended
        how = f"exit code {ended}" if ended >= 0 else signal.Signals(-ended).name
        with contextlib.suppress(OSError):
            print(
                f"{name}: its process or its Ray was lost ({how}); what is finished is kept, the same "
                "command goes on from here",
                flush=True,
            )
        return ExitCode.LOST


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


def _reap(child: int) -> int | None:
    """Reap what has ended, orphans of the job included; gives the child's status where it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid == child:
                found = status
    return found


def _end_leftovers() -> None:
    """End what the job has left: engines whose worker died, processes of a Ray that was killed."""
    start = time.monotonic()
    while left := psutil.Process().children(recursive=True):
        waited_s = time.monotonic() - start
        if waited_s > 2 * _LEFTOVERS_S:
            return  # the kernel does not let go of them, for example of one that waits for a device
        if waited_s > _LEFTOVERS_S:
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        time.sleep(0.1)
        _reap(0)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
