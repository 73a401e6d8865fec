"""What the templates of a report need, from metrics and run facts: no statistics and no markup here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safe_r1.metrics.rates import (
    METRICS_OF_GROUP,
    OVER_REFUSAL_METRICS,
    REFUSAL_METRICS,
    Rate,
    find_rate,
    read_counts,
    read_rates,
)
from safe_r1.report.labels import METRICS, TASKS, MetricName, Name, area_name, category_name, in_report_order
from safe_r1.report.references import Published, load_published
from safe_r1.report.text import one_line
from safe_r1.schema import JUDGED_PARTS, Part
from safe_r1.taxonomy import CATEGORIES

_UNKNOWN = "unknown"
_OTHER = "other"
_SHORT_FACT = 140
_LENGTHS = ("num_rows", "mean", "median", "p90")
_HEADLINE: tuple[tuple[str, str, Part, tuple[str, ...]], ...] = (
    (
        "mcq",
        "mcq",
        "answer",
        ("accuracy", "accuracy_constant", "accuracy_high_confidence", "accuracy_strict"),
    ),
    ("mcq_swapped", "mcq_swapped", "answer", ("accuracy_swapped", "option_consistency", "letter_following")),
    ("refusal", "refusal", "answer", REFUSAL_METRICS),
    ("refusal", "refusal_reasoning", "reasoning", (*REFUSAL_METRICS, "leak_rate")),
    ("over_refusal", "over_refusal", "answer", OVER_REFUSAL_METRICS),
    ("reasoning", "reasoning", "answer", ("pass_at_1",)),
)


@dataclass(frozen=True)
class Line:
    """One metric of the headline."""

    name: MetricName
    rate: Rate


@dataclass(frozen=True)
class Group:
    """Lines of the headline under one title."""

    key: str
    title: Name
    lines: list[Line]


@dataclass(frozen=True)
class ChartRow:
    """One area or category of a chart, with one rate (or None) for each of the chart's metrics."""

    name: Name
    rates: list[Rate | None]
    categories: list["ChartRow"]


@dataclass(frozen=True)
class Chart:
    """Areas with their categories for the metrics of one task."""

    task: Name
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
        return [next(axis for axis in (0.4, 0.6, 1.0) if high <= axis) for high in highest]


@dataclass(frozen=True)
class Count:
    """Where the rows of a task and part went; the shares add up to ``num_rows``."""

    title: Name
    part: str
    num_samples: int
    num_rows: int
    num_scored: int
    num_truncated: int
    num_unscored: int
    num_failed: int
    num_no_choice: int | None
    reasons: dict[str, int]


@dataclass(frozen=True)
class ReportData:
    """Everything a template shows apart from the samples."""

    variant: str
    benchmark: str
    repeats: int
    date: str
    cards: list[Line]
    constant: Rate | None
    groups: list[Group]
    charts: list[Chart]
    counts: list[Count]
    has_key: bool
    has_judge: bool
    solved: dict[str, str]
    lengths: list[tuple[str, int, float, float, float]]
    judge: str
    judge_note: str
    answer_key: str
    answer_key_sha256: str
    published: Published | None
    facts: list[tuple[str, str]]

    @property
    def is_clustered(self) -> bool:
        """True where an interval had to allow for several rows a question."""
        return any(line.rate.method != "wilson" for group in self.groups for line in group.lines)


def build_report(metrics: dict[str, Any], run_info: Mapping[str, Any]) -> ReportData:
    """Arrange the content of ``metrics.json`` and ``run.json`` for a template; ``run_info`` may lack any
    entry.
    """
    rates = read_rates(metrics)
    counts = read_counts(metrics)
    groups = _groups(rates)
    lines = {(line.name.key, line.rate.part): line for group in groups for line in group.lines}
    shown = [
        lines.get((metric, "answer"))
        for metric in ("accuracy", *REFUSAL_METRICS, "pass_at_1", *OVER_REFUSAL_METRICS[::2])
    ]
    benchmark = _name_of(run_info.get("benchmark"))
    judge, key = run_info.get("judge"), run_info.get("answer_key")
    return ReportData(
        variant=_name_of(run_info.get("variant") or metrics.get("variant")),
        benchmark=benchmark,
        repeats=int(metrics.get("repeats", 1)),
        date=one_line(run_info.get("finished_at") or run_info.get("started_at") or "")[:10],
        cards=[line for line in shown if line],
        constant=find_rate(rates, "accuracy_constant"),
        groups=groups,
        charts=_charts(rates, counts),
        counts=_counts(counts),
        has_key="mcq" in counts,
        has_judge=any(group in counts for group in JUDGED_PARTS),
        solved={
            f"pass@{k}": f"{100 * entry['value']:.1f}" for k, entry in metrics.get("pass_at_k", {}).items()
        },
        lengths=[
            (part, *(entry[name] for name in _LENGTHS)) for part, entry in metrics.get("tokens", {}).items()
        ],
        judge=_name_of(judge),
        judge_note=_agreement(dict(judge).get("agreement")) if isinstance(judge, Mapping) else "",
        answer_key=_name_of(key),
        answer_key_sha256=one_line(dict(key).get("sha256", "")) if isinstance(key, Mapping) else "",
        published=load_published() if benchmark.startswith("chisafetybench") else None,
        facts=_facts(run_info),
    )


