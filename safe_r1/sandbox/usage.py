"""Processor time and memory of a container, read from outside of it.

What is measured belongs to the kernel: a program can neither change nor hide it. Needs no right and no
control group, so that it works in every container that has a ``/proc``.

Source: proc(5), getrusage(2).
"""

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Places in /proc/PID/stat, counted behind the name of the process.
_PARENT = 1
_OWN_TIME = slice(11, 13)
_CHILDREN_TIME = slice(13, 15)
_RESIDENT = 21


class TreeUsage:
    """What the processes below one process have used so far.

    Args:
        pid: The outer process of the container (A of ``child``). Its own time, and that of the container's
            init, its child, are no part of the program's.
    """

    def __init__(self, pid: int):
        self._pid = pid
        self._cpu_s = 0.0

    def cpu_s(self) -> float:
        """Seconds of processor time of all processes of the program, ended ones included."""
        ticks = 0
        for depth, pid in self._descendants():
            fields = _stat(pid)
            if not fields:
                continue
            # A process that was waited for is in its parent's sum; the filter of system calls sees to it that
            # none ends without being waited for.
            ticks += sum(int(field) for field in fields[_CHILDREN_TIME])
            if depth > 1:
                ticks += sum(int(field) for field in fields[_OWN_TIME])
        # A process that ends between two reads is missed by one look, not by the next.
        self._cpu_s = max(self._cpu_s, ticks / _TICKS_PER_S)
        return self._cpu_s

    def memory_bytes(self, limit: int) -> int:
        """Memory of all processes together; shared memory counts once where the sum is above ``limit``."""
        pids = [pid for depth, pid in self._descendants() if depth > 1]
        resident = sum(_resident_bytes(pid) for pid in pids)
        return resident if resident <= limit else sum(_proportional_bytes(pid) for pid in pids)

    def _descendants(self) -> Iterator[tuple[int, int]]:
        """Depth below the outer process, and id, of each process."""
        level = [self._pid]
        depth = 0
        while level:
            depth += 1
            level = [child for pid in level for child in _children(pid)]
            yield from ((depth, pid) for pid in level)


def is_readable() -> bool:
    """True where ``/proc`` shows this process under its own id."""
    fields = _stat(os.getpid())
    return bool(fields) and fields[_PARENT] == str(os.getppid())


def _stat(pid: int) -> list[str]:
    """Fields of the process behind its name; empty where it has ended."""
    try:
        content = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    # The name is the program's choice and may hold spaces and brackets.
    return content.rpartition(b")")[2].decode().split()


def _children(pid: int) -> list[int]:
    found = []
    try:
        # A process is the child of the thread that started it.
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
    except FileNotFoundError:
        # The process has ended, or the kernel does not list children.
        if os.path.exists(f"/proc/{pid}/task"):
            return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(name) == str(pid)]
    except OSError:
        pass
    return [int(child) for child in found]


def _parent(pid: str) -> str:
    fields = _stat(int(pid))
    return fields[_PARENT] if fields else ""


def _resident_bytes(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[_RESIDENT]) * _PAGE_BYTES if fields else 0


def _proportional_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    except OSError:
        return _resident_bytes(pid)
