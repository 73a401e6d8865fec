"""Confidence intervals of a proportion, for independent and for clustered trials.

Source:
    Wilson interval: Brown, Cai, DasGupta, "Interval Estimation for a Binomial Proportion", Statistical
    Science 16 (2001). Effective sample size put into an interval for independent trials: Korn and Graubard,
    "Confidence Intervals for Proportions With Small Expected Number of Positive Counts Estimated From Survey
    Data", Survey Methodology 24 (1998); with Wilson's interval: Dean and Pagano, "Evaluating Confidence
    Interval Methods for Binomial Proportions in Clustered Surveys", Journal of Survey Statistics and
    Methodology 3 (2015), and Franco, Little, Louis, Slud, same journal 7 (2019), who recommend it.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95
WILSON = "wilson"
WILSON_CLUSTER = "wilson-cluster"


def wilson_interval(numerator: float, denominator: float) -> tuple[float, float]:
    """Wilson's 95% interval of ``numerator / denominator``; both may be fractional (effective counts).

    Raises:
        ValueError: The denominator is not positive.
    """
    if denominator <= 0:
        raise ValueError(f"a rate needs a positive denominator, got {denominator}")
    # Imported here, as it loads pandas: seconds that commands without intervals should not wait.
    from statsmodels.stats.proportion import proportion_confint

    low, high = np.asarray(
        proportion_confint(numerator, denominator, alpha=1 - CONFIDENCE, method="wilson"), float
    ).tolist()
    # The formula is exact at the borders, its floating-point evaluation is not.
    return (0.0 if numerator == 0 else max(low, 0.0)), (1.0 if numerator == denominator else min(high, 1.0))


def effective_sample_size(successes: Sequence[int], trials: Sequence[int]) -> float:
    """Number of independent trials that would give the clustered proportion the same variance.

    The variance is the linearised one of a ratio estimator over clusters; Korn and Graubard's ratio of t
    quantiles pays for estimating it from few clusters. The result lies between Kish's size ``(sum m)^2 / sum
    m^2``, which is right where all trials of a cluster agree, and the number of trials, which is right where
    they are independent.

    Args:
        successes: Number of successes in each cluster.
        trials: Number of trials in each cluster, all positive.
    """
    hits = np.asarray(successes, float)
    sizes = np.asarray(trials, float)
    total = sizes.sum()
    num_clusters = len(sizes)
    smallest = total**2 / (sizes**2).sum()
    rate = hits.sum() / total
    # Nothing to estimate a design effect from: full dependence is the assumption that cannot be too narrow.
    if num_clusters < 2 or rate in (0.0, 1.0):
        return float(smallest)
    # Residuals are added up within a cluster before squaring, as its trials do not vary independently.
    variance = num_clusters / (num_clusters - 1) * ((hits - rate * sizes) ** 2).sum() / total**2
    # All clusters have the same rate: less spread than independent trials, and no reason to widen.
    if variance == 0:
        return float(total)
    quantile = 0.5 + CONFIDENCE / 2
    few_clusters = (stdtrit(total - 1, quantile) / stdtrit(num_clusters - 1, quantile)) ** 2
    # Estimated from a few clusters, the size may leave the range that is possible at all.
    return float(np.clip(rate * (1 - rate) / variance * few_clusters, smallest, total))


def clustered_interval(successes: Sequence[int], trials: Sequence[int]) -> tuple[float, float, str]:
    """95% interval of ``sum(successes) / sum(trials)`` with the trials of a cluster (a question) dependent.

    Returns:
        Low, high, and the method: ``wilson`` where every cluster has one trial, else ``wilson-cluster``.
    """
    total = sum(trials)
    if max(trials, default=0) <= 1:
        return *wilson_interval(sum(successes), total), WILSON
    size = effective_sample_size(successes, trials)
    # At the borders the count is exact: a product with the size could be off by a rounding error.
    if sum(successes) in (0, total):
        return *wilson_interval(size if sum(successes) else 0, size), WILSON_CLUSTER
    return *wilson_interval(sum(successes) / total * size, size), WILSON_CLUSTER
