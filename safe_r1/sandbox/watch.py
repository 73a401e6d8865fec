"""The clock of a container, kept outside of it: reads its output and ends the wait where a limit is met.

It runs in the process that started the container, which no process in the container can see or signal. It
looks at the used time and memory 20 times a second; between two looks, each process is bounded by its own
resource limits alone.
"""

import json
import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Literal

from safe_r1.sandbox.usage import TreeUsage

Status = Literal["ok", "failed", "timeout", "memory", "output"]

_LOOK_S = 0.05
_STDERR_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Limits:
    """What one program may use, with all processes that it starts.

    Attributes:
        wall_s: Seconds from the start of the container to its end; the container itself takes about a tenth
            of one.
        cpu_s: Whole seconds of processor time of all its processes together.
        memory_mib: Address space of one process, and memory of all its processes together, in MiB.
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


class Watch:
    """Reads a container's output until it ends or a limit is met.

    Args:
        process: The container, with pipes for its stdout and stderr, and for its stdin where there are calls.
        limits: Of the whole container.
        start: When it was started, by ``time.monotonic``.
        calls: Lines for its stdin, each written when the line of output before it has come; None: its stdin
            is not this object's.
        call_limits: Of the time before each line; None where only the whole is limited.

    Attributes:
        stdout: What it printed, up to the limit.
        stderr_tail: The last 4 KiB of stderr.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        limits: Limits,
        start: float,
        calls: Sequence[str] | None = None,
        call_limits: Limits | None = None,
    ):
        self.stdout = bytearray()
        self.stderr_tail = bytearray()
        self._process = process
        self._limits = limits
        self._usage = TreeUsage(process.pid)
        self._deadline = start + limits.wall_s
        self._calls = list(calls or ())
        self._call_limits = call_limits
        self._num_called = 0
        self._num_lines = 0
        self._unsent = b""
        self._call_start = start
        self._call_cpu_s = 0.0
        self._num_stderr = 0
        self._selector = selectors.DefaultSelector()

    def run(self) -> Status | None:
        """Wait for the end of the output; gives the limit that was met, None where none was."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with self._selector as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            selector.register(self._process.stderr, selectors.EVENT_READ)
            looked = 0.0
            while not self._is_done():
                now = time.monotonic()
                for key, _ in selector.select(max(0.0, min(looked + _LOOK_S, self._deadline) - now)):
                    if key.fileobj is self._process.stdin:
                        self._send()
                    else:
                        self._receive(key.fileobj)  # pyright: ignore[reportArgumentType]
                most = self._limits.output_kib * 1024
                if len(self.stdout) > most or self._num_stderr > most:
                    del self.stdout[most:]
                    return "output"
                # Not after each piece of output, which may be a byte.
                if (now := time.monotonic()) >= min(looked + _LOOK_S, self._deadline):
                    looked = now
                    if limit := self._met_limit(now):
                        return limit
        return None

    def _is_done(self) -> bool:
        return not {self._process.stdout, self._process.stderr} & {
            key.fileobj for key in self._selector.get_map().values()
        }

    def _met_limit(self, now: float) -> Status | None:
        cpu_s = self._usage.cpu_s()
        if now > self._deadline or cpu_s > self._limits.cpu_s:
            return "timeout"
        limits = self._call_limits
        if limits and (now - self._call_start > limits.wall_s or cpu_s - self._call_cpu_s > limits.cpu_s):
            return "timeout"
        most = self._limits.memory_mib << 20
        return "memory" if self._usage.memory_bytes(most) > most else None

    def _receive(self, pipe: IO[bytes]) -> None:
        chunk = os.read(pipe.fileno(), 65536)
        if not chunk:
            self._selector.unregister(pipe)
        elif pipe is self._process.stdout:
            self.stdout += chunk
            self._num_lines += chunk.count(b"\n")
            if self._call_limits and b"\n" in chunk:
                self._call_next()
        else:
            self._num_stderr += len(chunk)
            # The tail alone is kept, but all is counted: endless output has to meet the limit.
            self.stderr_tail = (self.stderr_tail + chunk)[-_STDERR_TAIL_BYTES:]

    def _call_next(self) -> None:
        """Write the next call where all before it were answered; its clocks start."""
        if self._unsent or self._num_lines <= self._num_called:
            return
        self._call_start = time.monotonic()
        self._call_cpu_s = self._usage.cpu_s()
        assert self._process.stdin is not None
        if self._num_called == len(self._calls):
            self._process.stdin.close()
            return
        if self._num_called == 0:
            os.set_blocking(self._process.stdin.fileno(), False)
        self._unsent = json.dumps(self._calls[self._num_called]).encode() + b"\n"
        self._num_called += 1
        self._selector.register(self._process.stdin, selectors.EVENT_WRITE)

    def _send(self) -> None:
        assert self._process.stdin is not None
        try:
            self._unsent = self._unsent[os.write(self._process.stdin.fileno(), self._unsent) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            # It reads no more; its end, or a clock, says what became of it.
            self._unsent = b""
        if not self._unsent:
            self._selector.unregister(self._process.stdin)
            self._call_next()
