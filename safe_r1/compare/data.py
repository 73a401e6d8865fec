"""Data behind a comparison report: tables of rates with differences, pairs of variants, mismatches."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from upath import UPath

from safe_r1.compare.corrected import CorrectedComparison
from safe_r1.compare.differences import Comparison, Relation, blind_labels_of, lineage_order
from safe_r1.compare.load import Run, declared_margin
from safe_r1.metrics.counts import read_counts
from safe_r1.metrics.outcomes import METRICS_OF_GROUP, OVER_REFUSAL_METRICS, REFUSAL_METRICS
from safe_r1.metrics.rates import Rate, read_rates
from safe_r1.redaction import hide_credentials
from safe_r1.report.labels import (
    HISTORY,
    METRICS,
    BilingualName,
    MetricName,
    benchmark_labels,
    metric_names,
)
from safe_r1.runs import is_local

_RELATIONS: dict[Relation, BilingualName] = {
    "distillation": BilingualName("distillation", "蒸馏", "distillation"),
    "enhancement": BilingualName("enhancement", "安全增强", "enhancement"),
    "baseline": BilingualName("baseline", "与基线相比", "against the baseline"),
}
_OVERALL = BilingualName("all", "总体", "Overall")
REASONING_TABLE = BilingualName("reasoning", "推理能力（pass@1）", "Reasoning, pass@1")
OVER_REFUSAL_TABLE = BilingualName("over-refusal", "过度拒绝", "Over-refusal")


@dataclass(frozen=True)
class RateColumn:
    """One column of a table: a metric on a benchmark, overall or in part."""

    name: BilingualName
    metric: MetricName
    benchmark: str
    scope: str
    key: str


@dataclass(frozen=True)
class RateCell:
    """A variant's rate, its difference from the variant that it is compared with, and a link to its rows."""

    rate: Rate | None
    comparison: Comparison | None
    link: str

    @property
    def effect(self) -> str:
        """See ``Comparison.effect``."""
        return self.comparison.effect if self.comparison else ""


@dataclass(frozen=True)
class RateTable:
    """Variants by columns.

    Attributes:
        key: Name of the table's files.
        title: Its title.
        columns: See ``RateColumn``.
        rows: (variant, compared with, cells).
    """

    key: str
    title: BilingualName
    columns: list[RateColumn]
    rows: list[tuple[str, str, list[RateCell]]]

    @property
    def is_by_area(self) -> bool:
        """True for one metric by area; False for a table of several benchmarks or metrics."""
        return self.key not in (REASONING_TABLE.key, OVER_REFUSAL_TABLE.key)


@dataclass(frozen=True)
class VariantPair:
    """Two variants and the overall comparisons between them."""

    first: str
    second: str
    relation: BilingualName
    comparisons: list[Comparison]


@dataclass(frozen=True)
class ComparisonData:
    """Everything that the renderers show.

    Attributes:
        baseline: The variant that all others are compared with.
        variants: Names, each after the one that it was made from.
        tables: See ``RateTable``.
        pairs: See ``VariantPair``.
        comparisons: All of them.
        lengths: (variant, benchmark, part, rows, mean, median) in tokens.
        facts: Settings that the runs have in common, as name and text.
        problems: Mismatches and missing runs, where they were allowed.
        margin: Non-inferiority margin for pass@1, as a fraction.
        is_margin_declared: All runs had this margin in their settings.
        num_headline: Number of tests in the family of main metrics, those of non-inferiority among them.
        num_detail: Number of tests in the other family.
        notes: What else a reader has to know of the runs.
        corrected: Differences of calibrated runs, in rates that people's labels corrected.
    """

    baseline: str
    variants: list[str]
    tables: list[RateTable]
    pairs: list[VariantPair]
    comparisons: list[Comparison]
    lengths: list[tuple[str, str, str, int, float, float]]
    facts: list[tuple[str, str]]
    problems: list[str]
    margin: float
    is_margin_declared: bool
    num_headline: int
    num_detail: int
    notes: list[str] = field(default_factory=list)
    corrected: list[CorrectedComparison] = field(default_factory=list)


def build_comparison(
    runs: Sequence[Run],
    comparisons: Sequence[Comparison],
    baseline: str,
    problems: Sequence[str],
    margin: float,
    output: UPath,
) -> ComparisonData:
    """Arrange runs and comparisons for the renderers; links are relative to ``output``."""
    variants = lineage_order(runs, baseline)
    families = [each.family for each in comparisons]
    num_margins = sum(each.difference.p_margin is not None for each in comparisons)
    return ComparisonData(
        baseline=baseline,
        variants=variants,
        tables=_TableBuilder(runs, comparisons, variants, output).tables(),
        pairs=_variant_pairs(comparisons),
        comparisons=list(comparisons),
        lengths=[
            (run.variant, run.benchmark, part, entry["num_rows"], entry["mean"], entry["median"])
            for run in sorted(runs, key=lambda run: (run.benchmark, variants.index(run.variant)))
            for part, entry in run.metrics.get("tokens", {}).items()
        ],
        facts=[
            (f"{run.benchmark}: {name}", value)
            # The settings are equal within a benchmark, or else listed as problems.
            for run in {run.benchmark: run for run in runs}.values()
            for name, value in run.settings.items()
        ],
        problems=list(problems),
        margin=margin,
        is_margin_declared=all(declared_margin(run) == margin for run in runs),
        num_headline=families.count("headline") + num_margins,
        num_detail=families.count("detail"),
    )


