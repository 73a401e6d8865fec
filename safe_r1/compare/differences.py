"""Pairs of variants, and the difference between the two in every metric."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from safe_r1.compare.load import Run
from safe_r1.metrics.outcomes import (
    ASKED_METRICS,
    METRICS_OF_GROUP,
    OVER_REFUSAL_METRICS,
    Outcome,
    left_out_metrics,
    outcome,
)
from safe_r1.metrics.rows import ScoredRow
from safe_r1.metrics.tests import (
    ALPHA,
    Difference,
    PairedCounts,
    Standing,
    difference,
    holm,
    non_inferiority,
)
from safe_r1.report.labels import METRICS, MetricName, metric_names

MARGIN = 0.03
"""Non-inferiority margin for pass@1: what DeepSeek's and open-r1's own reports of the same model differ by at
most.
"""

SECONDARY = frozenset(OVER_REFUSAL_METRICS) - {"over_refusal_rate", "unsafe_refusal_rate"}
"""Rates of over-refusal benchmarks that follow from the other rates, or nearly."""

Relation = Literal["distillation", "enhancement", "baseline"]
Family = Literal["headline", "detail", "attack", "attack_detail"]
Outcomes = dict[tuple[str, int], Outcome]
"""(Question, repeat) to what the completion says of a metric."""


@dataclass(frozen=True)
class Comparison:
    """One metric of two variants on the same questions.

    Attributes:
        first: The variant that is compared with.
        second: The variant in question.
        relation: How the second was made from the first; ``baseline`` where it was not.
        benchmark: Name of the benchmark.
        metric: See ``safe_r1.report.labels.METRICS``.
        scope: ``overall``, ``area`` or ``history``; of attacked benchmarks ``overall`` or ``category``.
        key: Of the area or category, ``with``/``without``, or ``all``.
        difference: Second minus first.
        family: The family of Holm's correction: all ``headline`` tests of the report (overall, of the main
            metrics, and those of non-inferiority), or all others (``detail``); of attacked benchmarks
            ``attack`` (overall, of the answers) and ``attack_detail``.
        p_holm: The corrected p value.
        p_margin_holm: The corrected p value of the non-inferiority test; None where there is none.
        standing: For pass@1, the result of that test.
        blind_to: Labels that the judge of either run cannot tell from others.
    """

    first: str
    second: str
    relation: Relation
    benchmark: str
    metric: str
    scope: str
    key: str
    difference: Difference
    family: Family
    p_holm: float = 1.0
    p_margin_holm: float | None = None
    standing: Standing | None = None
    blind_to: tuple[str, ...] = ()

    @property
    def name(self) -> MetricName:
        """The metric as it is called with these judges."""
        return metric_names({"blind_to": self.blind_to})[self.metric]

    @property
    def is_significant(self) -> bool:
        """True where the corrected p value is below 5% and no outcome of the missing rows could change it."""
        return self.p_holm < ALPHA and self.difference.direction != 0

    @property
    def effect(self) -> str:
        """``better`` or ``worse`` where the difference is significant and the metric has a good direction,
        else empty.
        """
        better = METRICS[self.metric].better
        if not self.is_significant or not better:
            return ""
        return "better" if (self.difference.direction > 0) == (better == "higher") else "worse"


def variant_pairs(runs: Sequence[Run], baseline: str) -> list[tuple[str, str, Relation]]:
    """Every variant with the one that it was made from, where that was run, then with the baseline."""
    origins = {run.variant: (run.base, run.kind) for run in runs}
    by_lineage: list[tuple[str, str, Relation]] = []
    by_baseline: list[tuple[str, str, Relation]] = []
    for variant in lineage_order(runs, baseline):
        base, kind = origins[variant]
        made_from = base if base in origins and base != variant else None
        if made_from:
            by_lineage.append((made_from, variant, "distillation" if kind == "r1" else "enhancement"))
        if variant != baseline and made_from != baseline:
            by_baseline.append((baseline, variant, "baseline"))
    return by_lineage + by_baseline


def lineage_order(runs: Sequence[Run], baseline: str) -> list[str]:
    """Names of the variants: the baseline first, then each after the one that it was made from."""
    bases = {run.variant: run.base for run in runs}
    order: list[str] = []

    def add(variant: str) -> None:
        if variant not in order:
            order.append(variant)
            for child in [name for name, base in bases.items() if base == variant]:
                add(child)

    for root in (baseline, *(name for name, base in bases.items() if base not in bases), *bases):
        # A baseline that was made from another variant of the comparison comes after that one.
        if root != baseline or bases[root] not in bases:
            add(root)
    # Left is a baseline whose bases form a cycle, which only wrong run.json files have.
    return [*order, *(name for name in bases if name not in order)]


def compare_all(
    runs: Sequence[Run], pairs: Sequence[tuple[str, str, Relation]], margin: float = MARGIN
) -> list[Comparison]:
    """All comparisons of the pairs, each family corrected by Holm's procedure."""
    by_name = {(run.variant, run.benchmark): run for run in runs}
    benchmarks = list(dict.fromkeys(run.benchmark for run in runs))
    comparisons = [
        comparison
        for first, second, relation in pairs
        for benchmark in benchmarks
        if (first, benchmark) in by_name and (second, benchmark) in by_name
        for comparison in _compare(by_name[first, benchmark], by_name[second, benchmark], relation, margin)
    ]
    return correct(comparisons, margin)


def correct(comparisons: Sequence[Comparison], margin: float = MARGIN) -> list[Comparison]:
    """The comparisons, each family corrected by Holm's procedure: it needs all p values of the family."""
    families = dict.fromkeys(each.family for each in comparisons)
    corrected = {
        family: iter(_corrected([each for each in comparisons if each.family == family], margin))
        for family in families
    }
    return [next(corrected[each.family]) for each in comparisons]


