"""Which variants are compared with which, on what, and what came out."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from safe_r1.compare.load import Run
from safe_r1.metrics.rates import METRICS_OF_GROUP, OVER_REFUSAL_METRICS, outcome
from safe_r1.metrics.rows import ScoredRow
from safe_r1.metrics.tests import Difference, Standing, difference, holm, non_inferiority
from safe_r1.report.labels import METRICS

MARGIN = 0.03
"""Loss of pass@1 that counts as none: what DeepSeek's and open-r1's own reports of the same model differ by
at most.
"""

_SECONDARY = frozenset(OVER_REFUSAL_METRICS) - {"over_refusal_rate", "unsafe_refusal_rate"}
"""Shares of XSTest that follow from the others, or nearly."""

Relation = Literal["distillation", "enhancement", "baseline"]
Family = Literal["headline", "detail"]


@dataclass(frozen=True)
class Comparison:
    """One metric of two variants.

    Attributes:
        first: The variant that is compared with.
        second: The variant in question.
        relation: What lies between them.
        benchmark: Name of the benchmark.
        metric: See ``safe_r1.report.labels.METRICS``.
        scope: ``overall``, ``area`` or ``history``.
        key: Of the area, ``with``/``without``, or ``all``.
        found: The difference.
        num_unpaired: Completions scored for one of them only.
        family: Within which Holm's correction was made: all ``headline`` tests of the report (overall, of the
            main metrics), or all others.
        p_holm: The p value after that.
        standing: For pass@1, whether the second is worse by no more than the margin.
    """

    first: str
    second: str
    relation: Relation
    benchmark: str
    metric: str
    scope: str
    key: str
    found: Difference
    num_unpaired: int
    family: Family
    p_holm: float = 1.0
    standing: Standing | None = None

    @property
    def is_significant(self) -> bool:
        """True where the corrected p value is below 5%."""
        return self.p_holm < 0.05

    @property
    def effect(self) -> str:
        """``better`` or ``worse`` where the difference is significant and the metric has a good side, else
        empty.
        """
        better = METRICS[self.metric].better
        if not self.is_significant or not self.found.value or not better:
            return ""
        return "better" if (self.found.value > 0) == (better == "higher") else "worse"


def pairs_of(runs: Sequence[Run], baseline: str) -> list[tuple[str, str, Relation]]:
    """Every variant with the one that it was made from where that is here, then with the baseline."""
    kinds = {run.variant: (run.base, run.kind) for run in runs}
    made: list[tuple[str, str, Relation]] = []
    others: list[tuple[str, str, Relation]] = []
    for variant in in_lineage(runs, baseline):
        base, kind = kinds[variant]
        made_from = base if base in kinds and base != variant else None
        if made_from:
            made.append((made_from, variant, "distillation" if kind == "r1" else "enhancement"))
        if variant != baseline and made_from != baseline:
            others.append((baseline, variant, "baseline"))
    return made + others


def in_lineage(runs: Sequence[Run], baseline: str) -> list[str]:
    """Names of the variants: the baseline first, then every one after the one that it was made from."""
    bases = {run.variant: run.base for run in runs}
    order: list[str] = []

    def add(variant: str) -> None:
        if variant not in order:
            order.append(variant)
            for child in [name for name, base in bases.items() if base == variant]:
                add(child)

    for root in (baseline, *(name for name, base in bases.items() if base not in bases), *bases):
        # A baseline that was made from another one here stands after it.
        if root != baseline or bases[root] not in bases:
            add(root)
    return [*order, *(name for name in bases if name not in order)]


def compare_all(
    runs: Sequence[Run], pairs: Sequence[tuple[str, str, Relation]], margin: float = MARGIN
) -> list[Comparison]:
    """All comparisons of the pairs, each family corrected by Holm's procedure."""
    by_place = {(run.variant, run.benchmark): run for run in runs}
    benchmarks = list(dict.fromkeys(run.benchmark for run in runs))
    found = [
        comparison
        for first, second, relation in pairs
        for benchmark in benchmarks
        if (first, benchmark) in by_place and (second, benchmark) in by_place
        for comparison in _compare(by_place[first, benchmark], by_place[second, benchmark], relation, margin)
    ]
    for family in ("headline", "detail"):
        places = [place for place, comparison in enumerate(found) if comparison.family == family]
        corrected = holm([found[place].found.p_value for place in places])
        for place, p_holm in zip(places, corrected, strict=True):
            found[place] = replace(found[place], p_holm=p_holm)
    return found


def _compare(first: Run, second: Run, relation: Relation, margin: float) -> Iterable[Comparison]:
    groups = dict.fromkeys(row.sample.group for row in first.rows)
    for metric in dict.fromkeys(metric for group in groups for metric in METRICS_OF_GROUP[group]):
        hits = [_hits(run.rows, metric) for run in (first, second)]
        num_shared = len(hits[0].keys() & hits[1].keys())
        for (scope, key), questions in _groups(first.rows).items():
            mine = [{place: hit for place, hit in each.items() if place[0] in questions} for each in hits]
            shared = mine[0].keys() & mine[1].keys()
            # An area that holds all there is says nothing new.
            if not shared or (scope != "overall" and len(shared) == num_shared):
                continue
            trials: dict[str, tuple[int, int, int]] = {}
            for question, repeat in shared:
                a, b, num = trials.get(question, (0, 0, 0))
                trials[question] = a + mine[0][question, repeat], b + mine[1][question, repeat], num + 1
            one = difference(trials)
            yield Comparison(
                first.variant,
                second.variant,
                relation,
                first.benchmark,
                metric,
                scope,
                key,
                one,
                num_unpaired=len(mine[0].keys() ^ mine[1].keys()),
                family="headline" if scope == "overall" and metric not in _SECONDARY else "detail",
                standing=non_inferiority(one, margin)
                if metric == "pass_at_1" and scope == "overall"
                else None,
            )


def _hits(rows: Sequence[ScoredRow], metric: str) -> dict[tuple[str, int], bool]:
    """Question and repeat to whether it counts, for the rows of the metric's denominator."""
    hits = {(row.question_id, row.completion.repeat): outcome(row, metric) for row in rows}
    return {place: hit for place, hit in hits.items() if hit is not None}


def _groups(rows: Sequence[ScoredRow]) -> dict[tuple[str, str], set[str]]:
    """Questions of every scope and key: all of them, each area, with and without history where there are
    both.
    """
    groups: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        sample = row.sample
        groups["overall", "all"].add(row.question_id)
        groups["area", sample.area].add(row.question_id)
        if sample.task == "refusal":
            groups["history", "with" if sample.metadata.get("has_history") == "true" else "without"].add(
                row.question_id
            )
    return dict(groups)
