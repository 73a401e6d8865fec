"""Confidence intervals of a proportion, for independent, clustered and weighted trials.

They speak of questions like the ones that were asked, of which these are a sample. For exactly these
questions, whose completions alone vary, they are conservative.

Source:
    Wilson interval: Brown, Cai, DasGupta, "Interval Estimation for a Binomial Proportion", Statistical
    Science 16 (2001). Effective sample size put into an interval for independent trials: Korn and Graubard,
    "Confidence Intervals for Proportions With Small Expected Number of Positive Counts Estimated From Survey
    Data", Survey Methodology 24 (1998); with Wilson's interval: Dean and Pagano, "Evaluating Confidence
    Interval Methods for Binomial Proportions in Clustered Surveys", Journal of Survey Statistics and
    Methodology 3 (2015), and Franco, Little, Louis, Slud, same journal 7 (2019), who recommend it. Weights:
    Kish, "Survey Sampling" (1965), section 11.7.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

CONFIDENCE = 0.95
WILSON = "wilson"
WILSON_CLUSTER = "wilson-cluster"
WEIGHTED = "-weighted"
"""Ending of the method of an interval whose questions have different weights."""

Numbers = Sequence[float] | npt.NDArray[np.float64] | npt.NDArray[np.int64]


def wilson_interval(
    numerator: float, denominator: float, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Wilson's interval of ``numerator / denominator``; both may be fractional (effective counts).

    Args:
        numerator: Hits.
        denominator: Trials.
        confidence: Of the interval; more than 95% where several intervals are to hold together.

    Raises:
        ValueError: The denominator is not positive.
    """
    if denominator <= 0:
        raise ValueError(f"a rate needs a positive denominator, got {denominator}")
    # Imported here, as it loads pandas: seconds that commands without intervals should not wait.
    from statsmodels.stats.proportion import proportion_confint

    low, high = np.asarray(
        proportion_confint(numerator, denominator, alpha=1 - confidence, method="wilson"), float
    ).tolist()
    # The formula is exact at the borders, its floating-point evaluation is not.
    return (0.0 if numerator == 0 else max(low, 0.0)), (1.0 if numerator == denominator else min(high, 1.0))


def effective_sample_size(successes: Numbers, trials: Numbers, weights: Numbers | None = None) -> float:
    """Number of independent trials that would give the clustered proportion the same variance.

    The variance is the linearised one of a ratio estimator over clusters; Korn and Graubard's ratio of t
    quantiles pays for estimating it from few clusters. The result lies between Kish's size ``(sum wm)^2 / sum
    (wm)^2``, which is right where all trials of a cluster agree, and ``(sum wm)^2 / sum w^2 m``, which is
    right where they are independent: the number of trials where all weights are equal.

    Args:
        successes: Number of successes in each cluster.
        trials: Number of trials in each cluster, all positive.
        weights: Weight of each trial of a cluster; None: all alike.
    """
    hits = np.asarray(successes, float)
    sizes = np.asarray(trials, float)
    weight = np.ones(len(sizes)) if weights is None else np.asarray(weights, float)
    total = (weight * sizes).sum()
    num_clusters = len(sizes)
    smallest = total**2 / ((weight * sizes) ** 2).sum()
    largest = total**2 / (weight**2 * sizes).sum()
    rate = (weight * hits).sum() / total
    # Nothing to estimate a design effect from: full dependence is the assumption that cannot be too narrow.
    if num_clusters < 2 or rate in (0.0, 1.0):
        return float(smallest)
    # Residuals are added up within a cluster before squaring, as its trials do not vary independently.
    residuals = weight * (hits - rate * sizes)
    variance = num_clusters / (num_clusters - 1) * (residuals**2).sum() / total**2
    # All clusters have the same rate: less spread than independent trials, and no reason to widen.
    if variance == 0:
        return float(largest)
    quantile = 0.5 + CONFIDENCE / 2
    few_clusters = (stdtrit(sizes.sum() - 1, quantile) / stdtrit(num_clusters - 1, quantile)) ** 2
    # Estimated from a few clusters, the size may leave the range that is possible at all.
    return float(np.clip(rate * (1 - rate) / variance * few_clusters, smallest, largest))


def clustered_interval(
    successes: Numbers, trials: Numbers, weights: Numbers | None = None
) -> tuple[float, float, str]:
    """95% interval of ``sum(w * successes) / sum(w * trials)`` with the trials of a cluster dependent.

    Args:
        successes: Number of successes in each cluster (a question).
        trials: Number of trials in each cluster, all positive.
        weights: Weight of each trial of a cluster; None: all alike.

    Returns:
        Low, high, and the method: ``wilson`` where every cluster has one trial, else ``wilson-cluster``; with
        ``-weighted`` behind it where the weights differ.
    """
    hits = np.asarray(successes, float)
    sizes = np.asarray(trials, float)
    weight = None if weights is None or len(np.unique(weights)) < 2 else np.asarray(weights, float)
    method = WILSON if (sizes <= 1).all() else WILSON_CLUSTER
    if weight is None and method == WILSON:
        return *wilson_interval(hits.sum(), sizes.sum()), method
    size = effective_sample_size(hits, sizes, weight)
    rate = weighted_share(hits, sizes, weight)
    if weight is not None:
        method += WEIGHTED
    # At the borders the count is exact: a product with the size could be off by a rounding error.
    if rate in (0.0, 1.0):
        return *wilson_interval(size if rate else 0, size), method
    return *wilson_interval(rate * size, size), method


def weighted_share(successes: Numbers, trials: Numbers, weights: Numbers | None = None) -> float:
    """``sum(w * successes) / sum(w * trials)``."""
    hits = np.asarray(successes, float)
    sizes = np.asarray(trials, float)
    weight = 1.0 if weights is None else np.asarray(weights, float)
    return float((weight * hits).sum() / (weight * sizes).sum())
