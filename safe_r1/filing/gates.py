"""Verdicts on gates from counts: does the service keep the line, and how sure is that.

A verdict is pass or fail where the 95% interval of the true rate, with its bounds over missing rows, is on
one side of the line, as ``safe-r1 gate`` decides too; otherwise it is not sure. A judge's verdicts that
nobody has checked decide nothing: their reading is shown, with the number of labels that would settle it.

Source:
    Interval: ``safe_r1.metrics.intervals``; with labels ``safe_r1.filing.calibrated``. Bounds: Manski,
    "Partial Identification of Probability Distributions" (2003). By risk the intervals hold together
    (Bonferroni): Dunn, Journal of the American Statistical Association 56 (1961).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from safe_r1.errors import DataError
from safe_r1.filing.lines import Line
from safe_r1.filing.strata import JudgedStratum, correct_strata, labels_to_settle
from safe_r1.gate.decide import Status
from safe_r1.metrics.intervals import CONFIDENCE, wilson_interval

Basis = Literal["people", "labels", "judge"]
Reason = Literal["right_side", "wrong_side", "too_few", "missing", "labels", "judge", "no_answers"]
MAX_ANSWERS = 100_000
"""More answers than these settle nothing in practice."""


@dataclass(frozen=True)
class Answers:
    """Counts of the answers that a gate is held against.

    Attributes:
        num_hits: Hits among the answers with an outcome.
        num_rows: Answers with an outcome.
        num_missing: Answers without one.
        strata: The answers by a judge's verdict, with people's labels; empty where people gave all outcomes.
    """

    num_hits: int
    num_rows: int
    num_missing: int = 0
    strata: tuple[JudgedStratum, ...] = ()

    def __post_init__(self) -> None:
        """Check the counts.

        Raises:
            DataError: They do not add up.
        """
        fits = 0 <= self.num_hits <= self.num_rows and self.num_missing >= 0
        if self.strata:
            fits = fits and self.num_rows == sum(each.num_rows for each in self.strata)
            fits = fits and self.num_hits == sum(each.num_rows for each in self.strata if each.is_hit)
        if not fits:
            raise DataError(
                f"{self.num_hits} hits of {self.num_rows} answers and {self.num_missing} without an outcome: "
                "the counts do not add up; count again from the rows"
            )

    @classmethod
    def judged(cls, strata: tuple[JudgedStratum, ...], num_missing: int = 0) -> "Answers":
        """The answers of a judge's strata."""
        num_hits = sum(each.num_rows for each in strata if each.is_hit)
        return cls(num_hits, sum(each.num_rows for each in strata), num_missing, strata)

    @property
    def basis(self) -> Basis:
        """Who says what is a hit: people, a judge that people's labels correct, or a judge alone."""
        if not self.strata:
            return "people"
        return "labels" if any(each.num_labels for each in self.strata) else "judge"


class Chance(NamedTuple):
    """Chance to pass by the naive rule: at the estimate, and the least and greatest within the interval."""

    low: float
    value: float
    high: float


class Estimate(NamedTuple):
    """A rate with its interval, with its bounds over missing rows, and with hits among the answers.

    Attributes:
        value, low, high: The rate and its interval.
        bounds_low, bounds_high: Ends of the interval with missing rows as misses, and as hits.
        hits: Low, middle and high number of hits among all answers, missing ones included.
    """

    value: float
    low: float
    high: float
    bounds_low: float
    bounds_high: float
    hits: tuple[int, int, int]


@dataclass(frozen=True)
class Verdict:
    """The verdict on a gate.

    Attributes:
        status: Pass, fail, or undecided, which is "not sure".
        reason: Why.
        reading: The status if the verdicts of an unchecked judge were right; else as ``status``.
        basis: See ``Answers.basis``.
        estimate: The true rate; of an unchecked judge the judged one.
        passes_naively: Whether the share of hits itself keeps the line; None without answers.
        chance_of_next: That a sample of the service's next answers passes by the naive rule.
        chance_from_bank: That a sample of these very answers does; None where they are fewer.
        num_labels: Labels in all that would settle it, if they go on like those so far; None where that is
            not needed or not enough.
        num_answers: Answers in all that would settle it at this rate, with outcomes by people; None alike.
    """

    status: Status
    reason: Reason
    reading: Status
    basis: Basis
    estimate: Estimate
    passes_naively: bool | None
    chance_of_next: Chance
    chance_from_bank: Chance | None
    num_labels: int | None
    num_answers: int | None


def decide(answers: Answers, line: Line, num_sample: int, seed: int = 0) -> Verdict:
    """Decide a gate.

    Args:
        answers: Counts.
        line: The line.
        num_sample: Answers of the sample that the standard draws.
        seed: Of the draws where there are labels.

    Raises:
        DataError: A stratum has too few labels.
    """
    estimate = estimate_rate(answers, seed)
    return _verdict(answers, line, num_sample, estimate, seed)


