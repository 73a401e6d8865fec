"""Rates of which nothing is known: main metrics that have rows, none of them with an outcome."""

import math
from collections import Counter
from collections.abc import Collection, Mapping

from safe_r1.metrics.outcomes import ASKED_METRICS
from safe_r1.metrics.rate_fold import Clusters, Rate
from safe_r1.runs import JsonObject

_OVERALL = ("overall", "all")


def without_outcome(
    folds: Mapping[str, Mapping[tuple[str, str], Clusters]], left_out: Collection[str]
) -> list[JsonObject]:
    """The metrics none of whose rows has an outcome, with the numbers of rows and of questions.

    Args:
        folds: The clusters of each metric by scope and key, see ``RateFold.clusters``.
        left_out: Metrics that say nothing with the run's judge.
    """
    found: list[JsonObject] = []
    for metric, clusters in folds.items():
        # Of accuracy every row that was asked and has no outcome is no hit: it is always known.
        if metric in ASKED_METRICS or metric in left_out:
            continue
        overall = clusters.get(_OVERALL, Counter())
        num_missing = sum(missing * number for (_, _, missing, _), number in overall.items())
        if num_missing and not any(known for _, known, _, _ in overall):
            found.append({"metric": metric, "num_missing": num_missing, "num_samples": overall.total()})
    return found


def unknown_rates(metrics: JsonObject) -> list[Rate]:
    """The metrics of ``without_outcome`` as rates of no row, whose bounds are 0 and 1.

    Args:
        metrics: Content of ``metrics.json``.
    """
    return [
        Rate(
            metric=each["metric"],
            part="answer",
            scope=_OVERALL[0],
            key=_OVERALL[1],
            numerator=0,
            denominator=0,
            num_samples=each["num_samples"],
            value=math.nan,
            low=math.nan,
            high=math.nan,
            method="none",
            num_missing=each["num_missing"],
            bound_low=0.0,
            bound_high=1.0,
            bounds_low=0.0,
            bounds_high=1.0,
        )
        for each in metrics.get("without_outcome", [])
    ]
