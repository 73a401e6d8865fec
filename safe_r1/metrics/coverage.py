"""How many answers of each task have a label: a rate over none of them says nothing."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from safe_r1.schema import Sample, Verdict


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


def answer_coverage(samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> list[Coverage]:
    """Coverage of every group that has answers, in the order of the samples."""
    by_id = {sample.sample_id: sample for sample in samples}
    order = dict.fromkeys(map(_group_of, samples))
    reasons: dict[tuple[str, str], Counter[str | None]] = defaultdict(Counter)
    for verdict in verdicts:
        if verdict.part == "answer":
            # A label counts under None: its verdict has no reason.
            reasons[_group_of(by_id[verdict.sample_id])][verdict.unscored_reason] += 1
    return [
        Coverage(
            *group,
            num_rows=reasons[group].total(),
            num_scored=reasons[group][None],
            reasons={reason: number for reason, number in reasons[group].most_common() if reason},
        )
        for group in order
        if group in reasons
    ]


def _group_of(sample: Sample) -> tuple[str, str]:
    if sample.task != "over_refusal":
        return sample.group, ""
    # Whatever areas a user's file has: two kinds of requests have rates of their own.
    return sample.group, "unsafe" if sample.area == "unsafe" else "safe"
