"""pass@k: the chance that at least one of k completions solves a problem.

Source: arXiv 2107.03374. The variance of a mean over all subsets of k completions is at most that of a mean
over disjoint ones: Hoeffding, "A Class of Statistics with Asymptotically Normal Distribution", Annals of
Mathematical Statistics 19 (1948).
"""

import math
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from safe_r1.metrics.intervals import WEIGHTED, clustered_interval, weighted_share
from safe_r1.metrics.rate_fold import Clusters, Rate

Numbers = npt.NDArray[np.float64]


class PassAtK(TypedDict):
    """The estimate for one k.

    Attributes:
        value: Mean over the questions with k scored completions.
        low: Lower end of its 95% interval.
        high: Upper end.
        method: Of the interval, see ``safe_r1.metrics.intervals``.
        num_samples: Questions with k scored completions.
        num_missing: Questions with fewer.
        bound_low: The mean over all questions if no missing completion were right.
        bound_high: The mean over all questions if all missing completions were right.
        bounds_low: Lower end of the interval of ``bound_low``.
        bounds_high: Upper end of the interval of ``bound_high``.
    """

    value: float
    low: float
    high: float
    method: str
    num_samples: int
    num_missing: int
    bound_low: float
    bound_high: float
    bounds_low: float
    bounds_high: float


def pass_at_k(rate: Rate | None, questions: Clusters) -> dict[str, PassAtK]:
    """Unbiased estimates for k = 1, 2, 4, ... and the number of completions, as means over questions.

    Args:
        rate: The overall rate ``pass_at_1``: it is the estimate for k = 1.
        questions: Its clusters.

    Returns:
        By k as text; a k for which no question has enough scored completions is left out.
    """
    if rate is None:
        return {}
    kinds = sorted(questions)
    table = np.repeat(np.asarray(kinds, float), [questions[kind] for kind in kinds], axis=0)
    hits, known, missing, weights = table.T
    most = int((known + missing).max())
    found = {1: _of_rate(rate, int((known == 0).sum()))}
    for k in sorted({1 << power for power in range(1, most.bit_length())} | {most} - {1}):
        if (known >= k).any():
            found[k] = _estimate_all(hits, known, missing, weights, k)
    return {str(k): entry for k, entry in found.items()}


def _of_rate(rate: Rate, num_missing: int) -> PassAtK:
    return {
        "value": rate.value,
        "low": rate.low,
        "high": rate.high,
        "method": rate.method,
        "num_samples": rate.num_samples,
        "num_missing": num_missing,
        "bound_low": rate.bound_low,
        "bound_high": rate.bound_high,
        "bounds_low": rate.bounds_low,
        "bounds_high": rate.bounds_high,
    }


def _estimate_all(hits: Numbers, known: Numbers, missing: Numbers, weights: Numbers, k: int) -> PassAtK:
    enough = known >= k
    value, low, high, method = _estimate(hits[enough], known[enough], weights[enough], k)
    # Every question is asked as often, so that all have k completions, right or wrong or missing.
    asked = known + missing
    bound_low, lowest, _, _ = _estimate(hits, asked, weights, k)
    bound_high, _, highest, _ = _estimate(hits + missing, asked, weights, k)
    return {
        "value": value,
        "low": low,
        "high": high,
        "method": method,
        "num_samples": int(enough.sum()),
        "num_missing": int((~enough).sum()),
        "bound_low": bound_low,
        "bound_high": bound_high,
        "bounds_low": min(low, lowest),
        "bounds_high": max(high, highest),
    }


def _estimate(hits: Numbers, trials: Numbers, weights: Numbers, k: int) -> tuple[float, float, float, str]:
    """The weighted mean over questions, its interval, and the interval's method."""
    solved = np.asarray(
        [_pass_at_k(int(num), int(right), k) for num, right in zip(trials, hits, strict=True)]
    )
    weight = weights if len(np.unique(weights)) > 1 else None
    # n completions tell of a question as much as n / k disjoint groups of k; the question counts once.
    groups = trials / k
    of_group = (1.0 if weight is None else weight) / groups
    low, high, method = clustered_interval(solved * groups, groups, of_group)
    if weight is None:
        # Unequal numbers of completions are no weights of questions.
        method = method.removesuffix(WEIGHTED)
    return weighted_share(solved, np.ones(len(solved)), weight), low, high, method


def _pass_at_k(num: int, num_right: int, k: int) -> float:
    # In integers, which are exact: products of ratios would add up rounding errors over many completions.
    return 1.0 - math.comb(num - num_right, k) / math.comb(num, k)
