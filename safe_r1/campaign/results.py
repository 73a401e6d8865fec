"""Results of a campaign: the overall rates of its comparison, and those corrected by labels, for its page."""

import csv
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from upath import UPath

from safe_r1.attacks.base import PLAIN
from safe_r1.benchmarks.attacked import split_attack
from safe_r1.errors import SafeR1Error
from safe_r1.report.cells import text_of_csv
from safe_r1.report.corrected import CorrectedRow, corrected_rates, read_calibration
from safe_r1.report.labels import METRICS, MetricName, benchmark_labels
from safe_r1.runs import RunFolder

# The accuracy of comparisons before metrics.json of schema version 3 leaves out what was not answered.
_FORMER_METRICS = {"accuracy": "accuracy_answered"}


@dataclass(frozen=True)
class OverallRate:
    """A share with its 95% interval.

    Attributes:
        value: The share.
        low, high: Ends of its interval.
        bound_low, bound_high: What it is if no missing row were a hit, and if all were; of a corrected rate
            the ends of its interval then.
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
class ResultColumn:
    """One column of the table: a metric on a benchmark, by the judge's labels or corrected by people's."""

    benchmark: str
    metric: MetricName
    is_corrected: bool = False


@dataclass(frozen=True)
class Results:
    """A table of rates: variants by columns.

    Attributes:
        columns: See ``ResultColumn``; a corrected one stands behind its judged one, where a run has labels.
        rows: A variant and, for each column, its rate; None where it was not measured, or not corrected.
    """

    columns: list[ResultColumn]
    rows: list[tuple[str, list[OverallRate | None]]]

    @property
    def has_corrected(self) -> bool:
        """True where people's labels correct a rate."""
        return any(column.is_corrected for column in self.columns)


def read_results(comparison: UPath, runs: UPath | None = None) -> Results:
    """The overall rates in a comparison's ``tables/*.csv``, in the order of the metrics' names; empty where
    there are none.

    Args:
        comparison: Folder of the comparison.
        runs: Folder with the compared runs by variant and benchmark, whose calibrations correct the rates.
    """
    rates: dict[tuple[str, str], dict[str, OverallRate]] = {}
    # A dict and not a set, as it keeps the order of the tables.
    variants: dict[str, None] = {}
    for file in sorted((comparison / "tables").glob("*.csv")):
        for row in csv.DictReader(file.read_text("utf-8").splitlines()):
            is_attacked = split_attack(row["benchmark"])[1] not in ("", PLAIN.name)
            # The page leaves out areas and categories, which the tables list too, and single attacks.
            if row["scope"] == "overall" and not is_attacked:
                variant = text_of_csv(row["variant"])
                key = (text_of_csv(row["benchmark"]), _metric_of(row))
                rates.setdefault(key, {})[variant] = _rate_of(row)
                variants[variant] = None

    @functools.cache
    def calibrated(variant: str, benchmark: str) -> list[CorrectedRow]:
        return _calibrated(RunFolder(runs / variant / benchmark), benchmark) if runs else []

    order = list(METRICS)
    columns: dict[ResultColumn, Mapping[str, OverallRate]] = {}
    for benchmark, metric in sorted(rates, key=lambda key: (key[0], order.index(key[1]))):
        judged = rates[benchmark, metric]
        columns[ResultColumn(benchmark, METRICS[metric])] = judged
        of_variants = {variant: calibrated(variant, benchmark) for variant in judged}
        if found := _corrected(metric, judged, of_variants):
            columns[ResultColumn(benchmark, METRICS[metric], is_corrected=True)] = found
    return Results(
        list(columns),
        [(variant, [by_variant.get(variant) for by_variant in columns.values()]) for variant in variants],
    )


def _metric_of(row: Mapping[str, str]) -> str:
    metric = row["metric"]
    return metric if "bound_low" in row else _FORMER_METRICS.get(metric, metric)


def _rate_of(row: Mapping[str, str]) -> OverallRate:
    value = float(row["rate"])
    bounds = (float(row.get(name, value)) for name in ("bound_low", "bound_high"))
    return OverallRate(value, float(row["low"]), float(row["high"]), *bounds)


def _corrected(
    metric: str, judged: Mapping[str, OverallRate], calibrated: Mapping[str, Sequence[CorrectedRow]]
) -> dict[str, OverallRate]:
    """A metric's corrected rates by variant."""
    found: dict[str, OverallRate] = {}
    for variant, rate in judged.items():
        for row in calibrated[variant]:
            is_meant = row.name.key == metric and row.part == "answer" and row.is_overall
            # Of verdicts that were edited after the comparison, it would correct another rate.
            if is_meant and row.judged is not None and math.isclose(row.judged, rate.value, abs_tol=1e-9):
                low = row.value if row.bound_low is None else row.bound_low
                high = row.value if row.bound_high is None else row.bound_high
                found[variant] = OverallRate(row.value, row.low, row.high, low, high)
    return found


def _calibrated(folder: RunFolder, benchmark: str) -> list[CorrectedRow]:
    """The rates of a run that labels of its present rows correct; none where a file is damaged, which
    ``safe-r1 report`` tells: the page of a campaign that goes on must not end it.
    """
    try:
        info = folder.read_json("run.json") or {}
        calibration = read_calibration(folder, info.get("results_sha256", ""))
        found = corrected_rates(calibration, benchmark_labels(benchmark, info))
    except SafeR1Error:
        return []
    return found.rows if found else []
