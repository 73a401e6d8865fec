"""Results of a campaign: the overall rates of its comparison, for its page."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass

from upath import UPath

from safe_r1.report.labels import METRICS, MetricName

# The accuracy of comparisons before metrics.json of schema version 3 leaves out what was not answered.
_FORMER_METRICS = {"accuracy": "accuracy_answered"}


@dataclass(frozen=True)
class OverallRate:
    """A share with its 95% interval.

    Attributes:
        value: The share.
        low, high: Ends of its interval.
        bound_low, bound_high: What it is if no missing row were a hit, and if all were.
    """

    value: float
    low: float
    high: float
    bound_low: float
    bound_high: float

    @property
    def has_missing(self) -> bool:
        """True where missing rows leave the share open."""
        return self.bound_low < self.bound_high


@dataclass(frozen=True)
class Results:
    """A table of rates: variants by metrics.

    Attributes:
        columns: Benchmark and metric.
        rows: A variant and, for each column, its rate; None where it was not measured.
    """

    columns: list[tuple[str, MetricName]]
    rows: list[tuple[str, list[OverallRate | None]]]


def read_results(comparison: UPath) -> Results:
    """The overall rates in a comparison's ``tables/*.csv``, in the order of the metrics' names; empty where
    there are none.
    """
    rates: dict[tuple[str, str], dict[str, OverallRate]] = {}
    # A dict and not a set, as it keeps the order of the tables.
    variants: dict[str, None] = {}
    for file in sorted((comparison / "tables").glob("*.csv")):
        for row in csv.DictReader(file.read_text("utf-8").splitlines()):
            if row["scope"] == "overall":
                # The page leaves out the rates of areas and categories, which the tables list too.
                rates.setdefault((row["benchmark"], _metric_of(row)), {})[row["variant"]] = _rate_of(row)
                variants[row["variant"]] = None
    order = list(METRICS)
    keys = sorted(rates, key=lambda key: (key[0], order.index(key[1])))
    rows = [(variant, [rates[key].get(variant) for key in keys]) for variant in variants]
    return Results([(benchmark, METRICS[metric]) for benchmark, metric in keys], rows)


def _metric_of(row: Mapping[str, str]) -> str:
    metric = row["metric"]
    return metric if "bound_low" in row else _FORMER_METRICS.get(metric, metric)


def _rate_of(row: Mapping[str, str]) -> OverallRate:
    value = float(row["rate"])
    bounds = (float(row.get(name, value)) for name in ("bound_low", "bound_high"))
    return OverallRate(value, float(row["low"]), float(row["high"]), *bounds)
