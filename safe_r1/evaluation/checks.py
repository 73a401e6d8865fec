"""Scores answers in Ray workers that are killed when one takes too long.

What a model wrote is compared or run there: an answer whose scoring takes more time or memory than the
benchmark allows is wrong, and no other answer is affected.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safe_r1.benchmarks import Benchmark, Score
from safe_r1.errors import IntegrityError
from safe_r1.schema import Sample

if TYPE_CHECKING:
    import ray

_MAX_MEMORY_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Check:
    """One answer that waits to be scored."""

    benchmark: Benchmark
    sample: Sample
    repeat: int
    answer: str

    @property
    def limit_s(self) -> float:
        """Longest time that scoring may take in seconds."""
        return self.benchmark.score_limit_s or float("inf")


class Checker:
    """Scores one answer after another; runs as an actor."""

    def __init__(self) -> None:
        import resource

        # Not the address space, which includes Ray's shared memory, but what this process itself allocates.
        resource.setrlimit(resource.RLIMIT_DATA, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))

    def check(self, check: Check) -> Score:
        """The score of an answer.

        Raises:
            IntegrityError: The benchmark leaves the answer to a judge although it has a scoring limit.
        """
        try:
            score = check.benchmark.score(check.sample, check.repeat, check.answer)
        except MemoryError:
            return Score(False, None, "the check ran out of memory")
        if score is None:
            raise IntegrityError(
                f"{check.benchmark.name}: no score and no judge for {check.sample.sample_id}"
            )
        return score


@dataclass(frozen=True)
class _Running:
    """A check in progress: its position among the checks, its worker, and its deadline."""

    position: int
    worker: Any
    deadline: float


def run_checks(
    checks: Sequence[Check], num_workers: int, done: Callable[[int, Score], None]
) -> Iterator[int]:
    """Score all answers, as many at once as there are workers; yields how many were finished together.

    Args:
        checks: The answers.
        num_workers: Actors of one CPU each.
        done: Called with the position in ``checks`` and the score of each.
    """
    import ray

    # No restarts: an answer that kills its worker would kill the next one as well.
    start_worker: Any = ray.remote(num_cpus=1, max_restarts=0)(Checker)
    waiting = list(reversed(range(len(checks))))
    idle = [start_worker.remote() for _ in range(max(1, min(num_workers, len(checks))))]
    running: dict[ray.ObjectRef, _Running] = {}
    while waiting or running:
        while waiting and idle:
            position = waiting.pop()
            worker = idle.pop()
            deadline = time.monotonic() + checks[position].limit_s
            running[worker.check.remote(checks[position])] = _Running(position, worker, deadline)
        finished = _next_finished(running)
        for reference, score in finished.items():
            check = running.pop(reference)
            if score is None:
                # Inside a C library a worker cannot be interrupted; only its process can be ended.
                ray.kill(check.worker)
                limit_s = checks[check.position].limit_s
                score = Score(False, None, f"the check died or took more than {limit_s:g} s")
                idle.append(start_worker.remote())
            else:
                idle.append(check.worker)
            done(check.position, score)
        yield len(finished)
    for worker in idle:
        ray.kill(worker)


def _next_finished(running: Mapping["ray.ObjectRef", _Running]) -> dict["ray.ObjectRef", Score | None]:
    """Wait for the next checks that finish or pass their deadline; None for a dead or late one."""
    import ray
    from ray.exceptions import RayActorError

    next_deadline = min(check.deadline for check in running.values())
    timeout_s = None if math.isinf(next_deadline) else max(0.0, next_deadline - time.monotonic())
    ready, _ = ray.wait(list(running), timeout=timeout_s)
    if not ready:
        now = time.monotonic()
        return {reference: None for reference, check in running.items() if check.deadline <= now}
    scores: dict[ray.ObjectRef, Score | None] = {}
    for reference in ready:
        try:
            scores[reference] = ray.get(reference)
        except RayActorError:
            scores[reference] = None
    return scores
