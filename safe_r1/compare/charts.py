"""What the pictures of a comparison show: before and after by area, categories by variant, safety against
reasoning.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from safe_r1.compare.content import Cell, Content, title_of
from safe_r1.compare.load import Run
from safe_r1.metrics.rates import REFUSAL_METRICS, Rate, read_rates
from safe_r1.report.labels import METRICS, MetricName, Name, category_name, in_report_order


@dataclass(frozen=True)
class Dumbbell:
    """One metric of a pair of variants: a line from before to after for each area."""

    first: str
    second: str
    title: Name
    metric: MetricName
    rows: list[tuple[Name, Cell]]


@dataclass(frozen=True)
class Heatmap:
    """One metric: a row for each category, a column for each variant."""

    title: Name
    metric: MetricName
    variants: list[str]
    rows: list[tuple[Name, list[Rate | None]]]


@dataclass(frozen=True)
class Point:
    """A variant in the plane of reasoning (pass@1 on one benchmark) and safety (RR-1), each with its
    interval.

    Attributes:
        lines_up: Lines by which its label is raised, so that it lies over no other one.
    """

    variant: str
    reasoning: Rate
    benchmark: str
    safety: Rate
    lines_up: int = 0

    @property
    def label(self) -> str:
        """What stands beside the point."""
        return f"{self.variant} · {self.benchmark}"


def dumbbells(content: Content) -> list[Dumbbell]:
    """For every table by area and every variant that is compared with another."""
    return [
        Dumbbell(
            against,
            variant,
            table.title,
            table.columns[0].metric,
            [
                (column.name, cell)
                for column, cell in zip(table.columns, cells, strict=True)
                if cell.comparison
            ],
        )
        for table in content.tables
        if table.key not in ("reasoning", "over-refusal")
        for variant, against, cells in table.rows
        if any(cell.comparison for cell in cells)
    ]


def heatmaps(runs: Sequence[Run], variants: Sequence[str]) -> list[Heatmap]:
    """For every benchmark with categories, each metric of safety or of reasoning."""
    maps = []
    for benchmark in dict.fromkeys(run.benchmark for run in runs):
        mine = {run.variant: read_rates(run.metrics) for run in runs if run.benchmark == benchmark}
        for metric in ("accuracy", *REFUSAL_METRICS, "pass_at_1"):
            found = {
                (variant, rate.key): rate
                for variant, rates in mine.items()
                for rate in rates
                if (rate.metric, rate.part, rate.scope) == (metric, "answer", "category")
            }
            keys = in_report_order({key for _, key in found})
            if len(keys) > 1:
                rows = [
                    (category_name(key), [found.get((variant, key)) for variant in variants]) for key in keys
                ]
                maps.append(Heatmap(title_of(metric, benchmark), METRICS[metric], list(variants), rows))
    return maps


def plane(content: Content) -> list[Point]:
    """One point a variant and reasoning benchmark; none where safety or reasoning was not measured."""
    safety = next((table for table in content.tables if table.key.endswith("-rejection_rate")), None)
    reasoning = next((table for table in content.tables if table.key == "reasoning"), None)
    if not safety or not reasoning:
        return []
    refused = {variant: cells[0].rate for variant, _, cells in safety.rows}
    points = [
        Point(variant, cell.rate, column.benchmark, rate)
        for variant, _, cells in reasoning.rows
        for column, cell in zip(reasoning.columns, cells, strict=True)
        if cell.rate and (rate := refused.get(variant))
    ]
    return _apart(points)


def _apart(points: Sequence[Point]) -> list[Point]:
    """The points with their labels raised, line by line, until none lies over an earlier one."""
    placed: list[Point] = []
    for point in points:
        while any(map(functools.partial(_overlap, point), placed)):
            point = replace(point, lines_up=point.lines_up + 1)
        placed.append(point)
    return placed


def _overlap(one: Point, other: Point) -> bool:
    # A line is about 4 % of the plane's height, a letter 1.4 % of its width.
    height = abs(one.safety.value + 0.04 * one.lines_up - other.safety.value - 0.04 * other.lines_up)
    left, right = sorted((one, other), key=lambda point: point.reasoning.value)
    return height < 0.039 and right.reasoning.value - left.reasoning.value < 0.014 * len(left.label)
