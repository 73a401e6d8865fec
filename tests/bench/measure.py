"""Figures of a comparison from the measurements of its runs."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_EDGE = 0.1

# See ``compare``; the sides are keys of their own.
Comparison = dict[str, Any]


@dataclass(frozen=True)
class Timings:
    """One run of one side.

    Attributes:
        wall_s: Seconds of the whole process, with the start of the engine.
        tokens: Generated tokens.
        steady_tokens_per_s: See ``steady_tokens_per_s``; None for a side without times of single rows.
        parts_s: Seconds that the side measured itself, by name.
    """

    wall_s: float
    tokens: int
    steady_tokens_per_s: float | None
    parts_s: dict[str, float]


def steady_tokens_per_s(finishes: Sequence[tuple[float, int]]) -> float:
    """Output speed of a warm, full engine: over the rows between the first and the last tenth to finish.

    The same definition for both sides: it leaves out the start, the filling of the engine, and the tail in
    which the last few rows run alone.

    Args:
        finishes: For each row, when it finished in seconds (any origin) and its number of generated tokens.

    Raises:
        ValueError: Too few rows, or all of them finished at once.
    """
    rows = sorted(finishes)
    first, last = round(len(rows) * _EDGE), round(len(rows) * (1 - _EDGE)) - 1
    if len(rows) < 20 or rows[first][0] == rows[last][0]:
        raise ValueError(
            f"{len(rows)} rows finished too close together to measure a steady speed; take more rows"
        )
    begin, end = rows[first][0], rows[last][0]
    return sum(tokens for at, tokens in rows if begin < at <= end) / (end - begin)


def compare(ours: Sequence[Timings], theirs: Sequence[Timings], name: str) -> Comparison:
    """Medians of two sides and of their ratios, pair by pair.

    Args:
        ours: This job's runs, in the order of the pairs.
        theirs: The other side's.
        name: The other side's name.

    Returns:
        ``ratio_wall`` is our time over theirs (below 1: ours is faster), ``ratio_steady`` our speed over
        theirs (above 1: ours is faster; None without steady speeds).
    """
    pairs = list(zip(ours, theirs, strict=True))
    speeds = [(a.steady_tokens_per_s, b.steady_tokens_per_s) for a, b in pairs]
    steady = [a / b for a, b in speeds if a and b]
    return {
        "num_pairs": len(pairs),
        "ratio_wall": statistics.median(a.wall_s / b.wall_s for a, b in pairs),
        "ratio_steady": statistics.median(steady) if len(steady) == len(pairs) else None,
        "job": _summary(ours),
        name: _summary(theirs),
    }


def _summary(runs: Sequence[Timings]) -> dict[str, object]:
    steady = [run.steady_tokens_per_s for run in runs if run.steady_tokens_per_s]
    return {
        "median_wall_s": statistics.median(run.wall_s for run in runs),
        "median_steady_tokens_per_s": statistics.median(steady) if steady else None,
        "runs": [asdict(run) for run in runs],
    }