def _corrected(family: Sequence[Comparison], margin: float) -> list[Comparison]:
    """The comparisons with Holm's correction over their family, the non-inferiority tests too."""
    margins = [each.difference.p_margin for each in family if each.difference.p_margin is not None]
    corrected = iter(holm([*(each.difference.p_value for each in family), *margins]))
    tested = [replace(each, p_holm=next(corrected)) for each in family]
    return [
        each if each.difference.p_margin is None else _with_standing(each, margin, next(corrected))
        for each in tested
    ]


def _with_standing(comparison: Comparison, margin: float, p_holm: float) -> Comparison:
    standing = non_inferiority(comparison.difference, margin, p_holm)
    return replace(comparison, p_margin_holm=p_holm, standing=standing)


def without_pairs(first: Run, second: Run) -> list[str]:
    """Metrics that both runs were asked for, and that no completion has an outcome of in both."""
    found: list[str] = []
    for metric in _metrics(first, second):
        before, after = (_outcomes(run.rows, metric) for run in (first, second))
        pairs = [(before[place], after[place]) for place in before.keys() & after.keys()]
        if before and metric not in ASKED_METRICS and all(Outcome.MISSING in pair for pair in pairs):
            found.append(metric)
    return found


def _metrics(first: Run, second: Run) -> list[str]:
    """The main metrics of two runs that both judges can tell."""
    # Several groups may share a metric, as mathematics and programs share pass@1: it is compared once.
    groups = dict.fromkeys(row.sample.group for row in first.rows)
    left_out = left_out_metrics(blind_labels_of((first, second)))
    metrics = dict.fromkeys(metric for group in groups for metric in METRICS_OF_GROUP[group])
    return [metric for metric in metrics if metric not in left_out]


def _compare(first: Run, second: Run, relation: Relation, margin: float) -> Iterable[Comparison]:
    blind_to = blind_labels_of((first, second))
    # The pairs are the questions of the smaller selection, whose weights stand for the whole benchmark.
    weights_by_scope = _weights_by_scope(min(first, second, key=lambda run: len(run.rows)))
    for metric in _metrics(first, second):
        before, after = (_outcomes(run.rows, metric) for run in (first, second))
        num_shared = len(before.keys() & after.keys())
        for (scope, key), weights in weights_by_scope.items():
            trials = paired_counts(before, after, weights, metric in ASKED_METRICS)
            num_asked = sum(each.asked for each in trials.values())
            # An area with all questions of the benchmark repeats the overall comparison.
            is_repetition = scope != "overall" and num_asked == num_shared
            if is_repetition or not any(each.pairs for each in trials.values()):
                continue
            has_margin = scope == "overall" and metric == "pass_at_1"
            yield Comparison(
                first=first.variant,
                second=second.variant,
                relation=relation,
                benchmark=first.benchmark,
                metric=metric,
                scope=scope,
                key=key,
                difference=difference(trials, margin if has_margin else None),
                family="headline" if scope == "overall" and metric not in SECONDARY else "detail",
                blind_to=blind_to,
            )


def blind_labels_of(runs: Iterable[Run]) -> tuple[str, ...]:
    """Labels that the judge of any of these runs cannot tell from others."""
    return tuple(sorted({label for run in runs for label in run.metrics.get("blind_to", ())}))


def _outcomes(rows: Sequence[ScoredRow], metric: str) -> Outcomes:
    """The completions that a metric speaks of."""
    outcomes = {(row.question_id, row.completion.repeat): outcome(row, metric) for row in rows}
    return {place: found for place, found in outcomes.items() if found is not None}


def paired_counts(
    before: Outcomes, after: Outcomes, weights: Mapping[str, float], counts_missing: bool = False
) -> dict[str, PairedCounts]:
    """The completions that both variants were asked for, by question.

    Args:
        before: Outcomes of the first variant.
        after: Outcomes of the second.
        weights: Weights of the questions that count.
        counts_missing: A missing outcome counts as no hit, as in ``ASKED_METRICS``; else it makes no pair.
    """
    counts: dict[str, PairedCounts] = {}
    for question, repeat in before.keys() & after.keys():
        if question not in weights:
            continue
        outcomes = before[question, repeat], after[question, repeat]
        is_missing = Outcome.MISSING in outcomes
        is_pair = counts_missing or not is_missing
        first, second = (found is Outcome.HIT for found in outcomes)
        # Whatever is missing may be a hit.
        first_best, second_best = (found is not Outcome.MISS for found in outcomes)
        so_far = counts.get(question, PairedCounts(0, 0, 0, 0, 0, 0, 0, weights[question]))
        counts[question] = so_far._replace(
            first=so_far.first + (is_pair and first),
            second=so_far.second + (is_pair and second),
            pairs=so_far.pairs + is_pair,
            asked=so_far.asked + 1,
            missing=so_far.missing + is_missing,
            worst=so_far.worst + second - first_best,
            best=so_far.best + second_best - first,
        )
    return counts


def _weights_by_scope(run: Run) -> dict[tuple[str, str], dict[str, float]]:
    """Weights of the questions of every scope and key: all, each area, with and without dialogue history."""
    weights: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in run.rows:
        sample = row.sample
        scopes = [("overall", "all"), ("area", sample.area)]
        if sample.task == "refusal":
            scopes.append(("history", "with" if sample.metadata.get("has_history") == "true" else "without"))
        for scope in scopes:
            weights[scope][row.question_id] = run.weigh(sample)
    return dict(weights)
