"""The questions whose label changed from one variant to another, each way, to be read side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safe_r1.compare.load import Run
from safe_r1.metrics.rows import ScoredRow
from safe_r1.report.embed import row_label, row_status
from safe_r1.report.text import printable

MAX_SHOWN = 1_000
"""Flips of one pair on one benchmark that the page holds; ``flips.csv`` has all."""
_MAX_CHARS = 6_000


@dataclass(frozen=True)
class Flip:
    """One completion of a question that was scored for both, with another label or degree."""

    first: str
    second: str
    benchmark: str
    before: ScoredRow
    after: ScoredRow

    @property
    def direction(self) -> str:
        """``up`` where the degree rose (right, or a stronger refusal), ``down`` where it fell, else ``same``."""
        before, after = self.before.answer.degree or 0, self.after.answer.degree or 0
        return "up" if after > before else "down" if after < before else "same"


def find_flips(runs: Sequence[Run], pairs: Sequence[tuple[str, str]]) -> list[Flip]:
    """All flips between the pairs of variants, in the order of the questions."""
    by_place = {(run.variant, run.benchmark): run for run in runs}
    flips = []
    for first, second in pairs:
        for benchmark in dict.fromkeys(run.benchmark for run in runs):
            before, after = by_place.get((first, benchmark)), by_place.get((second, benchmark))
            if not before or not after:
                continue
            rows = {(row.question_id, row.completion.repeat): row for row in after.rows}
            for row in before.rows:
                other = rows.get((row.question_id, row.completion.repeat))
                if (
                    other
                    and row.answer.label
                    and other.answer.label
                    and row.answer.label != other.answer.label
                ):
                    flips.append(Flip(first, second, benchmark, row, other))
    return flips


def page_rows(flips: Sequence[Flip]) -> tuple[list[dict[str, Any]], int]:
    """What the page shows of each flip, and how many it leaves out."""
    shown: dict[tuple[str, str, str], int] = {}
    rows = []
    for flip in flips:
        place = flip.first, flip.second, flip.benchmark
        shown[place] = shown.get(place, 0) + 1
        if shown[place] <= MAX_SHOWN:
            rows.append(_page_row(flip))
    return rows, len(flips) - len(rows)


def _page_row(flip: Flip) -> dict[str, Any]:
    sample = flip.before.sample
    return {
        "pair": printable(f"{flip.first} → {flip.second}"),
        "benchmark": printable(flip.benchmark),
        "direction": flip.direction,
        "id": printable(sample.sample_id),
        "area": printable(sample.area),
        "repeat": flip.before.completion.repeat,
        "messages": [[printable(turn["role"]), printable(turn["content"])] for turn in sample.messages],
        "key": printable(sample.metadata.get("answer", "")),
        "sides": [_side(row) for row in (flip.before, flip.after)],
    }


def _side(row: ScoredRow) -> dict[str, Any]:
    return {
        "label": row_label(row),
        "status": row_status(row),
        "found": printable(row.answer.choice or ""),
        "answer": printable((row.completion.answer or "")[:_MAX_CHARS]),
        "reasoning": printable(row.completion.reasoning[:_MAX_CHARS]),
    }
