"""Joins samples, completions and verdicts into rows, each key once, or raises an error that names the ids."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from safe_r1.errors import IntegrityError
from safe_r1.schema import (
    ATTACKER,
    Completion,
    ComplianceLabel,
    FinishedAnswer,
    Part,
    RefusalLabel,
    Sample,
    Verdict,
)

FAILED = "failed"
TRUNCATED = "truncated"
UNFINISHED = "unfinished"
BLOCKED = "blocked"
NOT_ASKED = "not_asked"
CORRECT = "correct"
INCORRECT = "incorrect"
_SHOWN_IDS = 8
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True)
class ScoredRow:
    """One sample in one repeat: the question, the completion, and the verdicts on both parts.

    ``finished`` is what the model chose when it was asked to end an answer without a choice.
    """

    sample: Sample
    completion: Completion
    answer: Verdict
    reasoning: Verdict | None = None
    finished: FinishedAnswer | None = None

    @property
    def is_swapped(self) -> bool:
        """True for a question whose options were reversed."""
        return "swap_of" in self.sample.metadata

    @property
    def question_id(self) -> str:
        """Id of the question, the same for the original and for the swapped form."""
        return self.sample.metadata.get("swap_of", self.sample.sample_id)

    @property
    def has_no_choice(self) -> bool:
        """True for a scored answer in which no option or result was found."""
        return (
            self.answer.label in (CORRECT, INCORRECT)
            and self.answer.choice is None
            and self.sample.task != "code"
        )

    def verdict(self, part: Part) -> Verdict | None:
        """The verdict on one part; None for a reasoning that was not judged."""
        return self.answer if part == "answer" else self.reasoning


def join_rows(
    samples: Sequence[Sample], completions: Sequence[Completion], verdicts: Sequence[Verdict]
) -> list[ScoredRow]:
    """Join the three row types, in the order of the samples and then of the repeats.

    Raises:
        IntegrityError: No samples, a key missing or doubled, a row of an unknown sample, rows of several
            variants, or a verdict that contradicts its completion. The message names the ids.
    """
    if not samples or not completions:
        raise IntegrityError(
            f"nothing to measure: {len(samples)} samples, {len(completions)} completions; expected some of "
            "each"
        )
    by_id = {sample.sample_id: sample for sample in samples}
    completed = {(row.sample_id, row.repeat): row for row in completions}
    scored = {(row.sample_id, row.repeat, row.part): row for row in verdicts}
    _reject("samples given twice", _doubled(sample.sample_id for sample in samples))
    _reject("completions given twice", _doubled((row.sample_id, row.repeat) for row in completions))
    _reject("verdicts given twice", _doubled((row.sample_id, row.repeat, row.part) for row in verdicts))
    repeats = sorted({row.repeat for row in completions})
    expected = [(sample_id, repeat) for sample_id in by_id for repeat in repeats]
    known = set(expected)
    _reject("completions of unknown samples", [key for key in completed if key not in known])
    _reject("samples without a completion", [key for key in expected if key not in completed])
    _reject("verdicts without a completion", [key for key in scored if key[:2] not in known])
    _reject(
        "completions without a verdict on their answer",
        [key for key in expected if (*key, "answer") not in scored],
    )
    # From the expected keys and not from the completions: the order is the same however rows were written.
    rows = [
        ScoredRow(by_id[key[0]], completed[key], scored[(*key, "answer")], scored.get((*key, "reasoning")))
        for key in expected
    ]
    check_rows(rows)
    # Swap metrics compare pairs: a swapped question alone would silently drop out of them.
    twins = {row.sample.metadata["swap_of"] for row in rows if row.is_swapped}
    _reject("swapped questions without their original", sorted(twins - by_id.keys()))
    return rows


def check_rows(rows: Sequence[ScoredRow]) -> None:
    """Check that rows are of one variant, and that no verdict contradicts its row.

    Raises:
        IntegrityError: They do not; the message names the variants or the ids.
    """
    check_variants(
        each.variant
        for row in rows
        for each in (row.completion, row.answer, row.reasoning)
        if each is not None
    )
    _reject(
        "verdicts that contradict their row",
        [(row.sample.sample_id, row.completion.repeat) for row in rows if _contradicts(row)],
    )


def check_variants(names: Iterable[str]) -> None:
    """Check that rows are of one variant.

    Raises:
        IntegrityError: They are of several; the message names them.
    """
    variants = set(names)
    if len(variants) > 1:
        raise IntegrityError(
            f"rows of several variants {sorted(variants)}; expected one: compute metrics for each variant "
            "alone"
        )


def _contradicts(row: ScoredRow) -> bool:
    """True where a verdict does not fit its completion or has not exactly one of label and reason.

    Also for an unknown label, and for a score of an answer that does not exist.
    """
    judged = {"refusal": set(RefusalLabel), "over_refusal": set(ComplianceLabel)}
    labels = judged.get(row.sample.task, {CORRECT, INCORRECT})
    for verdict in (row.answer, row.reasoning):
        if verdict is None:
            continue
        if (verdict.label is None) == (verdict.unscored_reason is None) or verdict.label not in {
            None,
            *labels,
        }:
            return True
    wanted = _reasons_without_answer(row.completion)
    return bool(wanted) and row.answer.unscored_reason not in wanted


def _reasons_without_answer(completion: Completion) -> tuple[str, ...]:
    """Reasons that the verdict on a completion without an answer may have; none for one with an answer."""
    if completion.error is not None:
        return (FAILED,)
    if completion.blocked is not None:
        return (NOT_ASKED,) if completion.blocked == ATTACKER else (BLOCKED,)
    if not completion.has_open_reasoning:
        return ()
    # Runs before schema version 3 call every open reasoning truncated.
    return (TRUNCATED,) if completion.is_cut else (UNFINISHED, TRUNCATED)


def _doubled(keys: Iterable[_Key]) -> list[_Key]:
    return [key for key, number in Counter(keys).items() if number > 1]


def _reject(what: str, keys: Sequence[Hashable]) -> None:
    if keys:
        more = f" and {len(keys) - _SHOWN_IDS} more" if len(keys) > _SHOWN_IDS else ""
        raise IntegrityError(
            f"{what}: {len(keys)} ({', '.join(map(str, keys[:_SHOWN_IDS]))}{more}); expected each key once"
        )