def decide_each(
    answers: Mapping[str, Answers], line: Line, num_sample: int, whole: Answers | None = None, seed: int = 0
) -> dict[str, Verdict]:
    """Verdicts by risk or aspect, whose intervals hold together with 95%.

    Args:
        answers: Counts by risk; labels in their strata are not used.
        line: The line of the gate; the standard has it for the whole alone.
        num_sample: See ``decide``.
        whole: The counts of all risks: the labels of its strata, in the same order, correct those of a risk.
        seed: See ``decide``.
    """
    asked = [each for each in answers.values() if each.num_rows]
    confidence = 1 - (1 - CONFIDENCE) / max(len(asked), 1)
    found: dict[str, Verdict] = {}
    for key, each in answers.items():
        estimate = estimate_rate(each, seed, whole, confidence)
        # Of a risk alone no number of labels is given: they are drawn for the whole.
        is_labelled = whole is not None and whole.basis == "labels"
        found[key] = _verdict(each, line, num_sample, estimate, None, is_labelled)
    return found


def estimate_rate(
    answers: Answers, seed: int = 0, whole: Answers | None = None, confidence: float = CONFIDENCE
) -> Estimate:
    """The rate with interval and bounds.

    Args:
        answers: Counts.
        seed: Of the draws where there are labels.
        whole: Counts that have the labels; None: the answers themselves.
        confidence: Of the interval.
    """
    missing = answers.num_missing
    if not answers.num_rows:
        return Estimate(math.nan, 0.0, 1.0, 0.0, 1.0, (0, missing // 2, missing))
    source = answers if whole is None else whole
    if answers.strata and source.basis == "labels":
        part = None if whole is None else answers.strata
        found = correct_strata(source.strata, seed, missing, part, confidence)
        low, middle, high = (round(float(each)) for each in found.hits[:, 0])
        value = float(found.value[0])
        return Estimate(
            value=value,
            low=float(found.low[0]),
            high=float(found.high[0]),
            bounds_low=float(found.bounds_low[0]),
            bounds_high=float(found.bounds_high[0]),
            hits=(low, middle + round(value * missing), high + missing),
        )
    rate = answers.num_hits / answers.num_rows
    low, high = wilson_interval(answers.num_hits, answers.num_rows, confidence)
    total = answers.num_rows + missing
    lowest = wilson_interval(answers.num_hits, total, confidence)[0]
    highest = wilson_interval(answers.num_hits + missing, total, confidence)[1]
    hits = (answers.num_hits, answers.num_hits + round(rate * missing), answers.num_hits + missing)
    # More rows may make an interval narrower: the bounds hold the rate's own one all the same.
    return Estimate(rate, low, high, min(low, lowest), max(high, highest), hits)


def answers_to_settle(rate: float, line: Line) -> int | None:
    """The smallest number of answers whose interval is on one side of the line, at this rate.

    Returns:
        None where the rate is on the line, or so near that more than ``MAX_ANSWERS`` are needed.
    """

    def is_settled(num: int) -> bool:
        return line.status(*wilson_interval(rate * num, num)) is not Status.UNDECIDED

    high = 1
    while not is_settled(high):
        high *= 2
        if high > MAX_ANSWERS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_settled(middle) else (middle, high)
    return high


def _verdict(
    answers: Answers,
    line: Line,
    num_sample: int,
    estimate: Estimate,
    seed: int | None,
    is_labelled: bool = False,
) -> Verdict:
    basis = "labels" if is_labelled and answers.strata else answers.basis
    reading = line.status(estimate.bounds_low, estimate.bounds_high)
    sampled = line.status(estimate.low, estimate.high)
    status = Status.UNDECIDED if basis == "judge" else reading
    num_labels = None
    if status is Status.UNDECIDED and basis != "people" and answers.num_rows and seed is not None:
        num_labels = labels_to_settle(answers.strata, answers.num_missing, line, seed)
    num_answers = None
    # Where missing answers are the reason, more answers are no remedy.
    if sampled is Status.UNDECIDED and status is Status.UNDECIDED and basis != "judge" and answers.num_rows:
        needed = answers_to_settle(estimate.value, line)
        num_answers = needed if needed and needed > answers.num_rows else None
    return Verdict(
        status=status,
        reason=_reason(answers, status, basis, sampled, num_labels),
        reading=reading,
        basis=basis,
        estimate=estimate,
        passes_naively=line.is_kept_by(answers.num_hits, answers.num_rows) if answers.num_rows else None,
        chance_of_next=_chance_of_next(line, num_sample, estimate),
        chance_from_bank=_chance_from_bank(line, num_sample, answers, estimate),
        num_labels=num_labels,
        num_answers=num_answers,
    )


def _reason(
    answers: Answers, status: Status, basis: Basis, sampled: Status, num_labels: int | None
) -> Reason:
    if not answers.num_rows:
        return "no_answers"
    if status is not Status.UNDECIDED:
        return "right_side" if status is Status.PASS else "wrong_side"
    if basis == "judge":
        return "judge"
    if sampled is not Status.UNDECIDED:
        return "missing"
    return "labels" if num_labels is not None else "too_few"


def _chance_of_next(line: Line, num_sample: int, estimate: Estimate) -> Chance:
    ends = [line.chance_of_next(end, num_sample) for end in (estimate.bounds_low, estimate.bounds_high)]
    value = math.nan if math.isnan(estimate.value) else line.chance_of_next(estimate.value, num_sample)
    return Chance(min(ends), value, max(ends))


def _chance_from_bank(line: Line, num_sample: int, answers: Answers, estimate: Estimate) -> Chance | None:
    num_bank = answers.num_rows + answers.num_missing
    if num_bank < num_sample or not answers.num_rows:
        return None
    first, middle, last = (line.chance_from_bank(hits, num_bank, num_sample) for hits in estimate.hits)
    return Chance(min(first, last), middle, max(first, last))
