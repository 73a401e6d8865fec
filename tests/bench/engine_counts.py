"""Reads what ``tests.bench.engine_probe`` wrote, and counts."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.conditions import Conditions

Line = list[Any]


@dataclass(frozen=True)
class EngineCounts:
    """The engine's own counters.

    Attributes:
        engine_s: Seconds from the start of the first step to the end of the last.
        worker_cpu_s: CPU seconds of the workers between their first and their last step.
        steps: Number of steps.
        tokens: Generated tokens.
        tokens_per_s: ``tokens`` over ``engine_s``.
        mean_running: Requests that the engine decodes together, averaged over ``engine_s``.
        fill: Share of ``max_num_seqs`` that runs, averaged over the time until the last request is admitted,
            which is the time in which requests are left; None where the first step admits all.
        max_num_seqs: Slots of the engine.
    """

    engine_s: float
    worker_cpu_s: float
    steps: int
    tokens: int
    tokens_per_s: float
    mean_running: float
    fill: float | None
    max_num_seqs: int


class Moments(NamedTuple):
    """When an engine got so far, in seconds since the epoch."""

    vllm_imported: float
    weights_loaded: float
    engine_ready: float
    first_step: float
    first_token: float
    last_token: float


@dataclass(frozen=True)
class EngineRecord:
    """One engine.

    Attributes:
        pid: Of the process of its scheduler.
        worker_pids: Of the processes that compute; the scheduler's own where it computes itself.
        moments: When it got so far.
        conditions: What the engine and its workers ran with.
    """

    pid: int
    worker_pids: frozenset[int]
    moments: Moments
    conditions: Conditions
    _lines: Sequence[Line]
    _worker_lines: Sequence[Sequence[Line]]

    def count(self, since: float = -math.inf, until: float = math.inf) -> EngineCounts:
        """Counters of the steps between two times in seconds since the epoch.

        Raises:
            ValueError: There is no step.
        """
        events = [line for line in self._lines if since <= line[1] <= until and line[0] in _STEP_EVENTS]
        slots = int(_field(self.conditions, "engine", "max_num_seqs"))
        cpu_s = [
            [line[2] for line in lines if line[0] == "executing" and since <= line[1] <= until]
            for lines in self._worker_lines
        ]
        return _count(events, slots, sum(times[-1] - times[0] for times in cpu_s if times))


_STEP_EVENTS = ("scheduled", "updated")


def read_engine(folder: Path) -> EngineRecord:
    """The engine that wrote to a folder.

    Raises:
        ValueError: None did, or several.
    """
    files = {int(path.stem): _read_lines(path) for path in folder.glob("*.jsonl")}
    engines = [pid for pid, lines in files.items() if any(line[0] == "scheduled" for line in lines)]
    if len(engines) != 1:
        raise ValueError(f"{folder}: {len(engines)} engines took steps, not one")
    [pid] = engines
    workers = {
        number: lines for number, lines in files.items() if any(line[0] == "executing" for line in lines)
    }
    if not workers:
        raise ValueError(f"{folder}: no worker of the engine was recorded")
    lines = files[pid]
    worker_lines = list(workers.values())
    return EngineRecord(
        pid,
        frozenset(workers),
        _moments(files.values(), lines, worker_lines),
        {
            "engine": _only(lines, "ready")[2],
            "workers": {
                f"worker {rank}": _only(worker, "conditions")[2] for rank, worker in enumerate(worker_lines)
            },
        },
        lines,
        worker_lines,
    )


def _read_lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _moments(all_lines: Iterable[Sequence[Line]], engine: Sequence[Line], workers: Iterable[Any]) -> Moments:
    tokens = [line[1] for line in engine if line[0] == "updated" and line[3]]
    if not tokens:
        raise ValueError("the engine generated no token")
    return Moments(
        vllm_imported=min(line[1] for lines in all_lines for line in lines if line[0] == "loaded"),
        weights_loaded=max(line[1] for lines in workers for line in lines if line[0] == "weights"),
        engine_ready=_only(engine, "ready")[1],
        first_step=next(line[1] for line in engine if line[0] == "scheduled"),
        first_token=tokens[0],
        last_token=tokens[-1],
    )


def _only(lines: Iterable[Line], kind: str) -> Line:
    return next(line for line in lines if line[0] == kind)


def _field(conditions: Conditions, group: str, name: str) -> Any:
    values: Any = conditions[group]
    return values[name]


def _count(events: Sequence[Line], slots: int, worker_cpu_s: float) -> EngineCounts:
    """Counters of events in the order of their times."""
    updates = [event for event in events if event[0] == "updated"]
    if not updates:
        raise ValueError("the engine took no step")
    admissions = [event[1] for event in events if event[0] == "scheduled" and event[4]]
    begin = events[0][1]
    end = updates[-1][1]
    engine_s = end - begin
    tokens = sum(event[3] for event in updates)
    return EngineCounts(
        engine_s=engine_s,
        worker_cpu_s=worker_cpu_s,
        steps=len(updates),
        tokens=tokens,
        tokens_per_s=tokens / engine_s,
        mean_running=_mean_running(events, begin, end),
        fill=_mean_running(events, begin, admissions[-1]) / slots if admissions[-1] > begin else None,
        max_num_seqs=slots,
    )


def _mean_running(events: Sequence[Line], begin: float, end: float) -> float:
    """Average over time of the running requests, which stay the same from one event to the next."""
    ends = [*(event[1] for event in events[1:]), end]
    area = sum(
        event[2] * max(min(until, end) - event[1], 0.0) for event, until in zip(events, ends, strict=True)
    )
    return area / (end - begin)
