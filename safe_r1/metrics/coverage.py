"""How many answers of each task have a label: a rate over none of them says nothing."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from safe_r1.metrics.rows import ScoredRow
from safe_r1.schema import Sample


@dataclass(frozen=True)
class Coverage:
    """Answers of one group of samples with and without a label.

    Attributes:
        group: See ``Sample.group``.
        area: ``safe`` or ``unsafe`` for over-refusal, whose harmless and harmful requests have rates of their
            own; empty elsewhere.
        num_rows: Answers in all.
        num_scored: Those with a label.
        reasons: The others by ``Verdict.unscored_reason``, the most frequent first.
    """

    group: str
    area: str
    num_rows: int
    num_scored: int
    reasons: dict[str, int]

    @property
    def name(self) -> str:
        """The group, with the area where it has one."""
        return f"{self.group}/{self.area}" if self.area else self.group

    @property
    def share(self) -> float:
        """Share of the answers that have a label."""
        return self.num_scored / self.num_rows


class CoverageFold:
    """Counts the answers of every group with and without a label, from rows that pass by in parts."""

    def __init__(self) -> None:
        self._reasons: dict[tuple[str, str], Counter[str | None]] = defaultdict(Counter)

    def add(self, rows: Iterable[ScoredRow]) -> None:
        """Add rows."""
        for row in rows:
            # A label counts under None: its verdict has no reason. An answer that the model has ended when
            # asked to has an outcome too, though the strict rates do not count it.
            has_end = row.finished is not None and row.finished.choice is not None
            reason = None if has_end else row.answer.unscored_reason
            self._reasons[_group_of(row.sample)][reason] += 1

    def result(self) -> list[Coverage]:
        """Coverage of every group that has answers, in the order of the rows."""
        return [
            Coverage(
                *group,
                num_rows=reasons.total(),
                num_scored=reasons[None],
                reasons={reason: number for reason, number in reasons.most_common() if reason},
            )
            for group, reasons in self._reasons.items()
        ]


def _group_of(sample: Sample) -> tuple[str, str]:
    if sample.task != "over_refusal":
        return sample.group, ""
    # Whatever areas a user's file has: two kinds of requests have rates of their own.
    return sample.group, "unsafe" if sample.area == "unsafe" else "safe"