def _name_of(value: Any) -> str:
    name = value.get("name") if isinstance(value, Mapping) else value
    return one_line(name) if name else _UNKNOWN


def _agreement(agreement: Any) -> str:
    """A note on how far the judge agrees with people, from a text or from what ``judge-agreement --json``
    printed.
    """
    if not agreement:
        return ""
    if not isinstance(agreement, Mapping):
        return one_line(agreement)
    parts = [
        f"{name} {_number(value)}"
        for name, value in agreement.items()
        if not isinstance(value, (Mapping, list, tuple))
    ]
    return one_line(", ".join(parts)).replace("_", " ")


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _groups(rates: list[Rate]) -> list[Group]:
    groups = []
    for task, key, part, metrics in _HEADLINE:
        found = [(METRICS[metric], find_rate(rates, metric, part)) for metric in metrics]
        lines = [Line(name, rate) for name, rate in found if rate]
        title = TASKS[task]
        if key == "refusal_reasoning":
            title = Name(key, f"{title.zh}：推理部分", f"{title.en}: the reasoning")
        if lines:
            groups.append(Group(key, title, lines))
    return groups


def _charts(rates: list[Rate], counts: Mapping[str, Any]) -> list[Chart]:
    shown = [("mcq", ("accuracy",)), ("refusal", REFUSAL_METRICS)]
    shown += [
        (group, metrics)
        for group, metrics in METRICS_OF_GROUP.items()
        if metrics == ("pass_at_1",) and group in counts
    ]
    charts = []
    for task, metrics in shown:
        mine = [rate for rate in rates if rate.metric in metrics and rate.part == "answer"]
        if mine:
            charts.append(_chart(TASKS[task], metrics, mine))
    return charts


def _chart(task: Name, metrics: tuple[str, ...], rates: list[Rate]) -> Chart:
    table = {(rate.scope, rate.key, rate.metric): rate for rate in rates}

    def row(scope: str, name: Name, categories: list[ChartRow] | None = None) -> ChartRow:
        return ChartRow(name, [table.get((scope, name.key, metric)) for metric in metrics], categories or [])

    keys = {
        scope: in_report_order({rate.key for rate in rates if rate.scope == scope})
        for scope in ("area", "category")
    }
    by_area = _categories_by_area(keys["area"], keys["category"])
    areas = [Name(_OTHER, "其他", "Other") if area == _OTHER else area_name(area) for area in by_area]
    history = (
        Name("without", "无对话历史", "Without dialogue history"),
        Name("with", "有对话历史", "With dialogue history"),
    )
    return Chart(
        task,
        [METRICS[metric] for metric in metrics],
        [table.get(("overall", "all", metric)) for metric in metrics],
        [
            row("area", area, [row("category", category_name(key)) for key in by_area[area.key]])
            for area in areas
        ],
        [row("history", name) for name in history if ("history", name.key, metrics[0]) in table],
    )


def _categories_by_area(areas: list[str], categories: list[str]) -> dict[str, list[str]]:
    """Category keys under the key of their area; those of an unknown taxonomy under a group of their own."""
    table: dict[str, list[str]] = {area: [] for area in areas}
    for key in categories:
        own = key.split("/")[0]
        area = CATEGORIES[key].area if key in CATEGORIES else own if own in table else _OTHER
        if key != area:
            table.setdefault(area, []).append(key)
    return table


def _counts(counts: Mapping[str, Any]) -> list[Count]:
    table = []
    for task, entry in counts.items():
        title = TASKS.get(task, Name(task, task, ""))
        table.append(_count(title, "answer", entry, entry["num_samples"]))
        if reasoning := entry.get("reasoning"):
            table.append(_count(title, "reasoning", reasoning, entry["num_samples"]))
    return table


def _count(title: Name, part: str, entry: Mapping[str, Any], num_samples: int) -> Count:
    reasons = dict(entry["num_unscored_by_reason"])
    num_truncated = reasons.pop("truncated", 0)
    return Count(
        title,
        part,
        num_samples,
        entry["num_rows"],
        entry["num_scored"],
        num_truncated,
        sum(reasons.values()),
        entry["num_failed"],
        entry.get("num_no_choice"),
        reasons,
    )


def _facts(run_info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Run facts as name and text; long nested entries as indented JSON."""
    facts = []
    for name, value in run_info.items():
        if value in (None, "", {}, []):
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        is_long = not isinstance(value, str) and len(text) > _SHORT_FACT
        facts.append(
            (
                one_line(name),
                json.dumps(value, ensure_ascii=False, indent=2, default=str) if is_long else text,
            )
        )
    return facts
