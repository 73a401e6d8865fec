"""Figures of a comparison from the measurements of its runs."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.conditions import Conditions
from tests.bench.engine_counts import EngineCounts, EngineRecord
from tests.bench.processes import Finished, Watched

# See ``compare``; the sides are keys of their own.
Comparison = dict[str, Any]


@dataclass(frozen=True)
class Timings:
    """One run of one side.

    Attributes:
        wall_s: Seconds of the whole process, with the start of the engine.
        engine: The engine's own counters.
        timeline_s: Seconds from the start of the process to each moment, in order.
        start_cpu_s: CPU seconds until the first token, by kind of process.
        cpu_s: CPU seconds of the whole run, by kind of process.
        conditions: What the engine ran with.
    """

    wall_s: float
    engine: EngineCounts
    timeline_s: Mapping[str, float]
    start_cpu_s: Mapping[str, float]
    cpu_s: Mapping[str, float]
    conditions: Conditions


def measure(finished: Finished, engine: EngineRecord) -> Timings:
    """Timings of a side that has ended, and whose engine was probed."""
    moments = engine.moments
    end = finished.started + finished.wall_s
    return Timings(
        finished.wall_s,
        engine.count(),
        _timeline(finished, engine),
        _cpu_by_kind(finished, engine, moments.first_token),
        _cpu_by_kind(finished, engine, end),
        engine.conditions,
    )


def _timeline(finished: Finished, engine: EngineRecord) -> dict[str, float]:
    processes = finished.processes
    # The system counts the starts of processes from a boot time in whole seconds.
    origin = processes[finished.pid].created
    created = [process.created for process in processes.values() if process.name == "raylet"]
    seconds = {"raylet_process": min(created) - origin} if created else {}
    if scheduler := processes.get(engine.pid):
        # The process that starts the engine: with Ray an actor, else the side itself.
        owner = processes.get(scheduler.parent)
        seconds |= {"engine_owner_process": owner.created - origin} if owner else {}
        seconds["engine_process"] = scheduler.created - origin
    seconds |= {name: at - finished.started for name, at in engine.moments._asdict().items()}
    seconds["end"] = finished.wall_s
    return {name: round(at, 2) for name, at in sorted(seconds.items(), key=lambda item: item[1])}


def _cpu_by_kind(finished: Finished, engine: EngineRecord, until: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for pid, process in finished.processes.items():
        kind = _kind(pid, process, finished, engine)
        found[kind] = found.get(kind, 0.0) + process.cpu_until(until)
    return {kind: round(cpu_s, 1) for kind, cpu_s in sorted(found.items())}


def _kind(pid: int, process: Watched, finished: Finished, engine: EngineRecord) -> str:
    scheduler = finished.processes.get(engine.pid)
    if pid == finished.pid:
        return "side"
    if pid == engine.pid or pid in engine.worker_pids:
        return "engine"
    if scheduler and pid == scheduler.parent:
        return "engine_owner"
    return process.name.split("(")[0]


def compare(ours: Sequence[Timings], theirs: Sequence[Timings], name: str) -> Comparison:
    """Medians of two sides and of their ratios, pair by pair.

    Args:
        ours: This job's runs, in the order of the pairs.
        theirs: The other side's.
        name: The other side's name.

    Returns:
        ``ratio_wall`` is our time over theirs (below 1: ours is faster), ``ratio_engine`` our tokens per
        second of engine time over theirs (above 1: ours is faster), ``ratio_worker_cpu`` our tokens per CPU
        second of the engine's workers over theirs, which other work on the machine disturbs less, and
        ``later_first_token_s`` how much later our first token came.
    """
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "num_pairs": len(pairs),
        "ratio_wall": statistics.median(a.wall_s / b.wall_s for a, b in pairs),
        "ratio_engine": statistics.median(a.engine.tokens_per_s / b.engine.tokens_per_s for a, b in pairs),
        "ratio_worker_cpu": statistics.median(_per_cpu_s(a) / _per_cpu_s(b) for a, b in pairs),
        "later_first_token_s": statistics.median(
            a.timeline_s["first_token"] - b.timeline_s["first_token"] for a, b in pairs
        ),
        "job": _summary(ours),
        name: _summary(theirs),
    }


def _per_cpu_s(run: Timings) -> float:
    return run.engine.tokens / max(run.engine.worker_cpu_s, 0.01)


def _summary(runs: Sequence[Timings]) -> dict[str, object]:
    fills = [run.engine.fill for run in runs if run.engine.fill is not None]
    return {
        "median_wall_s": statistics.median(run.wall_s for run in runs),
        "median_engine_tokens_per_s": statistics.median(run.engine.tokens_per_s for run in runs),
        "median_fill": statistics.median(fills) if fills else None,
        "runs": [asdict(run) for run in runs],
    }
