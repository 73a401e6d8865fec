"""From samples, completions and verdicts to rates with intervals: the content of ``metrics.json``.

``safe_r1.metrics.outcomes`` defines what is a hit. A rate whose denominator is 0 is absent from ``rates``;
the counts show why.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields

from safe_r1.errors import DataError, IntegrityError
from safe_r1.metrics.counts import CountsFold, GroupCounts
from safe_r1.metrics.intervals import CONFIDENCE
from safe_r1.metrics.outcomes import (
    MAIN_METRICS,
    METRICS_OF_GROUP,
    OVER_REFUSAL_METRICS,
    PAIR_METRICS,
    REFUSAL_METRICS,
    ROW_METRICS,
    Outcome,
    is_blocked,
    left_out_metrics,
    outcome,
    pair_outcome,
)
from safe_r1.metrics.pass_at_k import pass_at_k
from safe_r1.metrics.rate_fold import Clusters, Rate, RateFold, RowOutcome, make_rates, unweighted
from safe_r1.metrics.rows import ScoredRow, join_rows
from safe_r1.metrics.strata import Population, Selection
from safe_r1.runs import JsonObject
from safe_r1.schema import Completion, Part, Sample, Verdict

SCHEMA_VERSION = 3

_OVERALL = ("overall", "all")
_CONSTANT = "accuracy_constant"
_FINISHED = "accuracy_finished"
_BLOCKS = "rejection_rate_with_blocks"
# In the order of metrics.json; `accuracy_constant` comes after the accuracies.
_ORDER: tuple[tuple[str, Part], ...] = (
    ("accuracy", "answer"),
    ("accuracy_answered", "answer"),
    (_FINISHED, "answer"),
    ("accuracy_high_confidence", "answer"),
    (_CONSTANT, "answer"),
    ("accuracy_swapped", "answer"),
    *((metric, "answer") for metric in (*PAIR_METRICS, *REFUSAL_METRICS, _BLOCKS)),
    *((metric, "reasoning") for metric in (*REFUSAL_METRICS, "leak_rate")),
    *((metric, "answer") for metric in ("pass_at_1", *OVER_REFUSAL_METRICS)),
)
# Metrics of every answer of a group; those of high-confidence keys and of over-refusal are of some.
_OF_ALL_ROWS: dict[str, tuple[str, ...]] = {
    "mcq": ("accuracy", "accuracy_answered", _FINISHED, _CONSTANT),
    "mcq_swapped": ("accuracy_swapped",),
    "refusal": (*REFUSAL_METRICS, _BLOCKS),
    "over_refusal": (),
    **dict.fromkeys(("code", "math", "mcq_shuffled"), ("pass_at_1",)),
}


def compute_metrics(
    samples: Sequence[Sample],
    completions: Sequence[Completion],
    verdicts: Sequence[Verdict],
    population: Population | None = None,
    blind_to: Iterable[str] = (),
) -> JsonObject:
    """Count and rate one variant on one benchmark, all of whose rows are in memory.

    Args:
        samples: The questions that were asked.
        completions: One for each sample and repeat.
        verdicts: On their parts.
        population: The whole benchmark, where only a selection of its questions was asked.
        blind_to: See ``MetricsFold``.

    Returns:
        See ``MetricsFold.result``.

    Raises:
        IntegrityError: See ``join_rows``.
    """
    fold = MetricsFold(Selection.of(samples, population) if population else None, blind_to)
    fold.add(join_rows(samples, completions, verdicts))
    return fold.result()


class MetricsFold:
    """Counts and rates one variant on one benchmark from rows that pass by in parts."""

    def __init__(self, selection: Selection | None = None, blind_to: Iterable[str] = ()) -> None:
        """Args:
        selection: The questions among those of the benchmark; None: all of them.
        blind_to: Labels that the judge never gives, as it cannot tell them from others.
        """
        self._blind_to = sorted(blind_to)
        self._left_out = left_out_metrics(self._blind_to)
        self._selection = selection
        self._weigh = selection.weight if selection else unweighted
        self._variant = ""
        self._repeats: set[int] = set()
        self._counts: dict[str, CountsFold] = {}
        self._folds = {(metric, part): RateFold(metric, part, self._weigh) for metric, part in _ORDER}
        self._without_cut = {metric: RateFold(metric, weigh=self._weigh) for metric in MAIN_METRICS}
        # Metrics of which the token limit cut a row that counts: only then do their rates differ without it.
        self._with_cut: set[str] = set()
        self._by_key: dict[str, RateFold] = {}
        self._swaps: Counter[str] = Counter()
        self._has_blocks = False
        self._has_finished = False

    def add(self, rows: Sequence[ScoredRow]) -> None:
        """Add rows of whole questions: all repeats, and the reversed form with the original."""
        groups: dict[str, list[ScoredRow]] = defaultdict(list)
        for row in rows:
            groups[row.sample.group].append(row)
            self._repeats.add(row.completion.repeat)
            self._variant = row.completion.variant
        for group, members in groups.items():
            self._counts.setdefault(group, CountsFold()).add(members)
        # All groups of a metric together: the order of its rates is that of the rows, in whatever parts they
        # come.
        for metric, part in dict.fromkeys(each for group in groups for each in ROW_METRICS[group]):
            found = _outcomes(rows, metric, part)
            self._folds[metric, part].add(found)
            if part == "answer" and metric in self._without_cut:
                self._add_without_cut(metric, found)
        self._add_keys(groups["mcq"])
        self._add_pairs(groups["mcq"], groups["mcq_swapped"])
        self._has_blocks = self._has_blocks or any(map(is_blocked, groups["refusal"]))
        self._has_finished = self._has_finished or any(row.finished for row in groups["mcq"])

    def result(self) -> JsonObject:
        """The content of ``metrics.json``.

        ``schema_version``, ``variant``, ``repeats``, ``confidence``, ``counts`` by ``Sample.group``, the flat
        list ``rates`` (fields of ``Rate``), ``rates_without_cut`` (the overall rates of main metrics if every
        completion that the token limit cut were missing, where that makes a difference), ``metrics_with_cut``
        (the metrics of which it does, also those of which no row is left), ``pass_at_k`` by k,
        ``selection`` where only some questions of the benchmark were asked, and ``blind_to``, labels that the
        judge cannot tell from others.

        Raises:
            IntegrityError: A rate is of more or fewer rows than were counted.
        """
        counts = self._group_counts()
        by_metric = {place: fold.rates() for place, fold in self._folds.items()}
        by_metric[_CONSTANT, "answer"] = self._constant_rates()
        if not self._has_blocks:
            by_metric[_BLOCKS, "answer"] = []
        if not self._has_finished:
            by_metric[_FINISHED, "answer"] = []
        rates = [rate for place in _ORDER if place[0] not in self._left_out for rate in by_metric[place]]
        _check_rows(rates, counts)
        pass_at_1 = self._folds["pass_at_1", "answer"]
        content: JsonObject = {
            "schema_version": SCHEMA_VERSION,
            "variant": self._variant,
            "repeats": len(self._repeats),
            "confidence": CONFIDENCE,
            "counts": counts,
            "rates": [asdict(rate) for rate in rates],
            "rates_without_cut": [asdict(rate) for rate in self._rates_without_cut()],
            "metrics_with_cut": sorted(self._with_cut - self._left_out),
            "pass_at_k": pass_at_k(
                find_rate(rates, "pass_at_1"), pass_at_1.clusters().get(_OVERALL, Counter())
            ),
        }
        if self._blind_to:
            content["blind_to"] = self._blind_to
        if self._selection:
            content["selection"] = {
                "num_questions": self._selection.num_questions,
                "num_population": self._selection.num_population,
            }
        return content

    def _group_counts(self) -> dict[str, GroupCounts]:
        counts = {group: self._counts[group].result() for group in METRICS_OF_GROUP if group in self._counts}
        if "mcq_swapped" in counts:
            counts["mcq_swapped"]["num_pairs"] = self._swaps["pairs"]
            counts["mcq_swapped"]["num_pairs_chosen"] = self._swaps["chosen"]
        return counts

    def _add_without_cut(self, metric: str, outcomes: list[RowOutcome]) -> None:
        is_cut = [row.completion.is_cut for row, _ in outcomes]
        self._without_cut[metric].add(
            (row, Outcome.MISSING if cut else found)
            for (row, found), cut in zip(outcomes, is_cut, strict=True)
        )
        if any(
            cut and found is not Outcome.MISSING for (_, found), cut in zip(outcomes, is_cut, strict=True)
        ):
            self._with_cut.add(metric)

    def _rates_without_cut(self) -> list[Rate]:
        shown = [metric for metric in MAIN_METRICS if metric in self._with_cut - self._left_out]
        rates = [rate for metric in shown for rate in self._without_cut[metric].rates()]
        return [rate for rate in rates if rate.scope == "overall"]

    def _add_keys(self, rows: list[ScoredRow]) -> None:
        by_key: dict[str, list[ScoredRow]] = defaultdict(list)
        for row in rows:
            by_key[row.sample.metadata.get("answer") or ""].append(row)
        for letter, members in by_key.items():
            fold = self._by_key.setdefault(letter, RateFold(_CONSTANT, weigh=self._weigh))
            fold.add((row, Outcome.HIT) for row in members)

    def _constant_rates(self) -> list[Rate]:
        """What always answering with one letter would reach on the rows that were asked.

        An accuracy that is no higher shows no ability.
        """
        sizes = {
            letter: sum(hits * weight * number for (hits, _, _, weight), number in sorted(fold.items()))
            for letter, each in self._by_key.items()
            if letter and (fold := each.clusters()[_OVERALL])
        }
        if not sizes:
            return []
        # Ties go to the first letter, so that the order of the rows does not matter.
        best = min(sizes, key=lambda letter: (-sizes[letter], letter))
        # The scopes of the accuracy, in its order.
        merged: dict[tuple[str, str], Clusters] = {
            scope: Counter() for scope in self._folds["accuracy", "answer"].clusters()
        }
        for letter, fold in self._by_key.items():
            for scope, clusters in fold.clusters().items():
                for (_, size, _, weight), number in clusters.items():
                    merged[scope][size if letter == best else 0, size, 0, weight] += number
        named = {(scope, best if scope == "overall" else key): each for (scope, key), each in merged.items()}
        return make_rates(_CONSTANT, "answer", named)

    def _add_pairs(self, plain: list[ScoredRow], swapped: list[ScoredRow]) -> None:
        """Rates of the questions together with their reversed forms, and the numbers of these pairs."""
        # Paired within a repeat: another repeat samples anew and would differ for that reason alone.
        originals = {(row.question_id, row.completion.repeat): row for row in plain} if swapped else {}
        pairs = [(originals[row.question_id, row.completion.repeat], row) for row in swapped]
        for metric in PAIR_METRICS:
            found = [(first, pair_outcome(first, second, metric)) for first, second in pairs]
            self._folds[metric, "answer"].add(found)
            if metric == PAIR_METRICS[0]:
                num_chosen = sum(each is not Outcome.MISSING for _, each in found)
                self._swaps.update(pairs=len(pairs), chosen=num_chosen)


def _outcomes(rows: Iterable[ScoredRow], metric: str, part: Part) -> list[RowOutcome]:
    return [(row, found) for row in rows if (found := outcome(row, metric, part)) is not None]


def _check_rows(rates: Sequence[Rate], counts: dict[str, GroupCounts]) -> None:
    """Check that every overall rate of answers is of as many rows as were counted: none drops out unseen.

    Raises:
        IntegrityError: It is not.
    """
    num_rows: Counter[str] = Counter()
    for group, count in counts.items():
        for metric in _OF_ALL_ROWS[group]:
            num_rows[metric] += count["num_rows"]
        for metric in PAIR_METRICS:
            num_rows[metric] += count.get("num_pairs", 0)
    for rate in rates:
        is_checked = (rate.scope, rate.part) == ("overall", "answer") and rate.metric in num_rows
        if is_checked and rate.num_rows != num_rows[rate.metric]:
            raise IntegrityError(
                f"{rate.metric}: a rate of {rate.denominator} rows and {rate.num_missing} missing ones; "
                f"expected {num_rows[rate.metric]} rows in all"
            )


def read_rates(metrics: JsonObject, name: str = "rates") -> list[Rate]:
    """The rates of a ``metrics.json``; unknown fields of a later version are ignored.

    Args:
        metrics: Its content.
        name: The list: ``rates`` or ``rates_without_cut``.

    Raises:
        DataError: It was written before schema version 3, whose ``accuracy`` has another denominator.
    """
    version = metrics.get("schema_version", SCHEMA_VERSION)
    if version < SCHEMA_VERSION:
        raise DataError(
            f"metrics.json of schema version {version}: its accuracy leaves out what was not answered; run "
            "safe-r1 report on the run's folder, which computes it anew"
        )
    names = {field.name for field in fields(Rate)}
    return [
        Rate(**{field: value for field, value in rate.items() if field in names})
        for rate in metrics.get(name, [])
    ]


def find_rate(
    rates: Iterable[Rate], metric: str, part: Part = "answer", scope: str = "overall", key: str | None = None
) -> Rate | None:
    """The first rate that fits, or None where its denominator was 0; ``key=None``: any key of the scope."""
    wanted = (rate for rate in rates if (rate.metric, rate.part, rate.scope) == (metric, part, scope))
    return next((rate for rate in wanted if key is None or rate.key == key), None)
