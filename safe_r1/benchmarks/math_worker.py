"""Compares mathematical results in a process of its own, which is killed where it takes too long.

As a program it answers each line ``[result, answer]`` of JSON with a line ``[is_correct, found,
explanation]``, after a first line that says that it is ready.
"""

import contextlib
import functools
import json
import os
import resource
import select
import subprocess
import sys
import threading
import time

from safe_r1.benchmarks.base import Score

_LIMIT_S = 30.0
# With the imports, on a machine that is busy with other things.
_START_S = 300.0
_MEMORY_BYTES = 4 << 30


class MathWorker:
    """One such process, started with the first question, and anew after one that it did not answer."""

    def __init__(self, limit_s: float = _LIMIT_S):
        """Args:
        limit_s: Longest time for one answer in seconds.
        """
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def is_equal(self, result: str, answer: str) -> Score | None:
        """See ``math_answers.is_equal``; None where it takes more than the limit of time or 4 GiB."""
        with self._lock:
            try:
                process = self._process or self._start()
                assert process.stdin is not None
                process.stdin.write(json.dumps([result, answer]).encode() + b"\n")
                process.stdin.flush()
                is_correct, found, explanation = json.loads(_read_line(process, self._limit_s))
            except (TimeoutError, OSError):
                self.close()
                return None
            return Score(is_correct, found, explanation)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            self._process = None

    def _start(self) -> "subprocess.Popen[bytes]":
        # Ends with this process, as its stdin then does.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        _read_line(self._process, _START_S)
        return self._process


@functools.cache
def math_worker() -> MathWorker:
    """The one of this process."""
    return MathWorker()


def _read_line(process: "subprocess.Popen[bytes]", limit_s: float) -> bytes:
    """The next line of a process.

    Raises:
        TimeoutError: There is none in that time.
        OSError: The process has ended.
    """
    assert process.stdout is not None
    number = process.stdout.fileno()
    deadline = time.monotonic() + limit_s
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([number], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        part = os.read(number, 1 << 16)
        if not part:
            raise OSError("the process has ended")
        line += part
    return line


def main() -> None:
    """Answer the lines of stdin."""
    from safe_r1.benchmarks.math_answers import is_equal

    # What libraries print must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        try:
            score = is_equal(*json.loads(line))
        except MemoryError:
            # Its caller starts another process: what is left of this one's memory is not known.
            os._exit(1)
        except Exception as error:  # noqa: BLE001 - the parser of mathematics raises anything
            score = Score(False, None, f"not readable as mathematics: {type(error).__name__}")
        print(json.dumps([score.is_correct, score.found, score.explanation]), file=answers, flush=True)


if __name__ == "__main__":
    main()
