"""Tests and intervals of a difference between two variants on the same questions.

Questions are independent, the completions of one question are not: every test and every resample is over
questions.

Source:
    Exact test: McNemar's, which looks at the questions that changed; with several completions a question it
    is the sign test over the questions whose share of hits rose or fell (Conover, "Practical Nonparametric
    Statistics", 3.4 and 3.5).
    Interval: percentile bootstrap over questions, with one question gained and one lost added. Bonett and
    Price, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired Data",
    Journal of Educational and Behavioral Statistics 37 (2012), add the same to Wald's interval: without it no
    change at all would give the interval 0 to 0.
    Several tests: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of
    Statistics 6 (1979).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

RESAMPLES = 9_999
CONFIDENCE = 0.95

Trials = Mapping[str, tuple[int, int, int]]
"""Question to (hits of the first variant, hits of the second, completions scored for both)."""


@dataclass(frozen=True)
class Difference:
    """The second variant's rate less the first's, on the completions that were scored for both.

    Attributes:
        first: Rate of the first variant over the pairs.
        second: Rate of the second.
        value: ``second - first``.
        low: Lower end of the 95% interval.
        high: Upper end.
        num_pairs: Completions scored for both.
        num_questions: Questions behind them.
        num_gained: Questions with more hits for the second.
        num_lost: Questions with fewer.
        p_value: Two-sided, exact.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    num_pairs: int
    num_questions: int
    num_gained: int
    num_lost: int
    p_value: float


def difference(trials: Trials) -> Difference:
    """Difference, interval and test.

    Raises:
        ValueError: There is no pair.
    """
    if not trials:
        raise ValueError("a difference needs at least one question that was scored for both variants")
    # In one order whatever the mapping's, so that equal trials give equal results.
    table = np.array([trials[question] for question in sorted(trials)], dtype=np.int64)
    change = table[:, 1] - table[:, 0]
    sizes = table[:, 2]
    total = int(sizes.sum())
    low, high = _bootstrap(change, sizes)
    gained = int((change > 0).sum())
    lost = int((change < 0).sum())
    return Difference(
        first=table[:, 0].sum() / total,
        second=table[:, 1].sum() / total,
        value=change.sum() / total,
        low=low,
        high=high,
        num_pairs=total,
        num_questions=len(table),
        num_gained=gained,
        num_lost=lost,
        p_value=exact_test(gained, lost),
    )


def exact_test(gained: int, lost: int) -> float:
    """Two-sided p value of these gains and losses if a changed question is as likely to be either."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def _bootstrap(change: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """Percentile interval of ``sum(change) / sum(sizes)`` over resampled questions.

    Questions with the same change and size are interchangeable: how often each kind is drawn is multinomial,
    which is the bootstrap itself and takes no memory for the questions.
    """
    # The added question that was gained and the one that was lost have the usual number of completions.
    one = max(1, round(float(sizes.mean())))
    kinds, counts = np.unique(
        np.column_stack([np.append(change, [one, -one]), np.append(sizes, [one, one])]),
        axis=0,
        return_counts=True,
    )
    # Seeded by the data: the same comparison gives the same interval, and others share no random numbers.
    seed = int.from_bytes(
        hashlib.sha256(np.ascontiguousarray(np.column_stack([kinds, counts])).tobytes()).digest()[:8], "big"
    )
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=RESAMPLES)
    values = drawn @ kinds[:, 0] / (drawn @ kinds[:, 1])
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p values of one family of tests, in the given order."""
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests

    corrected = np.asarray(multipletests(p_values, method="holm")[1], float)
    return [float(value) for value in corrected]


Standing = Literal["not worse", "worse", "undecided"]


def non_inferiority(found: Difference, margin: float) -> Standing:
    """Whether the second variant is worse by no more than ``margin``: the interval of the difference decides.

    ``not worse`` where all of it lies above ``-margin`` (a one-sided test at 2.5%), ``worse`` where all of it
    lies below.
    """
    if found.low > -margin:
        return "not worse"
    return "worse" if found.high < -margin else "undecided"
