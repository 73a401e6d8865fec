"""Completions whose label changed from one variant to another, in either direction, shown side by side."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from safe_r1.benchmarks.attacked import split_attack
from safe_r1.compare.load import Run
from safe_r1.metrics.rows import ScoredRow
from safe_r1.report.embed import row_label, row_status
from safe_r1.report.text import printable

MAX_SHOWN = 1_000
"""Flips of one pair on one benchmark, with all its attacks, in the page; ``flips.csv`` has all."""
# The page holds both sides of every flip, so it cuts long texts; the reports of the runs have all of them.
_MAX_CHARS = 6_000


@dataclass(frozen=True)
class Flip:
    """One completion of a question that was scored for both variants, with different labels."""

    first: str
    second: str
    benchmark: str
    before: ScoredRow
    after: ScoredRow

    @property
    def direction(self) -> str:
        """``up`` where the degree rose (correct, or a stronger refusal), ``down`` where it fell, else
        ``same``.
        """
        before = self.before.answer.degree or 0
        after = self.after.answer.degree or 0
        return "up" if after > before else "down" if after < before else "same"


class FlipSide(TypedDict):
    """One of the two completions of a flip in the page."""

    label: str | None
    status: str
    found: str
    answer: str
    reasoning: str


class FlipEntry(TypedDict):
    """A flip in the page."""

    pair: str
    benchmark: str
    direction: str
    id: str
    area: str
    repeat: int
    messages: list[list[str]]
    key: str
    sides: list[FlipSide]


def find_flips(runs: Sequence[Run], pairs: Sequence[tuple[str, str]]) -> list[Flip]:
    """All flips between the pairs of variants, in the order of the questions."""
    by_name = {(run.variant, run.benchmark): run for run in runs}
    flips = []
    for first, second in pairs:
        for benchmark in dict.fromkeys(run.benchmark for run in runs):
            before = by_name.get((first, benchmark))
            after = by_name.get((second, benchmark))
            if before and after:
                flips += [
                    Flip(first, second, benchmark, row, other) for row, other in _changed(before, after)
                ]
    return flips


def _changed(before: Run, after: Run) -> list[tuple[ScoredRow, ScoredRow]]:
    """Rows of the same completion that were scored for both and have different labels."""
    others = {(row.question_id, row.completion.repeat): row for row in after.rows}
    pairs = [(row, others.get((row.question_id, row.completion.repeat))) for row in before.rows]
    return [
        (row, other)
        for row, other in pairs
        if other and row.answer.label and other.answer.label and row.answer.label != other.answer.label
    ]


def page_entries(flips: Sequence[Flip]) -> tuple[list[FlipEntry], int]:
    """The flips that the page shows, and the number that it leaves out."""
    num_shown: dict[tuple[str, str, str], int] = {}
    # All attacks of a benchmark together take the room of one benchmark.
    num_attacks = Counter(split_attack(name)[0] for name in {flip.benchmark for flip in flips})
    entries = []
    for flip in flips:
        group = (flip.first, flip.second, flip.benchmark)
        num_shown[group] = num_shown.get(group, 0) + 1
        if num_shown[group] <= MAX_SHOWN // num_attacks[split_attack(flip.benchmark)[0]]:
            entries.append(_page_entry(flip))
    return entries, len(flips) - len(entries)


def _page_entry(flip: Flip) -> FlipEntry:
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


def _side(row: ScoredRow) -> FlipSide:
    return {
        "label": row_label(row),
        "status": row_status(row),
        "found": printable(row.answer.choice or ""),
        "answer": printable((row.completion.answer or "")[:_MAX_CHARS]),
        "reasoning": printable(row.completion.reasoning[:_MAX_CHARS]),
    }
