"""Rows of a run by what became of them, as reports show them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safe_r1.report.labels import REASONS, BenchmarkLabels, BilingualName
from safe_r1.report.text import one_line


@dataclass(frozen=True)
class RowCounts:
    """Rows of a group of samples and part by status; the shares add up to ``num_rows``.

    Attributes:
        title: Name of the group.
        part: ``answer`` or ``reasoning``.
        num_unscored: Rows without a label for other reasons than truncation.
        num_cut: Rows that the token limit ended, scored or not; None where that does not apply.
        num_no_choice: Scored rows without a choice or result; None where that does not apply.
        reasons: The unscored rows by reason.
        own_labels: The scored rows by the label of a user's judging policy, if there is one.
    """

    title: BilingualName
    part: str
    num_samples: int
    num_rows: int
    num_scored: int
    num_truncated: int
    num_unscored: int
    num_failed: int
    num_blocked: int
    num_cut: int | None
    num_no_choice: int | None
    reasons: list[tuple[BilingualName, int]]
    own_labels: list[tuple[str, int]]


def row_counts(counts: Mapping[str, Mapping[str, Any]], labels: BenchmarkLabels) -> list[RowCounts]:
    """One entry for each group of samples and part that has rows.

    Args:
        counts: See ``safe_r1.metrics.counts.read_counts``.
        labels: Names of the groups.
    """
    table = []
    for group, entry in counts.items():
        parts = {"answer": entry, "reasoning": entry.get("reasoning")}
        for part, of_part in parts.items():
            if of_part:
                table.append(_row_count(labels.group_name(group), part, of_part, entry["num_samples"]))
    return table


def _row_count(title: BilingualName, part: str, entry: Mapping[str, Any], num_samples: int) -> RowCounts:
    # Truncation says something about the model, every other reason about the judge: it is shown apart.
    reasons = dict(entry["num_unscored_by_reason"])
    num_truncated = reasons.pop("truncated", 0)
    return RowCounts(
        title=title,
        part=part,
        num_samples=num_samples,
        num_rows=entry["num_rows"],
        num_scored=entry["num_scored"],
        num_truncated=num_truncated,
        num_unscored=sum(reasons.values()),
        num_failed=entry["num_failed"],
        num_blocked=entry.get("num_blocked", 0),
        num_cut=entry.get("num_cut"),
        num_no_choice=entry.get("num_no_choice"),
        reasons=[(REASONS.get(key, BilingualName(key, key, key)), number) for key, number in reasons.items()],
        own_labels=[(one_line(key), number) for key, number in entry.get("num_by_own_label", {}).items()],
    )