def _variant_pairs(comparisons: Sequence[Comparison]) -> list[VariantPair]:
    relations: dict[tuple[str, str], Relation] = {
        (each.first, each.second): each.relation for each in comparisons
    }
    return [
        VariantPair(
            first,
            second,
            _RELATIONS[relation],
            [
                each
                for each in comparisons
                if (each.first, each.second, each.scope) == (first, second, "overall")
            ],
        )
        for (first, second), relation in relations.items()
    ]


def metric_title(name: MetricName, benchmark: str) -> BilingualName:
    """Title of a metric on a benchmark."""
    return BilingualName(name.key, f"{name.zh}（{benchmark}）", f"{name.en}, {benchmark}")


class _TableBuilder:
    """Builds the tables of rates."""

    def __init__(
        self, runs: Sequence[Run], comparisons: Sequence[Comparison], variants: Sequence[str], output: UPath
    ):
        self.variants = variants
        self.output = output
        self.runs = {(run.variant, run.benchmark): run for run in runs}
        self.benchmarks = list(dict.fromkeys(run.benchmark for run in runs))
        self.rates: dict[tuple[str, ...], Rate] = {}
        for run in runs:
            for rate in read_rates(run.metrics):
                if rate.part == "answer":
                    self.rates[run.variant, run.benchmark, rate.metric, rate.scope, rate.key] = rate
        # The first comparison of a variant is with the one that it was made from, where that was run.
        self.compared_with: dict[str, str] = {}
        for comparison in comparisons:
            self.compared_with.setdefault(comparison.second, comparison.first)
        self.comparisons = {
            (c.first, c.second, c.benchmark, c.metric, c.scope, c.key): c for c in comparisons
        }

    def tables(self) -> list[RateTable]:
        """One table for each safety metric, by area and history; then reasoning; then over-refusal."""
        tables = []
        for benchmark in self.benchmarks:
            for metric in ("accuracy", *REFUSAL_METRICS):
                columns = self._columns_by_area(benchmark, metric)
                if columns:
                    title = metric_title(METRICS[metric], benchmark)
                    tables.append(self._table(f"{benchmark}-{metric}", title, columns))
        reasoning = [
            RateColumn(
                BilingualName(benchmark, benchmark, ""), METRICS["pass_at_1"], benchmark, "overall", "all"
            )
            for benchmark in self.benchmarks
            if self._is_measured(benchmark, "pass_at_1")
        ]
        over_refusal = [
            column for benchmark in self.benchmarks for column in self._over_refusal_columns(benchmark)
        ]
        if len({column.benchmark for column in over_refusal}) > 1:
            over_refusal = [
                replace(each, name=metric_title(each.metric, each.benchmark)) for each in over_refusal
            ]
        for title, columns in ((REASONING_TABLE, reasoning), (OVER_REFUSAL_TABLE, over_refusal)):
            if columns:
                tables.append(self._table(title.key, title, columns))
        return tables

    def _over_refusal_columns(self, benchmark: str) -> list[RateColumn]:
        of_benchmark = [run for (_, name), run in self.runs.items() if name == benchmark]
        names = metric_names({"blind_to": blind_labels_of(of_benchmark)})
        return [
            RateColumn(names[metric], names[metric], benchmark, "overall", "all")
            for metric in OVER_REFUSAL_METRICS
            if self._is_measured(benchmark, metric)
        ]

    def _is_measured(self, benchmark: str, metric: str) -> bool:
        return any(key[1:3] == (benchmark, metric) for key in self.rates)

    def _columns_by_area(self, benchmark: str, metric: str) -> list[RateColumn]:
        run_info = next(run.info for (_, name), run in self.runs.items() if name == benchmark)
        labels = benchmark_labels(benchmark, run_info)
        found = {key[3:] for key in self.rates if key[1:3] == (benchmark, metric)}
        areas = labels.ordered(key for scope, key in found if scope == "area")
        names = [("overall", "all", _OVERALL)] if ("overall", "all") in found else []
        names += [("area", key, labels.name(key)) for key in areas]
        names += [("history", key, name) for key, name in HISTORY.items() if ("history", key) in found]
        return [RateColumn(name, METRICS[metric], benchmark, scope, key) for scope, key, name in names]

    def _table(self, key: str, title: BilingualName, columns: list[RateColumn]) -> RateTable:
        rows = []
        for variant in self.variants:
            other = self.compared_with.get(variant, "")
            rows.append((variant, other, [self._cell(variant, other, column) for column in columns]))
        return RateTable(key, title, columns, rows)

    def _cell(self, variant: str, other: str, column: RateColumn) -> RateCell:
        measure = (column.benchmark, column.metric.key, column.scope, column.key)
        run = self.runs.get((variant, column.benchmark))
        return RateCell(
            self.rates.get((variant, *measure)),
            self.comparisons.get((other, variant, *measure)),
            self._link(run, column) if run else "",
        )

    def _link(self, run: Run, column: RateColumn) -> str:
        """Address of the run's own report, filtered to the rows behind a figure."""
        report = run.path / "report.html"
        address = hide_credentials(str(report))
        if is_local(report) and is_local(self.output):
            folder = os.path.abspath(self.output.path)
            address = quote(os.path.relpath(os.path.abspath(report.path), folder))
        counts = read_counts(run.metrics)
        group = next(
            group
            for group, metrics in METRICS_OF_GROUP.items()
            if group in counts and column.metric.key in metrics
        )
        area = f"&area={quote(column.key)}" if column.scope == "area" else ""
        return f"{address}#task={group}{area}"
