"""The true rate behind a judge's verdicts, from people's labels of some of them, by counts alone.

The same model as that of ``safe_r1.calibration`` for a run's rows, for two classes and one answer a question,
where counts say all: in each draw the share of hits of a stratum is Beta with its labels as counts,
unlabelled answers are hits by it, and questions have the weights of a Bayesian bootstrap, under which the
weighted share of ``h`` hits of ``n`` rows is Beta(h, n - h). Where no label is a hit, or none a miss, the
interval ends no earlier than Jeffreys' on the labels' effective size.

All arrays have services in front, so that a simulation draws for many at once.

Source:
    As of ``safe_r1.calibration.imputation`` and ``safe_r1.calibration.corrected``; Kish, "Survey Sampling"
    (1965) for the effective size.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

from safe_r1.calibration.imputation import PRIOR_MASS, Floats, Ints
from safe_r1.metrics.intervals import CONFIDENCE


@dataclass(frozen=True)
class StrataCounts:
    """Counts of a judge's strata, each of shape (services, strata).

    Attributes:
        num_rows: Answers.
        num_labels: Those that people labelled.
        num_hits: Labels that are hits; expected ones may be fractional.
        shapes: Shares of hits that are expected without any label, shape (strata,).
    """

    num_rows: Ints
    num_labels: Ints
    num_hits: Floats
    shapes: Floats

    def posterior(self) -> tuple[Floats, Floats]:
        """Parameters of the Beta distributions of the true shares, for hits and misses."""
        # Half of the prior is shaped as expected, half flat, as for the rows of a run.
        prior = PRIOR_MASS * (self.shapes + 0.5) / 2
        return self.num_hits + prior, self.num_labels - self.num_hits + PRIOR_MASS - prior


@dataclass(frozen=True)
class Corrected:
    """True rates behind a judge's verdicts, each of shape (services,).

    Attributes:
        value, low, high: Median and interval.
        bounds_low, bounds_high: Ends of it with all missing rows as misses, and as hits.
        hits: Low, median and high of the hits among the answers themselves, shape (3, services).
    """

    value: Floats
    low: Floats
    high: Floats
    bounds_low: Floats
    bounds_high: Floats
    hits: Floats


def correct(
    counts: StrataCounts,
    random: np.random.Generator,
    num_draws: int,
    num_missing: int = 0,
    part: Ints | None = None,
    confidence: float = CONFIDENCE,
) -> Corrected:
    """Estimate the true rates.

    Args:
        counts: Verdicts and labels.
        random: For the draws.
        num_draws: Number of draws.
        num_missing: Answers without a verdict: they are imputed nowhere, and make the bounds.
        part: Answers by stratum of a part, such as a risk, whose rate is wanted; the labels say how often
            verdicts are right everywhere, and none of these answers keeps its own. None: all answers.
        confidence: Of the intervals.
    """
    tails = ((1 - confidence) / 2, 0.5, (1 + confidence) / 2)
    first, second = counts.posterior()
    shares = random.beta(first[..., None], second[..., None], (*first.shape, num_draws))
    imputed = counts.num_rows - counts.num_labels if part is None else part
    known = counts.num_hits.sum(axis=1) if part is None else np.zeros(len(part))
    num_rows = (counts.num_rows if part is None else part).sum(axis=1)
    hits = known[:, None] + random.binomial(imputed[..., None], shares).sum(axis=1)
    # Sums of exponential weights; a gamma draw of shape 0 is 0, where a Beta draw is not defined.
    of_hits = random.standard_gamma(hits)
    of_all = of_hits + random.standard_gamma(np.maximum(num_rows[:, None] - hits, 0.0))
    low, value, high = np.quantile(of_hits / of_all, tails, axis=1)
    lowest, highest = low, high
    if num_missing:
        of_missing = random.standard_gamma(float(num_missing), of_all.shape)
        of_population = of_all + of_missing
        lowest = np.quantile(of_hits / of_population, tails[0], axis=1)
        highest = np.quantile((of_hits + of_missing) / of_population, tails[2], axis=1)
    low, high = _with_floor(low, high, counts, tails[2])
    return Corrected(
        value=value,
        low=low,
        high=high,
        bounds_low=np.minimum(low, lowest),
        bounds_high=np.maximum(high, highest),
        hits=np.quantile(hits, tails, axis=1),
    )


def _with_floor(low: Floats, high: Floats, counts: StrataCounts, tail: float) -> tuple[Floats, Floats]:
    """The ends with those of Jeffreys' interval where the labels hold no hit, or no miss."""
    parts = counts.num_rows**2 / np.maximum(counts.num_labels, 1)
    size = counts.num_rows.sum(axis=1) ** 2 / parts.sum(axis=1)
    upper = betaincinv(0.5, size + 0.5, tail)
    num_hits = counts.num_hits.sum(axis=1)
    num_labels = counts.num_labels.sum(axis=1)
    high = np.where(num_hits == 0, np.maximum(high, upper), high)
    low = np.where(num_hits == num_labels, np.minimum(low, 1 - upper), low)
    return low, high
