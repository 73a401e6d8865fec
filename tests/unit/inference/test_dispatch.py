"""Slots of an engine that are filled while rows are left, by simulation."""

import heapq
import random
from collections import deque

import pytest

from safe_r1.inference.batch import Dispatch, dispatch

NUM_ROWS = 12_000


def filled_share(num_seqs: int, sizes: Dispatch, sigma: float, seed: int = 0) -> float:
    """Mean share of busy slots, from the start until no row waits any more.

    An engine holds ``sizes.batches`` batches; a batch leaves, and the next one comes, when its slowest row
    has ended. Of the rows that it holds, ``num_seqs`` run. Lengths are lognormal.
    """
    rng = random.Random(seed)
    batches = deque(
        [rng.lognormvariate(0, sigma) for _ in range(sizes.rows)] for _ in range(NUM_ROWS // sizes.rows)
    )
    waiting: deque[tuple[int, float]] = deque()
    running: list[tuple[float, int]] = []
    rows_left: dict[int, int] = {}
    now = busy = total = 0.0
    number = 0
    while batches or running:
        while batches and len(rows_left) < sizes.batches:
            number += 1
            batch = batches.popleft()
            rows_left[number] = len(batch)
            waiting.extend((number, length) for length in batch)
        while waiting and len(running) < num_seqs:
            mine, length = waiting.popleft()
            heapq.heappush(running, (now + length, mine))
        end, mine = running[0]
        if batches:
            busy += (end - now) * len(running)
            total += (end - now) * num_seqs
        now = end
        heapq.heappop(running)
        rows_left[mine] -= 1
        if not rows_left[mine]:
            del rows_left[mine]
    return busy / total


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("num_seqs", [16, 64, 256])
def test_slots_are_filled_while_rows_are_left(num_seqs: int, rows: int):
    sizes = dispatch(num_seqs, rows)
    assert filled_share(num_seqs, sizes, sigma=1.0) >= 0.95
    if rows <= 4:
        assert filled_share(num_seqs, sizes, sigma=1.5) >= 0.95


def test_the_simulation_shows_the_fault():
    # As it was: batches of 16 and half as many rows again as there are slots.
    assert 0.3 < filled_share(256, Dispatch(16, 24), sigma=1.0) < 0.55
