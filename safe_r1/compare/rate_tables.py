"""Tables of rates in a comparison: variants by areas, by benchmarks, and by attacks."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from upath import UPath

from safe_r1.attacks.base import PLAIN
from safe_r1.benchmarks.attacked import SEPARATOR
from safe_r1.compare.attack_tables import ANY_ATTACK, attack_rates
from safe_r1.compare.attacks import OVER_REFUSAL, attacked_runs, is_under_attack
from safe_r1.compare.differences import Comparison, blind_labels_of
from safe_r1.compare.load import Run
from safe_r1.metrics.attack_success import ATTACK_METRICS, HARM
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

_OVERALL = BilingualName("all", "总体", "Overall")
REASONING_TABLE = BilingualName("reasoning", "推理能力（pass@1）", "Reasoning, pass@1")
OVER_REFUSAL_TABLE = BilingualName("over-refusal", "过度拒绝", "Over-refusal")

# Under an attack, under any of them, and of the plain questions.
_OF_ATTACKS = (
    ("attack_success", "attack_success_any", HARM),
    ("reasoning_attack_success", "reasoning_attack_success_any", ""),
    (OVER_REFUSAL, "", OVER_REFUSAL),
)


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


def metric_title(name: MetricName, benchmark: str) -> BilingualName:
    """Title of a metric on a benchmark."""
    return BilingualName(name.key, f"{name.zh}（{benchmark}）", f"{name.en}, {benchmark}")


class TableBuilder:
    """Builds the tables of rates."""

    def __init__(
        self, runs: Sequence[Run], comparisons: Sequence[Comparison], variants: Sequence[str], output: UPath
    ):
        self.variants = variants
        self.output = output
        self.runs = {(run.variant, run.benchmark): run for run in runs}
        self.attacks: dict[str, dict[str, None]] = {}
        for (_, base), found in attacked_runs(runs).items():
            self.attacks.setdefault(base, {}).update(dict.fromkeys(found.attacks))
        self.benchmarks = list(dict.fromkeys(run.benchmark for run in runs if not is_under_attack(run)))
        self.rates: dict[tuple[str, ...], Rate] = attack_rates(runs)
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
        tables += self._attack_tables()
        for title, columns in ((REASONING_TABLE, reasoning), (OVER_REFUSAL_TABLE, over_refusal)):
            if columns:
                tables.append(self._table(title.key, title, columns))
        return tables

    def _attack_tables(self) -> list[RateTable]:
        """Attack success and over-refusal under attacks of each benchmark, the plain questions beside."""
        tables: list[RateTable] = []
        for base, attacks in self.attacks.items():
            for metric, of_any, of_plain in _OF_ATTACKS:
                columns = [RateColumn(ANY_ATTACK, METRICS[of_any], base, "overall", "all")] if of_any else []
                if of_plain:
                    columns.append(_attack_column(base, PLAIN.name, of_plain))
                columns += [_attack_column(base, attack, metric) for attack in attacks]
                if any(self._is_measured(f"{base}{SEPARATOR}{attack}", metric) for attack in attacks):
                    title = metric_title(METRICS[metric], base)
                    if metric == OVER_REFUSAL:
                        title = replace(title, zh=f"攻击下的{title.zh}", en=f"{title.en}, under attacks")
                    tables.append(self._table(f"{base}-attacks-{metric}", title, columns))
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
        if column.name is ANY_ATTACK:
            # Any attack has no run of its own, but a report beside those of all of them.
            start = column.benchmark + SEPARATOR
            run = next((run for key, run in self.runs.items() if _is_of(key, variant, start)), None)
        return RateCell(
            self.rates.get((variant, *measure)),
            self.comparisons.get((other, variant, *measure)),
            self._link(run, column) if run and (variant, *measure) in self.rates else "",
        )

    def _link(self, run: Run, column: RateColumn) -> str:
        """Address of the run's own report, filtered to the rows behind a figure."""
        if column.name is ANY_ATTACK:
            return self._address(run.path.parent / f"{column.benchmark}.attacks.html")
        counts = read_counts(run.metrics)
        metric = HARM if column.metric.key in ATTACK_METRICS else column.metric.key
        group = next(
            group for group, metrics in METRICS_OF_GROUP.items() if group in counts and metric in metrics
        )
        area = f"&area={quote(column.key)}" if column.scope == "area" else ""
        return f"{self._address(run.path / 'report.html')}#task={group}{area}"

    def _address(self, page: UPath) -> str:
        """Address of a page, relative to the report's folder where both are local."""
        address = hide_credentials(str(page))
        if is_local(page) and is_local(self.output):
            folder = os.path.abspath(self.output.path)
            address = quote(os.path.relpath(os.path.abspath(page.path), folder))
        return address


def _is_of(key: tuple[str, str], variant: str, start: str) -> bool:
    return key[0] == variant and key[1].startswith(start)


def _attack_column(base: str, attack: str, metric: str) -> RateColumn:
    name = BilingualName(attack, attack, "")
    return RateColumn(name, METRICS[metric], f"{base}{SEPARATOR}{attack}", "overall", "all")
