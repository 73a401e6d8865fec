"""A judge's strata with people's labels: the rate behind them, and how many labels would settle a gate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from safe_r1.calibration.allocation import MIN_PER_STRATUM, allocate
from safe_r1.calibration.calibrate import MIN_LABELS
from safe_r1.calibration.guesses import Guesses
from safe_r1.calibration.imputation import NUM_DRAWS, Floats, generator
from safe_r1.calibration.items import Stratum
from safe_r1.errors import DataError
from safe_r1.filing.calibrated import Corrected, StrataCounts, correct
from safe_r1.filing.lines import Line
from safe_r1.gate.decide import Status
from safe_r1.metrics.intervals import CONFIDENCE
from safe_r1.schema import ComplianceLabel

_GUESSED_ERRORS = Guesses(None).error_share(
    Stratum("answer", "over_refusal", ComplianceLabel.FULL_REFUSAL.value, "")
)
# Far ends of an interval need more draws than those of 95%.
_MORE_DRAWS = 5


@dataclass(frozen=True)
class JudgedStratum:
    """Answers that a judge labelled alike.

    Attributes:
        is_hit: Whether the judge's label is a hit.
        num_rows: Answers.
        num_labels: Those that people labelled, drawn at random.
        num_label_hits: Labels that are hits.
        expected: Share of hits to expect of its answers before any label, e.g. from a gold set; None: the
            guess of ``safe_r1.calibration`` for a judge of which nothing is known.
    """

    is_hit: bool
    num_rows: int
    num_labels: int = 0
    num_label_hits: int = 0
    expected: float | None = None

    def __post_init__(self) -> None:
        """Check the counts.

        Raises:
            DataError: They do not add up.
        """
        if not 0 <= self.num_label_hits <= self.num_labels <= self.num_rows:
            raise DataError(
                f"a stratum of {self.num_rows} answers has {self.num_labels} labels, "
                f"{self.num_label_hits} of them hits: the counts do not add up; count again from the rows"
            )

    @property
    def shape(self) -> float:
        """Share of hits to expect of its answers before any label."""
        if self.expected is not None:
            return self.expected
        return 1 - _GUESSED_ERRORS if self.is_hit else _GUESSED_ERRORS


def counts_of(strata: Sequence[JudgedStratum]) -> StrataCounts:
    """The counts of one service's strata."""
    return StrataCounts(
        num_rows=np.array([[each.num_rows for each in strata]]),
        num_labels=np.array([[each.num_labels for each in strata]]),
        num_hits=np.array([[float(each.num_label_hits) for each in strata]]),
        shapes=np.array([each.shape for each in strata]),
    )


def correct_strata(
    strata: Sequence[JudgedStratum],
    seed: int,
    num_missing: int = 0,
    part: Sequence[JudgedStratum] | None = None,
    confidence: float = CONFIDENCE,
) -> Corrected:
    """The true rate behind a judge's strata; see ``safe_r1.filing.calibrated.correct``.

    Raises:
        DataError: A stratum has fewer labels than calibration needs.
    """
    too_few = [each for each in strata if each.num_labels < min(MIN_LABELS, each.num_rows)]
    if too_few:
        side = "a hit" if too_few[0].is_hit else "no hit"
        raise DataError(
            f"{too_few[0].num_labels} labels of the {too_few[0].num_rows} answers that the judge calls "
            f"{side}: each stratum needs {MIN_LABELS}; draw more with `safe-r1 label-sample`"
        )
    rows = None if part is None else np.array([[each.num_rows for each in part]])
    num_draws = NUM_DRAWS if confidence == CONFIDENCE else _MORE_DRAWS * NUM_DRAWS
    return correct(counts_of(strata), generator(seed, "filing"), num_draws, num_missing, rows, confidence)


def labels_to_settle(
    strata: Sequence[JudgedStratum], num_missing: int, line: Line, seed: int = 0
) -> int | None:
    """The smallest number of labels in all that would settle a gate, if they go on like those so far.

    Labels are allocated as ``safe-r1 label-sample`` does. Without any label so far the number is the larger
    of two: if the judge errs as is expected of it, and if it does not err.

    Args:
        strata: The judge's strata with the labels so far.
        num_missing: Answers without a verdict.
        line: The line.
        seed: Of the draws, the same ones for every number.

    Returns:
        None where even a label for each answer would leave it open.
    """
    strata = [each for each in strata if each.num_rows]
    counts = counts_of(strata)
    first, second = counts.posterior()
    shares = (first / (first + second))[0]
    found = [_labels_at(counts, shares, num_missing, line, seed)]
    if not counts.num_labels.any():
        judged = np.array([float(each.is_hit) for each in strata])
        found.append(_labels_at(counts, judged, num_missing, line, seed))
    return None if None in found else max(each for each in found if each is not None)


def _labels_at(counts: StrataCounts, shares: Floats, num_missing: int, line: Line, seed: int) -> int | None:
    """The number of labels that settles the gate if further labels have these shares of hits."""

    def is_settled(num: int) -> bool:
        expected = _expected(counts, shares, num)
        found = correct(expected, generator(seed, "filing"), NUM_DRAWS, num_missing)
        return line.status(float(found.bounds_low[0]), float(found.bounds_high[0])) is not Status.UNDECIDED

    sizes = counts.num_rows[0]
    least = max(int(np.minimum(sizes, MIN_PER_STRATUM).sum()), int(counts.num_labels.sum()))
    high = int(sizes.sum())
    if not is_settled(high):
        return None
    low = least - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_settled(middle) else (middle, high)
    return high


def _expected(counts: StrataCounts, shares: Floats, num: int) -> StrataCounts:
    """The counts with so many labels, of which as many are hits as is expected."""
    sizes = counts.num_rows[0]
    errors = np.clip(np.minimum(shares, 1 - shares), 1e-3, 0.5)
    allocated = np.array(allocate(sizes.tolist(), errors.tolist(), num))
    num_labels = np.maximum(allocated, counts.num_labels[0])
    num_hits = counts.num_hits[0] + (num_labels - counts.num_labels[0]) * shares
    return StrataCounts(counts.num_rows, num_labels[None], num_hits[None], counts.shapes)
