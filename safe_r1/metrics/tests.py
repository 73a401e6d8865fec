"""Tests and intervals of a difference between two variants on the same questions.

Questions are independent, the completions of one question are not: everything here is over questions.

Source:
    Test: sign flips of the questions' changes, exact (Fisher's randomization test of paired differences).
    With one completion a question it is McNemar's exact test. Chung and Romano, "Exact and Asymptotically
    Robust Permutation Tests", Annals of Statistics 41 (2013), for equal means of unequal distributions.
    Interval: of the ratio ``sum(change) / sum(size)`` with one question gained and one lost added, as Bonett
    and Price, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired
    Data", Journal of Educational and Behavioral Statistics 37 (2012), do for one completion a question:
    without them no change at all would give the interval 0 to 0.
    Bounds over missing rows: Manski, "Partial Identification of Probability Distributions" (2003); intervals
    outside them: Horowitz and Manski, Journal of the American Statistical Association 95 (2000).
    Several tests: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of
    Statistics 6 (1979).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

ALPHA = 0.05
# Draws of the test where questions have weights, which no convolution covers.
_DRAWS = 99_999
_SEED = 2503_16529

_Floats = npt.NDArray[np.float64]


class PairedCounts(NamedTuple):
    """The completions of one question by two variants.

    Attributes:
        first: Hits of the first variant among the pairs.
        second: Hits of the second.
        pairs: Completions that count for both.
        asked: Completions that both were asked for, scored or not.
        missing: Those of them that have no outcome for at least one variant.
        worst: Hits of the second less hits of the first over all of them, with every missing outcome against
            the second variant.
        best: The same with every missing outcome in favour of the second.
        weight: Questions of the benchmark that this one stands for.
    """

    first: int
    second: int
    pairs: int
    asked: int
    missing: int
    worst: int
    best: int
    weight: float = 1.0


@dataclass(frozen=True)
class Difference:
    """The second variant's rate less the first's, on the completions that were scored for both.

    The p value and the interval agree: ``p_value < 0.05`` exactly where the interval excludes 0.

    Attributes:
        first: Rate of the first variant over the pairs.
        second: Rate of the second.
        value: ``second - first``.
        low: Lower end of the 95% interval.
        high: Upper end.
        num_pairs: Completions that count for both.
        num_questions: Questions behind them.
        num_gained: Questions with more hits for the second.
        num_lost: Questions with fewer.
        p_value: Two-sided.
        num_asked: Completions that both were asked for.
        num_missing: Those of them that have no outcome for at least one.
        bound_low: The difference over all that were asked, with every missing outcome against the second.
        bound_high: The same in favour of the second.
        bounds_low: Lower end of the 95% interval of ``bound_low``; ``low`` where nothing is missing.
        bounds_high: Upper end of that of ``bound_high``.
        p_margin: Two-sided p value of a true difference of minus the margin; None without a margin.
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
    num_asked: int
    num_missing: int
    bound_low: float
    bound_high: float
    bounds_low: float
    bounds_high: float
    p_margin: float | None = None

    @property
    def direction(self) -> int:
        """1 or -1 where even the bounds over the missing rows, with their intervals, exclude 0; else 0."""
        return 1 if self.bounds_low > 0 else -1 if self.bounds_high < 0 else 0


@dataclass(frozen=True)
class _Estimate:
    """A ratio ``sum(change) / sum(size)`` over questions, with the two added questions.

    Attributes:
        center: The ratio.
        error: Its standard error.
        df: Degrees of freedom.
    """

    center: float
    error: float
    df: int

    def interval(self) -> tuple[float, float]:
        from scipy.special import stdtrit

        reach = float(stdtrit(self.df, 1 - ALPHA / 2)) * self.error
        return max(-1.0, self.center - reach), min(1.0, self.center + reach)

    def p_value(self, value: float) -> float:
        """Two-sided p value of the ratio being ``value``; below 0.05 where the interval excludes it."""
        from scipy.special import stdtr

        return float(2 * stdtr(self.df, -abs(self.center - value) / self.error))


