"""Gathers finished rows into shards: rows finish one by one, files should be few."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

from safe_r1.errors import SafeR1Error, StorageError

Finished = TypeVar("Finished")


class ShardBuffer(Generic[Finished]):
    """Rows that are written together once they are many or have waited long; a context manager.

    A thread of its own writes rows whose time has come: with long completions no other row may finish for
    many minutes, and a job that is killed should lose one minute at most. Leaving the context writes the
    rest, also after an error or a signal.
    """

    def __init__(self, write: Callable[[Sequence[Finished]], None], max_mib: float, max_age_s: float):
        """Args:
        write: Writes rows as one shard, atomically.
        max_mib: Size of a shard in MiB of text.
        max_age_s: Time in seconds that a finished row waits at most; 0 writes what each ``add`` brings.
        """
        self._write = write
        self._max_bytes = max_mib * 2**20
        self._max_age_s = max_age_s
        self._rows: list[Finished] = []
        self._num_bytes = 0
        self._oldest = 0.0
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._write_old, name="shard-buffer", daemon=True)

    def __enter__(self) -> Self:
        if self._max_age_s > 0:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed.set()
        # An error that is under way is the reason why the job ends: one of the storage must not hide it.
        with self._lock, contextlib.suppress(*(() if error is None else (StorageError,))):
            self._flush()

    def add(self, rows: Sequence[Finished], num_bytes: int) -> None:
        """Take finished rows over; writes a shard where it is time.

        Raises:
            StorageError: A shard could not be written; its rows stay here until the next try.
        """
        with self._lock:
            if not self._rows:
                self._oldest = time.monotonic()
            self._rows.extend(rows)
            self._num_bytes += num_bytes
            if self._num_bytes >= self._max_bytes or self._is_due(0.0):
                self._flush()

    def _is_due(self, tolerance_s: float) -> bool:
        age_s = time.monotonic() - self._oldest
        return bool(self._rows) and age_s >= self._max_age_s - tolerance_s

    def _flush(self) -> None:
        if self._rows:
            self._write(self._rows)
            self._rows = []
            self._num_bytes = 0

    def _write_old(self) -> None:
        period_s = self._max_age_s / 8
        while not self._is_closed.wait(period_s):
            with self._lock:
                if self._is_due(period_s):
                    try:
                        self._flush()
                    except SafeR1Error:
                        # The rows are kept. A storage may come back: the next period tries again, and the
                        # next `add`, or the end, raises what is still wrong.
                        continue
