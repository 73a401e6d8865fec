"""What a comparison report shows, arranged for its renderers: tables of rates with differences, findings,
gaps.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from upath import UPath

from safe_r1.compare.differences import Comparison, Relation, in_lineage
from safe_r1.compare.load import Run
from safe_r1.metrics.rates import (
    METRICS_OF_GROUP,
    OVER_REFUSAL_METRICS,
    REFUSAL_METRICS,
    Rate,
    read_counts,
    read_rates,
)
from safe_r1.report.labels import METRICS, MetricName, Name, area_name, in_report_order
from safe_r1.runs import is_local

_RELATIONS: dict[Relation, Name] = {
    "distillation": Name("distillation", "蒸馏", "distillation"),
    "enhancement": Name("enhancement", "安全增强", "enhancement"),
    "baseline": Name("baseline", "与基线相比", "against the baseline"),
}
_HISTORY = {"without": Name("without", "无历史", "no history"), "with": Name("with", "有历史", "history")}
_OVERALL = Name("all", "总体", "Overall")


@dataclass(frozen=True)
class Column:
    """One column of a table: what is measured on what."""

    name: Name
    metric: MetricName
    benchmark: str
    scope: str
    key: str


@dataclass(frozen=True)
class Cell:
    """A variant's rate, its difference from the variant that it is compared with, and where its rows are."""

    rate: Rate | None
    comparison: Comparison | None
    link: str

    @property
    def standing(self) -> str:
        """See ``Comparison.effect``."""
        return self.comparison.effect if self.comparison else ""


@dataclass(frozen=True)
class Table:
    """Variants by columns; ``key`` names its file."""

    key: str
    title: Name
    columns: list[Column]
    rows: list[tuple[str, str, list[Cell]]]


@dataclass(frozen=True)
class Pair:
    """Two variants and the overall comparisons between them."""

    first: str
    second: str
    relation: Name
    comparisons: list[Comparison]


@dataclass(frozen=True)
class Content:
    """Everything that the renderers show.

    Attributes:
        baseline: The variant that all are compared with.
        variants: Names, each after the one that it was made from.
        tables: See ``Table``; a row is (variant, compared with, cells).
        pairs: See ``Pair``.
        comparisons: All of them.
        lengths: (variant, benchmark, part, rows, mean, median) in tokens.
        facts: What the runs have in common, as name and text.
        problems: What is not comparable or missing, where that was allowed.
        margin: Loss of pass@1 that counts as none.
        num_headline: Size of the family of overall tests.
        num_detail: Size of the other family.
    """

    baseline: str
    variants: list[str]
    tables: list[Table]
    pairs: list[Pair]
    comparisons: list[Comparison]
    lengths: list[tuple[str, str, str, int, float, float]]
    facts: list[tuple[str, str]]
    problems: list[str]
    margin: float
    num_headline: int
    num_detail: int


def make_content(
    runs: Sequence[Run],
    comparisons: Sequence[Comparison],
    baseline: str,
    problems: Sequence[str],
    margin: float,
    output: UPath,
) -> Content:
    """Arrange runs and comparisons for the renderers."""
    variants = in_lineage(runs, baseline)
    builder = _Builder(runs, comparisons, variants, output)
    families = [comparison.family for comparison in comparisons]
    pairs: dict[tuple[str, str], Relation] = {(one.first, one.second): one.relation for one in comparisons}
    overall = {
        pair: [one for one in comparisons if (one.first, one.second, one.scope) == (*pair, "overall")]
        for pair in pairs
    }
    return Content(
        baseline=baseline,
        variants=variants,
        tables=builder.tables(),
        pairs=[
            Pair(first, second, _RELATIONS[relation], overall[first, second])
            for (first, second), relation in pairs.items()
        ],
        comparisons=list(comparisons),
        lengths=[
            (run.variant, run.benchmark, part, entry["num_rows"], entry["mean"], entry["median"])
            for run in sorted(runs, key=lambda run: (run.benchmark, variants.index(run.variant)))
            for part, entry in run.metrics.get("tokens", {}).items()
        ],
        facts=[
            (f"{run.benchmark}: {name}", value)
            for run in {run.benchmark: run for run in runs}.values()
            for name, value in run.settings.items()
        ],
        problems=list(problems),
        margin=margin,
        num_headline=families.count("headline"),
        num_detail=families.count("detail"),
    )


