"""Rates with intervals, folded from rows that pass by in parts: memory does not grow with their number."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from safe_r1.metrics.intervals import WEIGHTED, clustered_interval, weighted_share
from safe_r1.metrics.outcomes import ASKED_METRICS, Outcome
from safe_r1.metrics.rows import ScoredRow
from safe_r1.schema import Part, Sample

RowOutcome = tuple[ScoredRow, Outcome]
"""A row and what it says of a metric."""
Clusters = Counter[tuple[int, int, int, float]]
"""Number of questions by (hits, rows with an outcome, rows without, weight): all that a rate needs."""
Weigh = Callable[[Sample], float]
"""Weight of a sample's rows; 1 where the run has all questions of its benchmark."""

_SCOPES = ("overall", "area", "category", "history")


@dataclass(frozen=True)
class Rate:
    """A share with its 95% interval, and what it can be at least and at most whatever the missing rows hide.

    Attributes:
        metric: Name of the metric, e.g. ``accuracy`` or ``harm_rate``.
        part: ``answer`` or ``reasoning``: the text that was scored.
        scope: ``overall``, ``area``, ``category`` or ``history``.
        key: Key of the area or category, ``with``/``without`` (history), ``all`` (overall). The overall
            ``accuracy_constant`` names the letter here; its other scopes hold that same letter.
        numerator: Rows that are hits.
        denominator: Rows in all; of ``ASKED_METRICS`` with the missing ones, of all others without them.
        num_samples: Questions behind the rows of the denominator: they, not the rows, are independent.
        value: ``numerator / denominator``; of a selection of questions (``--limit``) the weighted share.
        low: Lower end of the interval.
        high: Upper end of the interval.
        method: ``wilson``, or ``wilson-cluster`` where a question has several rows, ``-weighted`` behind it
            where questions have different weights (see ``safe_r1.metrics.intervals``).
        num_missing: Rows of the metric's population of which the outcome is not known: truncated, unfinished,
            unscored, failed or blocked.
        bound_low: The share if no missing row were a hit.
        bound_high: The share if all missing rows were hits.
        bounds_low: Lower end of the interval of ``bound_low``.
        bounds_high: Upper end of the interval of ``bound_high``.
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
    num_missing: int
    bound_low: float
    bound_high: float
    bounds_low: float
    bounds_high: float

    @property
    def num_rows(self) -> int:
        """Rows of the metric's population: with an outcome and without one."""
        return self.denominator + (0 if self.metric in ASKED_METRICS else self.num_missing)

    @property
    def is_weighted(self) -> bool:
        """True where questions have different weights."""
        return self.method.endswith(WEIGHTED)


def unweighted(_: Sample) -> float:
    """The weight of a question of a run that has all questions of its benchmark."""
    return 1.0


class RateFold:
    """The outcomes of one metric by scope and key, as numbers of questions with the same outcomes."""

    def __init__(self, metric: str, part: Part = "answer", weigh: Weigh = unweighted, key: str = "all"):
        """Args:
        metric: Name of the metric.
        part: The text that was scored.
        weigh: Weight of a question.
        key: Key of the overall rate.
        """
        self.metric = metric
        self.part = part
        self.weigh = weigh
        self.key = key
        self._clusters: dict[tuple[str, str], Clusters] = {}

    def add(self, outcomes: Iterable[RowOutcome]) -> None:
        """Add rows of whole questions: the rows of a question form a cluster, and come together."""
        groups: dict[tuple[str, str], dict[tuple[str, float], list[Outcome]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for row, found in outcomes:
            sample = row.sample
            scopes = [("overall", self.key), ("area", sample.area), ("category", sample.category)]
            if sample.task == "refusal":
                has_history = sample.metadata.get("has_history") == "true"
                scopes.append(("history", "with" if has_history else "without"))
            question = (row.question_id, self.weigh(sample))
            for scope in scopes:
                groups[scope][question].append(found)
        for scope, questions in groups.items():
            clusters = self._clusters.setdefault(scope, Counter())
            for (_, weight), found in questions.items():
                num_missing = found.count(Outcome.MISSING)
                clusters[found.count(Outcome.HIT), len(found) - num_missing, num_missing, weight] += 1

    def clusters(self) -> Mapping[tuple[str, str], Clusters]:
        """The clusters by scope and key, in the order in which they were met."""
        return self._clusters

    def rates(self) -> list[Rate]:
        """One rate for each scope and key whose denominator is not 0, by scope."""
        return make_rates(self.metric, self.part, self._clusters)


def make_rates(metric: str, part: str, clusters: Mapping[tuple[str, str], Clusters]) -> list[Rate]:
    """Rates of clusters by scope and key."""
    rates = [
        _rate(metric, part, *scope, clusters[scope])
        for scope in sorted(clusters, key=lambda scope: _SCOPES.index(scope[0]))
    ]
    return [rate for rate in rates if rate]


def _rate(metric: str, part: str, scope: str, key: str, clusters: Clusters) -> Rate | None:
    # One entry a question: its rows are dependent, and counting them as independent narrows the interval.
    # Sorted, so that the last digit of an interval does not depend on the order of the rows.
    kinds = sorted(clusters)
    table = np.repeat(np.asarray(kinds, float), [clusters[kind] for kind in kinds], axis=0)
    hits, known, missing, weights = table.T
    asked = known + missing
    trials = asked if metric in ASKED_METRICS else known
    has_trials = trials > 0
    if not has_trials.any():
        return None
    value, low, high, method = _estimate(hits[has_trials], trials[has_trials], weights[has_trials])
    bound_low, bounds_low = value, low
    bound_high, bounds_high = value, high
    if missing.any():
        bound_low, lowest, _, _ = _estimate(hits, asked, weights)
        bound_high, _, highest, _ = _estimate(hits + missing, asked, weights)
        # More rows may make an interval narrower: the bounds hold the rate's own one all the same.
        bounds_low = min(low, lowest)
        bounds_high = max(high, highest)
    return Rate(
        metric=metric,
        part=part,
        scope=scope,
        key=key,
        numerator=int(hits.sum()),
        denominator=int(trials.sum()),
        num_samples=int(has_trials.sum()),
        value=value,
        low=low,
        high=high,
        method=method,
        num_missing=int(missing.sum()),
        bound_low=bound_low,
        bound_high=bound_high,
        bounds_low=bounds_low,
        bounds_high=bounds_high,
    )


def _estimate(
    hits: npt.NDArray[np.float64], trials: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> tuple[float, float, float, str]:
    """The weighted share, its interval, and the interval's method."""
    # Equal weights say nothing, and would only round the last digit.
    weight = weights if len(np.unique(weights)) > 1 else None
    return weighted_share(hits, trials, weight), *clustered_interval(hits, trials, weight)
