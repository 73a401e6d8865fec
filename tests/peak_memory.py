"""The most memory that a process takes in a block, for tests that run in a process of their own."""

import os
import threading
from pathlib import Path


class PeakMemory:
    """Samples this process's resident memory in the block, every millisecond.

    Attributes:
        added: Bytes at the most, beyond those at the beginning of the block.
    """

    added = 0

    def __enter__(self) -> "PeakMemory":
        self._before = _resident_bytes()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._is_over.wait(0.001):
            self.added = max(self.added, _resident_bytes() - self._before)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
