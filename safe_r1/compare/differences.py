"""Pairs of variants, and the difference between the two in every metric."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from safe_r1.compare.load import Run
from safe_r1.metrics.outcomes import METRICS_OF_GROUP, OVER_REFUSAL_METRICS, counted
from safe_r1.metrics.rows import ScoredRow
from safe_r1.metrics.tests import Difference, Standing, difference, holm, non_inferiority
from safe_r1.report.labels import METRICS

MARGIN = 0.03
"""Non-inferiority margin for pass@1: what DeepSeek's and open-r1's own reports of the same model differ by at
most.
"""
_ALPHA = 0.05

_SECONDARY = frozenset(OVER_REFUSAL_METRICS) - {"over_refusal_rate", "unsafe_refusal_rate"}
"""Rates of over-refusal benchmarks that follow from the other rates, or nearly."""

Relation = Literal["distillation", "enhancement", "baseline"]
Family = Literal["headline", "detail"]
Completions = dict[tuple[str, int], bool]
"""(Question, repeat) to whether the completion counts in the numerator of a metric."""


@dataclass(frozen=True)
class Comparison:
    """One metric of two variants on the same questions.

    Attributes:
        first: The variant that is compared with.
        second: The variant in question.
        relation: How the second was made from the first; ``baseline`` where it was not.
        benchmark: Name of the benchmark.
        metric: See ``safe_r1.report.labels.METRICS``.
        scope: ``overall``, ``area`` or ``history``.
        key: Of the area, ``with``/``without``, or ``all``.
        difference: Second minus first.
        num_unpaired: Completions scored for one of them only.
        family: The family of Holm's correction: all ``headline`` tests of the report (overall, of the main
            metrics), or all others.
        p_holm: The corrected p value.
        standing: For pass@1, the result of the non-inferiority test.
    """

    first: str
    second: str
    relation: Relation
    benchmark: str
    metric: str
    scope: str
    key: str
    difference: Difference
    num_unpaired: int
    family: Family
    p_holm: float = 1.0
    standing: Standing | None = None

    @property
    def is_significant(self) -> bool:
        """True where the corrected p value is below 5%."""
        return self.p_holm < _ALPHA

    @property
    def effect(self) -> str:
        """``better`` or ``worse`` where the difference is significant and the metric has a good direction,
        else empty.
        """
        better = METRICS[self.metric].better
        if not self.is_significant or not self.difference.value or not better:
            return ""
        return "better" if (self.difference.value > 0) == (better == "higher") else "worse"


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
    for family in ("headline", "detail"):
        # A correction needs all p values of its family, so that it comes last.
        positions = [index for index, comparison in enumerate(comparisons) if comparison.family == family]
        corrected = holm([comparisons[position].difference.p_value for position in positions])
        for position, p_holm in zip(positions, corrected, strict=True):
            comparisons[position] = replace(comparisons[position], p_holm=p_holm)
    return comparisons


def _compare(first: Run, second: Run, relation: Relation, margin: float) -> Iterable[Comparison]:
    # Several groups may share a metric, as mathematics and programs share pass@1: it is compared once.
    groups = dict.fromkeys(row.sample.group for row in first.rows)
    for metric in dict.fromkeys(metric for group in groups for metric in METRICS_OF_GROUP[group]):
        counted = [_counted(run.rows, metric) for run in (first, second)]
        num_shared = len(counted[0].keys() & counted[1].keys())
        for (scope, key), questions in _questions_by_scope(first.rows).items():
            before, after = (
                {place: hit for place, hit in each.items() if place[0] in questions} for each in counted
            )
            shared = before.keys() & after.keys()
            # An area with all questions of the benchmark repeats the overall comparison.
            if not shared or (scope != "overall" and len(shared) == num_shared):
                continue
            found = difference(_trials(before, after))
            is_headline = scope == "overall" and metric not in _SECONDARY
            has_margin = scope == "overall" and metric == "pass_at_1"
            yield Comparison(
                first=first.variant,
                second=second.variant,
                relation=relation,
                benchmark=first.benchmark,
                metric=metric,
                scope=scope,
                key=key,
                difference=found,
                num_unpaired=len(before.keys() ^ after.keys()),
                family="headline" if is_headline else "detail",
                standing=non_inferiority(found, margin) if has_margin else None,
            )


def _counted(rows: Sequence[ScoredRow], metric: str) -> Completions:
    """The completions in the metric's denominator."""
    outcomes = {(row.question_id, row.completion.repeat): counted(row, metric) for row in rows}
    return {place: hit for place, hit in outcomes.items() if hit is not None}


def _trials(before: Completions, after: Completions) -> dict[str, tuple[int, int, int]]:
    """Question to (hits of the first variant, hits of the second, completions scored for both)."""
    trials: dict[str, tuple[int, int, int]] = {}
    for question, repeat in before.keys() & after.keys():
        first_hits, second_hits, num = trials.get(question, (0, 0, 0))
        trials[question] = (
            first_hits + before[question, repeat],
            second_hits + after[question, repeat],
            num + 1,
        )
    return trials


def _questions_by_scope(rows: Sequence[ScoredRow]) -> dict[tuple[str, str], set[str]]:
    """Questions of every scope and key: all of them, each area, with and without dialogue history."""
    questions: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        sample = row.sample
        questions["overall", "all"].add(row.question_id)
        questions["area", sample.area].add(row.question_id)
        if sample.task == "refusal":
            history = "with" if sample.metadata.get("has_history") == "true" else "without"
            questions["history", history].add(row.question_id)
    return dict(questions)