def title_of(metric: str, benchmark: str) -> Name:
    """A metric on a benchmark."""
    name = METRICS[metric]
    return Name(metric, f"{name.zh}（{benchmark}）", f"{name.en}, {benchmark}")


class _Builder:
    """Cells and tables out of runs and comparisons."""

    def __init__(
        self, runs: Sequence[Run], comparisons: Sequence[Comparison], variants: Sequence[str], output: UPath
    ):
        self.variants, self.output = variants, output
        self.runs = {(run.variant, run.benchmark): run for run in runs}
        self.benchmarks = list(dict.fromkeys(run.benchmark for run in runs))
        self.rates: dict[tuple[str, ...], Rate] = {}
        for run in runs:
            for rate in read_rates(run.metrics):
                if rate.part == "answer":
                    self.rates[run.variant, run.benchmark, rate.metric, rate.scope, rate.key] = rate
        # The first comparison of a variant is with the one that it was made from, where that is here.
        self.against: dict[str, str] = {}
        for comparison in comparisons:
            self.against.setdefault(comparison.second, comparison.first)
        self.comparisons = {
            (c.first, c.second, c.benchmark, c.metric, c.scope, c.key): c for c in comparisons
        }

    def tables(self) -> list[Table]:
        """One table a safety metric, by area and history; then reasoning; then over-refusal."""
        tables = []
        for benchmark in self.benchmarks:
            for metric in ("accuracy", *REFUSAL_METRICS):
                columns = self._by_area(benchmark, metric)
                if columns:
                    tables.append(self._table(f"{benchmark}-{metric}", title_of(metric, benchmark), columns))
        reasoning = [
            Column(Name(benchmark, benchmark, ""), METRICS["pass_at_1"], benchmark, "overall", "all")
            for benchmark in self.benchmarks
            if self._has(benchmark, "pass_at_1")
        ]
        if reasoning:
            tables.append(
                self._table("reasoning", Name("reasoning", "推理（pass@1）", "Reasoning, pass@1"), reasoning)
            )
        refused = [
            Column(METRICS[metric], METRICS[metric], benchmark, "overall", "all")
            for benchmark in self.benchmarks
            for metric in OVER_REFUSAL_METRICS
            if self._has(benchmark, metric)
        ]
        if refused:
            tables.append(
                self._table("over-refusal", Name("over-refusal", "过度拒绝", "Over-refusal"), refused)
            )
        return tables

    def _has(self, benchmark: str, metric: str) -> bool:
        return any(key[1:3] == (benchmark, metric) for key in self.rates)

    def _by_area(self, benchmark: str, metric: str) -> list[Column]:
        found = {key[3:] for key in self.rates if key[1:3] == (benchmark, metric)}
        areas = in_report_order({key for scope, key in found if scope == "area"})
        history = [key for key in _HISTORY if ("history", key) in found]
        names = [("overall", "all", _OVERALL)] if ("overall", "all") in found else []
        names += [("area", key, area_name(key)) for key in areas] + [
            ("history", key, _HISTORY[key]) for key in history
        ]
        return [Column(name, METRICS[metric], benchmark, scope, key) for scope, key, name in names]

    def _table(self, key: str, title: Name, columns: list[Column]) -> Table:
        rows = []
        for variant in self.variants:
            against = self.against.get(variant, "")
            rows.append((variant, against, [self._cell(variant, against, column) for column in columns]))
        return Table(key, title, columns, rows)

    def _cell(self, variant: str, against: str, column: Column) -> Cell:
        place = column.benchmark, column.metric.key, column.scope, column.key
        run = self.runs.get((variant, column.benchmark))
        return Cell(
            self.rates.get((variant, *place)),
            self.comparisons.get((against, variant, *place)),
            self._link(run, column) if run else "",
        )

    def _link(self, run: Run, column: Column) -> str:
        """The run's own report, at the rows behind a figure."""
        report = run.path / "report.html"
        place = str(report)
        if is_local(report) and is_local(self.output):
            place = quote(os.path.relpath(os.path.abspath(report.path), os.path.abspath(self.output.path)))
        counts = read_counts(run.metrics)
        group = next(
            group
            for group, metrics in METRICS_OF_GROUP.items()
            if group in counts and column.metric.key in metrics
        )
        area = f"&area={quote(column.key)}" if column.scope == "area" else ""
        return f"{place}#task={group}{area}"