def difference(trials: Mapping[str, PairedCounts], margin: float | None = None) -> Difference:
    """Difference, interval, test and bounds.

    Args:
        trials: Question to its completions.
        margin: Non-inferiority margin, as a fraction.

    Raises:
        ValueError: No completion was scored for both variants.
    """
    # In one order whatever the mapping's, so that equal trials give equal results.
    table = np.array([trials[question] for question in sorted(trials)], dtype=np.float64).reshape(-1, 8)
    weights = table[:, 7]
    is_paired = table[:, 2] > 0
    if not is_paired.any():
        raise ValueError("a difference needs at least one question that was scored for both variants")
    first, second, pairs = table[is_paired, :3].T
    paired_weights = weights[is_paired]
    change = second - first
    estimate = _estimate(change, pairs, paired_weights)
    p_value, low, high = _test(estimate, change, pairs, paired_weights)
    total = float(paired_weights @ pairs)
    num_missing = int(table[:, 4].sum())
    asked = float(weights @ table[:, 3])
    worst, best = (float(weights @ table[:, column]) / asked for column in (5, 6))
    outer = (low, high)
    if num_missing:
        outer = (
            min(low, _estimate(table[:, 5], table[:, 3], weights).interval()[0]),
            max(high, _estimate(table[:, 6], table[:, 3], weights).interval()[1]),
        )
    return Difference(
        first=float(paired_weights @ first) / total,
        second=float(paired_weights @ second) / total,
        value=float(paired_weights @ change) / total,
        low=low,
        high=high,
        num_pairs=int(pairs.sum()),
        num_questions=len(pairs),
        num_gained=int((change > 0).sum()),
        num_lost=int((change < 0).sum()),
        p_value=p_value,
        num_asked=int(table[:, 3].sum()),
        num_missing=num_missing,
        bound_low=worst,
        bound_high=best,
        bounds_low=outer[0],
        bounds_high=outer[1],
        p_margin=None if margin is None else estimate.p_value(-margin),
    )


def _test(
    estimate: _Estimate, change: _Floats, sizes: _Floats, weights: _Floats
) -> tuple[float, float, float]:
    """P value and interval, which agree on 0."""
    low, high = estimate.interval()
    if weights.min() == weights.max():
        p_value = sign_flip_test(change.astype(np.int64))
    else:
        p_value = _weighted_sign_flip_test(change * weights)
    # McNemar's test alone never rejects where this interval holds 0; the others might, by a little.
    if weights.min() != weights.max() or sizes.max() > 1:
        p_value = max(p_value, estimate.p_value(0.0))
    if p_value >= ALPHA:
        low, high = min(low, 0.0), max(high, 0.0)
    return p_value, low, high


def _estimate(change: _Floats, sizes: _Floats, weights: _Floats) -> _Estimate:
    # The added question that was gained and the one that was lost are like the others on average.
    size, weight = max(1.0, float(sizes.mean())), float(weights.mean())
    added = size * weight
    total = float(weights @ sizes) + 2 * added
    center = float(weights @ change) / total
    residuals = np.append(weights * (change - center * sizes), [added * (1 - center), added * (-1 - center)])
    num = len(residuals)
    error = float(np.sqrt(num / (num - 1) * (residuals @ residuals))) / total
    return _Estimate(center, error, num - 1)


def sign_flip_test(changes: npt.NDArray[np.int64]) -> float:
    """Two-sided p value of a sum of changes if each is as likely to have the other sign; exact.

    Studentising the sum changes nothing here: flips leave the sum of squares as it is, so that both
    statistics put the flips into one order. With changes of 1, 0 and -1 this is McNemar's exact test.

    Args:
        changes: Change of the number of hits of each question. Shape (questions,).
    """
    from scipy.signal import fftconvolve
    from scipy.stats import binom, binomtest

    sizes, counts = np.unique(np.abs(changes[changes != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    if len(sizes) == 1:
        gained = int((changes > 0).sum())
        return float(binomtest(gained, int(counts[0]), 0.5).pvalue)
    # The distribution of the sum of those that rose, by convolving one binomial for each size of change.
    rises = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        spread = np.zeros(size * count + 1)
        spread[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        rises = np.clip(fftconvolve(rises, spread), 0.0, None)
    total = int(np.abs(changes).sum())
    distance = abs(2 * np.arange(total + 1) - total)
    return float(min(1.0, rises[distance >= abs(int(changes.sum()))].sum()))


def _weighted_sign_flip_test(changes: _Floats) -> float:
    """As ``sign_flip_test`` for changes of any size, by draws with a fixed seed."""
    sizes, counts = np.unique(np.abs(changes[changes != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    # Questions with changes of one size are interchangeable: how many of them rise is binomial.
    draws = np.random.default_rng(_SEED).binomial(counts, 0.5, size=(_DRAWS, len(counts)))
    sums = np.abs((2 * draws - counts) @ sizes)
    extreme = np.count_nonzero(sums >= abs(changes.sum()) * (1 - 1e-12))
    return float((extreme + 1) / (_DRAWS + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p values of one family of tests, in the given order."""
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests

    corrected = np.asarray(multipletests(p_values, method="holm")[1], float)
    return [float(value) for value in corrected]


Standing = Literal["not worse", "worse", "undecided"]


def non_inferiority(found: Difference, margin: float, p_holm: float) -> Standing:
    """Whether the second variant is worse by no more than ``margin``.

    Args:
        found: The difference, with its ``p_margin``.
        margin: The margin, as a fraction.
        p_holm: ``found.p_margin`` corrected within its family.

    Returns:
        ``not worse`` or ``worse`` where the test and the bounds over the missing rows agree on it.
    """
    if p_holm < ALPHA and found.bounds_low > -margin:
        return "not worse"
    return "worse" if p_holm < ALPHA and found.bounds_high < -margin else "undecided"
