"""Checking answers that have one right result, in Ray's workers that can be killed.

Whatever a model writes is compared or run there: an answer that takes the check more time or memory than it
may have is wrong, and takes nothing else down.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from safe_r1.benchmarks.base import Score
from safe_r1.schema import Sample

_MATH_LIMIT_S = 30.0
# A program's tests have limits of their own; this one only catches what those do not.
_CODE_LIMIT_S = 900.0
_MAX_MEMORY_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Check:
    """One answer that waits to be checked."""

    sample: Sample
    answer: str

    @property
    def limit_s(self) -> float:
        """Longest time that the check may take."""
        return _CODE_LIMIT_S if self.sample.task == "code" else _MATH_LIMIT_S


class Checker:
    """Checks one answer after another; runs as an actor."""

    def __init__(self) -> None:
        import resource

        # Not the address space, which holds Ray's shared memory: what this process itself writes to.
        resource.setrlimit(resource.RLIMIT_DATA, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))

    def check(self, check: Check) -> Score:
        """The score of an answer."""
        if check.sample.task == "code":
            from safe_r1.benchmarks.livecodebench import check_code

            return check_code(check.sample, check.answer)
        from safe_r1.benchmarks.math_answers import check_math

        try:
            return check_math(check.sample, check.answer)
        except MemoryError:
            return Score(False, None, "the check ran out of memory")
        except Exception as error:  # noqa: BLE001 - the parser of mathematics raises anything on what models write
            return Score(False, None, f"not readable as mathematics: {type(error).__name__}")


def run_checks(
    checks: Sequence[Check], num_workers: int, done: Callable[[int, Score], None]
) -> Iterator[int]:
    """Check all answers, as many at once as there are workers; yields the number that became ready together.

    Args:
        checks: The answers.
        num_workers: Actors of one CPU each.
        done: Is told the place and the score of each.
    """
    import ray
    from ray.exceptions import RayActorError

    make: Any = ray.remote(num_cpus=1, max_restarts=0)(Checker)
    waiting = list(reversed(range(len(checks))))
    idle = [make.remote() for _ in range(max(1, min(num_workers, len(checks))))]
    running: dict[Any, tuple[int, Any, float]] = {}
    while waiting or running:
        while waiting and idle:
            place, actor = waiting.pop(), idle.pop()
            running[actor.check.remote(checks[place])] = (
                place,
                actor,
                time.monotonic() + checks[place].limit_s,
            )
        next_end = min(end for _, _, end in running.values())
        ready, _ = ray.wait(list(running), timeout=max(0.0, next_end - time.monotonic()))
        late = (
            []
            if ready
            else [reference for reference, (*_, end) in running.items() if end <= time.monotonic()]
        )
        for reference in [*ready, *late]:
            place, actor, _ = running.pop(reference)
            try:
                score: Score | None = ray.get(reference) if reference in ready else None  # pyright: ignore[reportAssignmentType]
            except RayActorError:
                score = None
            if score is None:
                ray.kill(actor)
                score = Score(False, None, f"the check died or took more than {checks[place].limit_s:g} s")
                actor = make.remote()
            done(place, score)
            idle.append(actor)
        yield len(ready) + len(late)
    for actor in idle:
        ray.kill(actor)
