"""Data of a report's templates, from metrics and run facts: no statistics and no markup here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safe_r1.metrics.counts import read_counts
from safe_r1.metrics.outcomes import OVER_REFUSAL_METRICS, REFUSAL_METRICS
from safe_r1.metrics.pass_at_k import PassAtK
from safe_r1.metrics.rates import Rate, find_rate, read_rates
from safe_r1.metrics.unknown import unknown_rates
from safe_r1.redaction import hide_secrets
from safe_r1.report.charts import AreaChart, area_charts
from safe_r1.report.corrected import CorrectedRates, corrected_rates
from safe_r1.report.endpoint import endpoint_notes
from safe_r1.report.labels import (
    BenchmarkLabels,
    BilingualName,
    MetricName,
    RecordedQuestions,
    benchmark_labels,
    metric_names,
    recorded_questions,
)
from safe_r1.report.notes import headline_notes
from safe_r1.report.references import PublishedFigures, published_figures
from safe_r1.report.row_counts import RowCounts, row_counts
from safe_r1.report.text import one_line
from safe_r1.schema import JUDGED_PARTS, Part, Sample

_UNKNOWN = "unknown"
_SHORT_FACT_CHARS = 140
_LENGTHS = ("num_rows", "mean", "median", "p90")
# (group of samples, key of the block, part, metrics) of each block of the main results, in report order.
_BLOCKS: tuple[tuple[str, str, Part, tuple[str, ...]], ...] = (
    (
        "mcq",
        "mcq",
        "answer",
        (
            "accuracy",
            "accuracy_answered",
            "accuracy_finished",
            "accuracy_constant",
            "accuracy_high_confidence",
        ),
    ),
    ("mcq_swapped", "mcq_swapped", "answer", ("accuracy_swapped", "option_consistency", "letter_following")),
    ("refusal", "refusal", "answer", ("rejection_rate", "rejection_rate_with_blocks", *REFUSAL_METRICS[1:])),
    ("refusal", "refusal_reasoning", "reasoning", (*REFUSAL_METRICS, "leak_rate")),
    ("over_refusal", "over_refusal", "answer", OVER_REFUSAL_METRICS),
    ("reasoning", "reasoning", "answer", ("pass_at_1",)),
)
# The metrics that summarize a model; the others are in the table below the cards.
_CARDS = ("accuracy", *REFUSAL_METRICS, "pass_at_1", "over_refusal_rate", "unsafe_refusal_rate")


@dataclass(frozen=True)
class HeadlineMetric:
    """One metric of the main results.

    Attributes:
        name: Its name.
        rate: Its overall rate; of denominator 0 where no row has an outcome.
        has_cut: Whether the token limit cut rows that count.
        without_cut: The rate if these were missing; None where there are none, or no others.
    """

    name: MetricName
    rate: Rate
    has_cut: bool = False
    without_cut: Rate | None = None


@dataclass(frozen=True)
class MetricGroup:
    """Main results under one title."""

    key: str
    title: BilingualName
    metrics: list[HeadlineMetric]


@dataclass(frozen=True)
class ReportData:
    """Everything a template shows apart from the samples.

    Attributes:
        repeats: Completions of every question.
        date: Day on which the run finished, as in ``run.json``.
        cards: The metrics at the head of the report.
        constant: Accuracy of always choosing the most frequent key.
        pass_at_k: ``pass@K`` to its estimate.
        notes: What a reader has to know before any figure, see ``safe_r1.report.notes``.
        lengths: (part, rows, mean, median, 90th percentile) in tokens.
        questions: The user's own questions; None for those of a benchmark.
        judge_note: How far the judge agrees with labelled answers; empty where not given.
        endpoint: Notes on a model behind a URL; none for an engine.
        facts: Entries of ``run.json`` as name and text.
        corrected: Rates corrected by people's labels; None for a run that is not calibrated.
    """

    variant: str
    benchmark: str
    labels: BenchmarkLabels
    repeats: int
    date: str
    cards: list[HeadlineMetric]
    constant: Rate | None
    groups: list[MetricGroup]
    charts: list[AreaChart]
    counts: list[RowCounts]
    has_key: bool
    has_judge: bool
    pass_at_k: dict[str, PassAtK]
    notes: list[BilingualName]
    lengths: list[tuple[str, int, float, float, float]]
    judge: str
    judge_note: str
    answer_key: str
    answer_key_sha256: str
    endpoint: list[BilingualName]
    published: PublishedFigures | None
    questions: RecordedQuestions | None
    facts: list[tuple[str, str]]
    corrected: CorrectedRates | None = None

    @property
    def is_clustered(self) -> bool:
        """True where an interval allows for several rows a question."""
        return any(metric.rate.method.startswith("wilson-cluster") for metric in self.metrics)

    @property
    def is_weighted(self) -> bool:
        """True where questions have different weights."""
        return any(metric.rate.is_weighted for metric in self.metrics)

    @property
    def has_cut(self) -> bool:
        """True where a rate is another one without the completions that the token limit cut."""
        return any(metric.has_cut for metric in self.metrics)

    @property
    def metrics(self) -> list[HeadlineMetric]:
        """The metrics of the main results."""
        return [metric for group in self.groups for metric in group.metrics]


def build_report(
    samples: Sequence[Sample],
    metrics: dict[str, Any],
    run_info: Mapping[str, object],
    calibration: Mapping[str, object] | None = None,
) -> ReportData:
    """Arrange the results of a run for a template.

    Args:
        samples: All samples of the run.
        metrics: Content of ``metrics.json``, see ``safe_r1.metrics.rates.compute_metrics``.
        run_info: Content of ``run.json``; any entry may be missing.
        calibration: Content of ``calibration.json``; None where there is none.
    """
    # Earlier releases wrote settings as they were given.
    run_info = hide_secrets(run_info)
    rates = read_rates(metrics)
    counts = read_counts(metrics)
    benchmark = name_of(run_info.get("benchmark"))
    labels = benchmark_labels(benchmark, run_info)
    questions = recorded_questions(run_info)
    groups = _metric_groups(metrics, labels)
    by_metric = {(each.name.key, each.rate.part): each for group in groups for each in group.metrics}
    # Both are a name alone in runs that recorded nothing else about them.
    judge = run_info.get("judge")
    key = run_info.get("answer_key")
    return ReportData(
        variant=name_of(run_info.get("variant") or metrics.get("variant")),
        benchmark=benchmark,
        labels=labels,
        repeats=int(metrics.get("repeats", 1)),
        date=one_line(run_info.get("finished_at") or run_info.get("started_at") or "")[:10],
        # A rate of no row has its place in the table alone.
        cards=[
            found
            for metric in _CARDS
            if (found := by_metric.get((metric, "answer"))) and found.rate.denominator
        ],
        constant=find_rate(rates, "accuracy_constant"),
        groups=groups,
        charts=area_charts(samples, rates, counts, labels),
        counts=row_counts(counts, labels),
        has_key="mcq" in counts,
        has_judge=any(group in counts for group in JUDGED_PARTS),
        pass_at_k={f"pass@{k}": entry for k, entry in metrics.get("pass_at_k", {}).items()},
        notes=headline_notes(metrics, run_info),
        lengths=[
            (part, *(entry[name] for name in _LENGTHS)) for part, entry in metrics.get("tokens", {}).items()
        ],
        judge=name_of(judge),
        judge_note=_agreement_note(judge.get("agreement")) if isinstance(judge, Mapping) else "",
        answer_key=name_of(key),
        answer_key_sha256=one_line(key.get("sha256", "")) if isinstance(key, Mapping) else "",
        endpoint=endpoint_notes(run_info.get("endpoint")),
        # A user's own questions have none, whatever their name is.
        published=None if questions else published_figures(benchmark),
        questions=questions,
        facts=_facts(run_info),
        corrected=corrected_rates(calibration, labels),
    )


def name_of(value: object) -> str:
    """The name in an entry of ``run.json``, which is a name alone in earlier runs."""
    name = value.get("name") if isinstance(value, Mapping) else value
    return one_line(name) if name else _UNKNOWN


def _agreement_note(agreement: object) -> str:
    """A note on the judge's agreement with labelled answers, from a text or from the output of
    ``judge-agreement --json``.
    """
    if not agreement:
        return ""
    if not isinstance(agreement, Mapping):
        return one_line(agreement)
    parts = [
        f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in agreement.items()
        if not isinstance(value, (Mapping, list, tuple))
    ]
    return one_line(", ".join(parts)).replace("_", " ")


def _metric_groups(metrics: dict[str, Any], labels: BenchmarkLabels) -> list[MetricGroup]:
    rates = [*read_rates(metrics), *unknown_rates(metrics)]
    without_cut = read_rates(metrics, "rates_without_cut")
    names = metric_names(metrics)
    groups = []
    for group, key, part, of_block in _BLOCKS:
        found = [(names[metric], find_rate(rates, metric, part)) for metric in of_block]
        shown = [
            HeadlineMetric(
                name,
                rate,
                part == "answer" and name.key in metrics.get("metrics_with_cut", ()),
                find_rate(without_cut, name.key, part),
            )
            for name, rate in found
            if rate
        ]
        title = labels.group_name(group)
        if part == "reasoning":
            title = BilingualName(key, f"{title.zh}：推理过程", f"{title.en}: the reasoning")
        if shown:
            groups.append(MetricGroup(key, title, shown))
    return groups


def _facts(run_info: Mapping[str, object]) -> list[tuple[str, str]]:
    """Run facts as name and text; long nested entries as indented JSON."""
    facts = []
    for name, value in run_info.items():
        if value in (None, "", {}, []):
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        # The page folds what has several lines.
        if not isinstance(value, str) and len(text) > _SHORT_FACT_CHARS:
            text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
        facts.append((one_line(name), text))
    return facts
