"""Counts of rows by outcome: the ``counts`` of ``metrics.json``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

from safe_r1.metrics.rows import BLOCKED, FAILED, TRUNCATED, ScoredRow
from safe_r1.runs import JsonObject
from safe_r1.schema import JUDGED_PARTS, Verdict

# Groups as metrics.json of schema version 1 calls them.
_FORMER_GROUPS: dict[str, str] = {"science": "mcq_shuffled", "compliance": "over_refusal"}


class VerdictCounts(TypedDict):
    """Verdicts by outcome: ``num_rows = num_scored + num_unscored + num_failed + num_blocked``.

    Attributes:
        num_rows: Verdicts in all.
        num_scored: Those with a label.
        num_unscored: Those without one, apart from failed generations and blocked rows.
        num_unscored_by_reason: The unscored ones by reason.
        num_failed: Those of failed generations.
        num_blocked: Those of rows that a provider's content filter took; absent where there are none.
    """

    num_rows: int
    num_scored: int
    num_unscored: int
    num_unscored_by_reason: dict[str, int]
    num_failed: int
    num_blocked: NotRequired[int]


class ReasoningCounts(VerdictCounts):
    """Verdicts on the reasoning.

    Attributes:
        num_absent: Rows whose reasoning has no verdict.
    """

    num_absent: int


class GroupCounts(VerdictCounts):
    """Rows of one group of samples by the verdict on their answer.

    Attributes:
        num_samples: Questions; one with reversed options counts as one of its own.
        num_truncated: Unscored rows whose reasoning reached the token limit.
        num_cut: Rows that the token limit ended, in the reasoning or in the answer, scored or not.
        num_no_choice: Scored answers in which no option or result was found.
        num_finished: Rows that the model was asked to end, as no option was found in their answer; absent
            where there are none, as the next.
        num_finished_chosen: Those of them in which it chose an option.
        reasoning: Verdicts on the reasoning, where a judge labelled any.
        num_by_own_label: Answers by the label of a user's judging policy, where there is one.
        num_pairs: Of reversed questions: pairs with the original.
        num_pairs_chosen: Of reversed questions: pairs with an option chosen in both forms.
    """

    num_samples: int
    num_truncated: int
    num_cut: int
    num_no_choice: int
    num_finished: NotRequired[int]
    num_finished_chosen: NotRequired[int]
    reasoning: NotRequired[ReasoningCounts]
    num_by_own_label: NotRequired[dict[str, int]]
    num_pairs: NotRequired[int]
    num_pairs_chosen: NotRequired[int]


class CountsFold:
    """Counts the rows of one group by outcome, from rows that pass by in parts."""

    def __init__(self) -> None:
        self._num_samples = 0
        self._num_truncated = 0
        self._num_cut = 0
        self._num_no_choice = 0
        self._num_finished = 0
        self._num_finished_chosen = 0
        self._answers = _VerdictFold()
        self._reasoning = _VerdictFold()
        self._own_labels: Counter[str] = Counter()

    def add(self, rows: Sequence[ScoredRow]) -> None:
        """Add rows of whole questions."""
        answers = [row.answer for row in rows]
        self._num_samples += len({row.sample.sample_id for row in rows})
        self._num_truncated += sum(verdict.unscored_reason == TRUNCATED for verdict in answers)
        self._num_cut += sum(row.completion.is_cut for row in rows)
        self._num_no_choice += sum(row.has_no_choice for row in rows)
        finished = [row.finished for row in rows if row.finished is not None]
        self._num_finished += len(finished)
        self._num_finished_chosen += sum(each.choice is not None for each in finished)
        self._answers.add(answers)
        self._reasoning.add([row.reasoning for row in rows if row.reasoning is not None])
        self._own_labels.update(
            row.answer.choice for row in rows if row.sample.task in JUDGED_PARTS and row.answer.choice
        )

    def result(self) -> GroupCounts:
        """The counts so far."""
        counts: GroupCounts = {
            "num_samples": self._num_samples,
            **self._answers.result(),
            "num_truncated": self._num_truncated,
            "num_cut": self._num_cut,
            "num_no_choice": self._num_no_choice,
        }
        if self._num_finished:
            counts["num_finished"] = self._num_finished
            counts["num_finished_chosen"] = self._num_finished_chosen
        if self._own_labels:
            counts["num_by_own_label"] = dict(self._own_labels.most_common())
        if self._reasoning.num_rows:
            num_absent = self._answers.num_rows - self._reasoning.num_rows
            counts["reasoning"] = {**self._reasoning.result(), "num_absent": num_absent}
        return counts


class _VerdictFold:
    """Counts verdicts by outcome."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._num_scored = 0
        self._reasons: Counter[str] = Counter()

    def add(self, verdicts: Sequence[Verdict]) -> None:
        self.num_rows += len(verdicts)
        self._num_scored += sum(verdict.label is not None for verdict in verdicts)
        self._reasons.update(verdict.unscored_reason for verdict in verdicts if verdict.unscored_reason)

    def result(self) -> VerdictCounts:
        reasons = Counter(self._reasons)
        # Neither says anything about the judge or the model: counted apart, or they would look unscored.
        num_failed = reasons.pop(FAILED, 0)
        num_blocked = reasons.pop(BLOCKED, 0)
        counts: VerdictCounts = {
            "num_rows": self.num_rows,
            "num_scored": self._num_scored,
            "num_unscored": reasons.total(),
            "num_unscored_by_reason": dict(sorted(reasons.items())),
            "num_failed": num_failed,
        }
        if num_blocked:
            counts["num_blocked"] = num_blocked
        return counts


def read_counts(metrics: JsonObject) -> dict[str, GroupCounts]:
    """The counts of a ``metrics.json`` by the current names of groups, whichever version wrote it."""
    counts: Mapping[str, GroupCounts] = metrics["counts"]
    return {_FORMER_GROUPS.get(group, group): entry for group, entry in counts.items()}
