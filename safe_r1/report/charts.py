"""Data behind the charts of a report: rates by area and category."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from safe_r1.metrics.outcomes import METRICS_OF_GROUP, REFUSAL_METRICS
from safe_r1.metrics.rates import Rate
from safe_r1.report.labels import HISTORY, METRICS, BenchmarkLabels, BilingualName, MetricName
from safe_r1.schema import Sample

# Few, so that charts of different runs can be compared by eye.
_AXIS_ENDS = (0.4, 0.6, 1.0)


@dataclass(frozen=True)
class ChartRow:
    """One area or category of a chart, with one rate (or None) for each of the chart's metrics."""

    name: BilingualName
    rates: list[Rate | None]
    categories: list["ChartRow"]


@dataclass(frozen=True)
class AreaChart:
    """Areas with their categories for the metrics of one group of samples.

    Attributes:
        group: The group, see ``safe_r1.schema.Sample.group``.
        metrics: One column each.
        overall: The rate of each metric over all samples.
        areas: One row each, its categories below it.
        history: Rows without and with dialogue history, where there are both.
    """

    group: BilingualName
    metrics: list[MetricName]
    overall: list[Rate | None]
    areas: list[ChartRow]
    history: list[ChartRow]

    @property
    def axes(self) -> list[float]:
        """Right end of each metric's axis: shorter where every interval is low, so that small rates can be
        told apart.
        """
        rows = [row for area in self.areas for row in (area, *area.categories)] + self.history
        columns = zip(self.overall, *(row.rates for row in rows), strict=True)
        highest = [max((rate.high for rate in column if rate), default=1.0) for column in columns]
        return [next(end for end in _AXIS_ENDS if high <= end) for high in highest]


def area_charts(
    samples: Iterable[Sample], rates: Sequence[Rate], groups: Iterable[str], labels: BenchmarkLabels
) -> list[AreaChart]:
    """One chart for each group of samples that has rates by area.

    Args:
        samples: They say which area a category belongs to.
        rates: All rates of the run.
        groups: The groups of samples in the run.
        labels: Names of areas and categories.
    """
    # Rates name a category without its area.
    area_of = {sample.category: sample.area for sample in samples}
    shown = [("mcq", ("accuracy",)), ("refusal", REFUSAL_METRICS)]
    shown += [
        (group, metrics)
        for group, metrics in METRICS_OF_GROUP.items()
        if metrics == ("pass_at_1",) and group in groups
    ]
    charts = []
    for group, metrics in shown:
        of_group = [rate for rate in rates if rate.metric in metrics and rate.part == "answer"]
        # A group whose rows were all truncated or failed has counts but no rates.
        if of_group:
            charts.append(_area_chart(labels.group_name(group), metrics, of_group, area_of, labels))
    return charts


def _area_chart(
    group: BilingualName,
    metrics: Sequence[str],
    rates: Sequence[Rate],
    area_of: Mapping[str, str],
    labels: BenchmarkLabels,
) -> AreaChart:
    table = {(rate.scope, rate.key, rate.metric): rate for rate in rates}

    def row(scope: str, name: BilingualName, categories: list[ChartRow] | None = None) -> ChartRow:
        return ChartRow(name, [table.get((scope, name.key, metric)) for metric in metrics], categories or [])

    areas = labels.ordered(rate.key for rate in rates if rate.scope == "area")
    categories = labels.ordered(rate.key for rate in rates if rate.scope == "category")
    return AreaChart(
        group,
        [METRICS[metric] for metric in metrics],
        [table.get(("overall", "all", metric)) for metric in metrics],
        [
            row(
                "area",
                labels.name(area),
                # An area without categories of its own has one of the same key.
                [row("category", labels.name(key)) for key in categories if area == area_of.get(key) != key],
            )
            for area in areas
        ],
        [row("history", name) for name in HISTORY.values() if ("history", name.key, metrics[0]) in table],
    )
