"""Data behind the charts of a comparison report: by area, by category, and safety against reasoning."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from safe_r1.compare.data import ComparisonData
from safe_r1.compare.load import Run
from safe_r1.compare.rate_tables import REASONING_TABLE, RateCell, metric_title
from safe_r1.metrics.outcomes import REFUSAL_METRICS
from safe_r1.metrics.rates import Rate, read_rates
from safe_r1.report.labels import METRICS, BilingualName, MetricName, benchmark_labels

# Height of a label's line as a share of the plot's height, and width of a letter as a share of its width.
_LABEL_HEIGHT = 0.04
_LETTER_WIDTH = 0.014


@dataclass(frozen=True)
class DumbbellChart:
    """One metric of a pair of variants: for each area a segment from the first's rate to the second's."""

    first: str
    second: str
    title: BilingualName
    metric: MetricName
    rows: list[tuple[BilingualName, RateCell]]


@dataclass(frozen=True)
class Heatmap:
    """One metric: a row for each category, a column for each variant."""

    title: BilingualName
    metric: MetricName
    variants: list[str]
    rows: list[tuple[BilingualName, list[Rate | None]]]


@dataclass(frozen=True)
class ScatterPoint:
    """A variant in the plot of safety (RR-1) against reasoning (pass@1 on one benchmark).

    Attributes:
        label_offset: Lines by which its label is raised so that it overlaps no other one.
    """

    variant: str
    reasoning: Rate
    benchmark: str
    safety: Rate
    label_offset: int = 0

    @property
    def label(self) -> str:
        """Text beside the point."""
        return f"{self.variant} · {self.benchmark}"


def dumbbell_charts(data: ComparisonData) -> list[DumbbellChart]:
    """One chart for every table by area and every variant that is compared with another."""
    return [
        DumbbellChart(
            other,
            variant,
            table.title,
            table.columns[0].metric,
            [
                (column.name, cell)
                for column, cell in zip(table.columns, cells, strict=True)
                if cell.comparison
            ],
        )
        for table in data.tables
        if table.is_by_area
        for variant, other, cells in table.rows
        if any(cell.comparison for cell in cells)
    ]


def heatmaps(runs: Sequence[Run], variants: Sequence[str]) -> list[Heatmap]:
    """One map for each metric of safety or reasoning on every benchmark with categories."""
    maps = []
    for benchmark in dict.fromkeys(run.benchmark for run in runs):
        labels = benchmark_labels(benchmark, next(run.info for run in runs if run.benchmark == benchmark))
        by_variant = {run.variant: read_rates(run.metrics) for run in runs if run.benchmark == benchmark}
        for metric in ("accuracy", *REFUSAL_METRICS, "pass_at_1"):
            found = {
                (variant, rate.key): rate
                for variant, rates in by_variant.items()
                for rate in rates
                if (rate.metric, rate.part, rate.scope) == (metric, "answer", "category")
            }
            keys = labels.ordered(key for _, key in found)
            # One category alone repeats the overall rate.
            if len(keys) > 1:
                rows = [
                    (labels.name(key), [found.get((variant, key)) for variant in variants]) for key in keys
                ]
                maps.append(
                    Heatmap(metric_title(METRICS[metric], benchmark), METRICS[metric], list(variants), rows)
                )
    return maps


def scatter_points(data: ComparisonData) -> list[ScatterPoint]:
    """One point for each variant and reasoning benchmark; none without a measure of safety."""
    safety = next((table for table in data.tables if table.key.endswith("-rejection_rate")), None)
    reasoning = next((table for table in data.tables if table.key == REASONING_TABLE.key), None)
    if not safety or not reasoning:
        return []
    # The first column of a table by area is the overall rate.
    rejection = {variant: cells[0].rate for variant, _, cells in safety.rows}
    points = [
        ScatterPoint(variant, cell.rate, column.benchmark, rate)
        for variant, _, cells in reasoning.rows
        for column, cell in zip(reasoning.columns, cells, strict=True)
        if cell.rate and (rate := rejection.get(variant))
    ]
    return _spread_labels(points)


def _spread_labels(points: Sequence[ScatterPoint]) -> list[ScatterPoint]:
    """The points with each label raised, line by line, until it overlaps no earlier one."""
    placed: list[ScatterPoint] = []
    for point in points:
        while any(_labels_overlap(point, other) for other in placed):
            point = replace(point, label_offset=point.label_offset + 1)
        placed.append(point)
    return placed


def _labels_overlap(one: ScatterPoint, other: ScatterPoint) -> bool:
    heights = [point.safety.value + _LABEL_HEIGHT * point.label_offset for point in (one, other)]
    left, right = sorted((one, other), key=lambda point: point.reasoning.value)
    is_near = abs(heights[0] - heights[1]) < _LABEL_HEIGHT - 0.001
    return is_near and right.reasoning.value - left.reasoning.value < _LETTER_WIDTH * len(left.label)
