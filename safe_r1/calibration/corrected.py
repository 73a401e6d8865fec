"""Corrected rates: median and interval of the draws of a run, and of the differences between two runs.

The interval holds the middle 95% of the draws. Rows without a verdict are imputed nowhere: they make the
bounds, with all of them as misses and as hits.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.special import betaincinv

from safe_r1.calibration.imputation import Floats
from safe_r1.calibration.rate_draws import LabelledRows, RateDraws, RateDrawsFold, RateKey
from safe_r1.metrics.intervals import CONFIDENCE
from safe_r1.runs import JsonObject
from safe_r1.schema import Part

_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class CorrectedRate:
    """A rate corrected by people's labels.

    Attributes:
        metric, part, scope, key: As of ``safe_r1.metrics.rate_fold.Rate``.
        judged: The rate by the judge's own labels; None where its denominator is empty.
        num_judged: Rows in that rate's denominator.
        num_missing: Rows without a verdict.
        value: Median of the draws.
        low, high: Ends of the 95% interval.
        bound_low, bound_high: Ends of it with all missing rows as misses, and as hits.
        floored: ``high`` (``low``) where the labels hold no hit (no miss), so that this end is at least (at
            most) that of Jeffreys' interval; empty otherwise.
    """

    metric: str
    part: Part
    scope: str
    key: str
    judged: float | None
    num_judged: int
    num_missing: int
    value: float
    low: float
    high: float
    bound_low: float
    bound_high: float
    floored: str = ""

    def to_json(self) -> JsonObject:
        """As plain values."""
        return asdict(self)


def corrected_rates(fold: RateDrawsFold) -> list[CorrectedRate]:
    """Median and interval of each rate; one that has no denominator in some draw is left out."""
    rates: list[CorrectedRate] = []
    for name, draws in fold.rates.items():
        if not np.isnan(draws.values()).any():
            rates.append(_with_floor(_corrected(name, draws), fold.labelled[name.metric, name.part]))
    return rates


def _corrected(name: RateKey, draws: RateDraws) -> CorrectedRate:
    low, value, high = np.quantile(draws.values(), (_TAILS[0], 0.5, _TAILS[1])).tolist()
    return CorrectedRate(
        *name,
        judged=draws.judged_hits / draws.judged_trials if draws.judged_trials else None,
        num_judged=draws.num_judged,
        num_missing=draws.num_missing,
        value=value,
        low=low,
        high=high,
        bound_low=float(np.quantile(draws.hits / draws.population, _TAILS[0])),
        bound_high=float(np.quantile((draws.hits + draws.missing) / draws.population, _TAILS[1])),
    )


def _with_floor(rate: CorrectedRate, labelled: LabelledRows) -> CorrectedRate:
    """The rate with an end of Jeffreys' interval where the labels hold no hit, or no miss.

    Imputation alone would then rest on the prior.
    """
    upper = float(betaincinv(0.5, labelled.effective_size() + 0.5, _TAILS[1]))
    if labelled.num_hits == 0:
        high = max(rate.high, upper)
        return replace(rate, high=high, bound_high=max(rate.bound_high, high), floored="high")
    if labelled.num_hits == labelled.num_labels:
        low = min(rate.low, 1 - upper)
        return replace(rate, low=low, bound_low=min(rate.bound_low, low), floored="low")
    return rate


@dataclass(frozen=True)
class CorrectedDifference:
    """A difference between two runs of the same questions, second minus first, in corrected rates."""

    metric: str
    part: Part
    scope: str
    key: str
    value: float
    low: float
    high: float


def corrected_differences(
    first: Mapping[RateKey, Floats], second: Mapping[RateKey, Floats]
) -> list[CorrectedDifference]:
    """Differences of the rates that both runs have.

    Args:
        first, second: The rates in each draw, with the same weights of the questions: the same seed and
            number of draws, over the same questions.
    """
    found: list[CorrectedDifference] = []
    for name in first.keys() & second.keys():
        low, value, high = np.quantile(second[name] - first[name], (_TAILS[0], 0.5, _TAILS[1])).tolist()
        found.append(CorrectedDifference(*name, value=value, low=low, high=high))
    return sorted(found, key=lambda each: (each.metric, each.part, each.scope, each.key))
