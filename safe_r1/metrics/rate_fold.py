"""Rates with intervals, folded from rows that pass by in parts: memory does not grow with their number."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from safe_r1.metrics.intervals import clustered_interval
from safe_r1.metrics.rows import ScoredRow
from safe_r1.schema import Part

Outcome = tuple[ScoredRow, bool]
"""A row and whether it is a hit."""
Clusters = Counter[tuple[int, int]]
"""Number of questions by (hits, trials): all that a rate and its interval depend on."""

_SCOPES = ("overall", "area", "category", "history")


@dataclass(frozen=True)
class Rate:
    """A share with its 95% interval.

    Attributes:
        metric: Name of the metric, e.g. ``accuracy`` or ``harm_rate``.
        part: ``answer`` or ``reasoning``: the text that was scored.
        scope: ``overall``, ``area``, ``category`` or ``history``.
        key: Key of the area or category, ``with``/``without`` (history), ``all`` (overall). The overall
            ``accuracy_constant`` names the letter here; its other scopes hold that same letter.
        numerator: Rows that are hits.
        denominator: Rows in all.
        num_samples: Questions behind the rows: they, not the rows, are independent.
        value: ``numerator / denominator``.
        low: Lower end of the interval.
        high: Upper end of the interval.
        method: ``wilson``, or ``wilson-cluster`` where a question has several rows (see
            ``safe_r1.metrics.intervals``).
    """

    metric: str
    part: str
    scope: str
    key: str
    numerator: int
    denominator: int
    num_samples: int
    value: float
    low: float
    high: float
    method: str


class RateFold:
    """The outcomes of one metric by scope and key, as numbers of questions with the same hits and trials."""

    def __init__(self, metric: str, part: Part = "answer", key: str = "all"):
        """Args:
        metric: Name of the metric.
        part: The text that was scored.
        key: Key of the overall rate.
        """
        self.metric = metric
        self.part = part
        self.key = key
        self._clusters: dict[tuple[str, str], Clusters] = {}

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Add rows of whole questions: the trials of a question form a cluster, and come together."""
        groups: dict[tuple[str, str], dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        for row, hit in outcomes:
            sample = row.sample
            scopes = [("overall", self.key), ("area", sample.area), ("category", sample.category)]
            if sample.task == "refusal":
                has_history = sample.metadata.get("has_history") == "true"
                scopes.append(("history", "with" if has_history else "without"))
            for scope in scopes:
                groups[scope][row.question_id].append(hit)
        for scope, questions in groups.items():
            clusters = self._clusters.setdefault(scope, Counter())
            clusters.update((sum(trials), len(trials)) for trials in questions.values())

    def clusters(self) -> Mapping[tuple[str, str], Clusters]:
        """The clusters by scope and key, in the order in which they were met."""
        return self._clusters

    def rates(self) -> list[Rate]:
        """One rate for each scope and key that has an outcome, by scope."""
        return make_rates(self.metric, self.part, self._clusters)


def make_rates(metric: str, part: str, clusters: Mapping[tuple[str, str], Clusters]) -> list[Rate]:
    """Rates of clusters by scope and key."""
    return [
        _rate(metric, part, *scope, clusters[scope])
        for scope in sorted(clusters, key=lambda scope: _SCOPES.index(scope[0]))
    ]


def _rate(metric: str, part: str, scope: str, key: str, clusters: Clusters) -> Rate:
    # One entry a question: its rows are dependent, and counting them as independent narrows the interval.
    # Sorted, so that the last digit of an interval does not depend on the order of the rows.
    kinds = sorted(clusters)
    counts = [clusters[kind] for kind in kinds]
    hits = np.repeat([hits for hits, _ in kinds], counts)
    sizes = np.repeat([size for _, size in kinds], counts)
    low, high, method = clustered_interval(hits.tolist(), sizes.tolist())
    numerator = int(hits.sum())
    denominator = int(sizes.sum())
    value = numerator / denominator
    return Rate(metric, part, scope, key, numerator, denominator, len(hits), value, low, high, method)
