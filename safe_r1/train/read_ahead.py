"""Micro-batches of the next step, read and collated while the current one is trained."""

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from safe_r1.train.batches import Batch

MakeBatches = Callable[[int], list[Batch]]
"""This worker's micro-batches of a step."""


class ReadAhead:
    """Reads one step ahead in a thread of its own.

    Which batches a step has follows from its number alone, so reading ahead changes nothing but the time.

    Args:
        make: Called in the thread, for one step at a time.
        num_steps: Steps from here on are not read.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, make: MakeBatches, num_steps: int, device: str):
        self._make = make
        self._num_steps = num_steps
        # A new thread would use the first GPU of the machine, not this worker's.
        use_gpu = None
        if device == "cuda":
            use_gpu = functools.partial(torch.cuda.set_device, torch.cuda.current_device())
        self._thread = ThreadPoolExecutor(1, "read-ahead", initializer=use_gpu)
        self._pending: dict[int, Future[list[Batch]]] = {}

    def read(self, step: int) -> list[Batch]:
        """The micro-batches of a step; reading those of the next one begins.

        An error in the thread is raised here, by the step whose batches cannot be read.
        """
        batches = self._submitted(step).result()
        self._pending.clear()
        if step + 1 < self._num_steps:
            self._submitted(step + 1)
        return batches

    def close(self) -> None:
        """Wait until nothing is read any more."""
        self._thread.shutdown(cancel_futures=True)

    def _submitted(self, step: int) -> "Future[list[Batch]]":
        if step not in self._pending:
            self._pending[step] = self._thread.submit(self._make, step)
        return self._pending[step]
