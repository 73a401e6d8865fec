"""Results of a campaign: the overall rates of its comparison, for its page."""

import csv
from dataclasses import dataclass

from upath import UPath

from safe_r1.report.labels import METRICS, MetricName

# (share, lower and upper end of its 95% interval)
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Results:
    """A table of rates: variants by metrics.

    Attributes:
        columns: Benchmark and metric.
        rows: A variant and, for each column, its rate; None where it was not measured.
    """

    columns: list[tuple[str, MetricName]]
    rows: list[tuple[str, list[Interval | None]]]


def read_results(comparison: UPath) -> Results:
    """The overall rates in a comparison's ``tables/*.csv``, in the order of the metrics' names; empty where
    there are none.
    """
    rates: dict[tuple[str, str], dict[str, Interval]] = {}
    # A dict and not a set, as it keeps the order of the tables.
    variants: dict[str, None] = {}
    for file in sorted((comparison / "tables").glob("*.csv")):
        for row in csv.DictReader(file.read_text("utf-8").splitlines()):
            if row["scope"] == "overall":
                # The page leaves out the rates of areas and categories, which the tables list too.
                rate = (float(row["rate"]), float(row["low"]), float(row["high"]))
                rates.setdefault((row["benchmark"], row["metric"]), {})[row["variant"]] = rate
                variants[row["variant"]] = None
    order = list(METRICS)
    keys = sorted(rates, key=lambda key: (key[0], order.index(key[1])))
    rows = [(variant, [rates[key].get(variant) for key in keys]) for variant in variants]
    return Results([(benchmark, METRICS[metric]) for benchmark, metric in keys], rows)
