"""Attack success of variants: one held against another, by attack and category, and what passes over.

An attacked benchmark is a run of its own, ``BENCHMARK@ATTACK``. Its harmful answers are compared on the same
questions under the same attack; of all attacks together only those count that both variants were asked.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from safe_r1.attacks.base import PLAIN
from safe_r1.benchmarks.attacked import split_attack
from safe_r1.compare.differences import Comparison, Family, Relation, paired_counts
from safe_r1.compare.load import Run
from safe_r1.config.adaptive import METHODS
from safe_r1.metrics.attack_success import (
    ATTACK_METRICS,
    HARM,
    Outcomes,
    any_of,
    any_outcomes,
    harm_outcomes,
    outcomes_of,
)
from safe_r1.metrics.outcomes import Outcome
from safe_r1.metrics.rate_fold import Clusters, Rate, Weigh, make_rates
from safe_r1.metrics.tests import difference
from safe_r1.schema import Part

OVER_REFUSAL = "over_refusal_rate"
_ABSENT, _HIT, _MISS, _MISSING = range(4)
_CODES = {Outcome.HIT: _HIT, Outcome.MISS: _MISS, Outcome.MISSING: _MISSING}
_Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AttackedRuns:
    """The runs of one variant on one benchmark under attacks.

    Attributes:
        variant: The variant.
        base: Name of the benchmark without an attack.
        runs: Run by attack, the plain one first.
    """

    variant: str
    base: str
    runs: Mapping[str, Run]

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks, without the plain questions."""
        return [attack for attack in self.runs if attack != PLAIN.name]

    @property
    def fixed_attacks(self) -> list[str]:
        """Those that ask every model the same; one that adapts finds other prompts for each."""
        return [attack for attack in self.attacks if attack not in METHODS]

    @property
    def num_rows(self) -> int:
        """Rows of all runs."""
        return sum(len(run.rows) for run in self.runs.values())

    @cached_property
    def weights(self) -> dict[str, float]:
        """Weight of each question: that of the plain run, or else of the run that asked most."""
        runs = sorted(self.runs.items(), key=lambda each: (each[0] == PLAIN.name, len(each[1].rows)))
        return {row.question_id: run.weigh(row.sample) for _, run in runs for row in run.rows}

    @property
    def weigh(self) -> Weigh:
        """Weight of a question that any of the runs asked."""
        return lambda sample: self.weights[sample.metadata.get("swap_of", sample.sample_id)]

    @cached_property
    def _harm(self) -> dict[tuple[str, Part], Outcomes]:
        parts: tuple[Part, ...] = ("answer", "reasoning")
        return {
            (attack, part): harm_outcomes(run.rows, part)
            for attack, run in self.runs.items()
            for part in parts
        }

    def harm(self, attack: str, part: Part) -> Outcomes:
        """Whether harm came out under an attack."""
        return self._harm[attack, part]

    def any(self, attacks: Iterable[str], part: Part) -> Outcomes:
        """Whether harm came out under any of some attacks."""
        return any_outcomes(self.harm(attack, part) for attack in attacks)

    def any_rates(self, part: Part) -> list[Rate]:
        """Share of the questions with harm under any of the attacks, by scope."""
        return any_of({attack: self.harm(attack, part) for attack in self.attacks}, self.weigh, part)


def is_under_attack(run: Run) -> bool:
    """Whether a run's questions were changed; false for those that were asked as they are."""
    return split_attack(run.benchmark)[1] not in ("", PLAIN.name)


def attacked_runs(runs: Iterable[Run]) -> dict[tuple[str, str], AttackedRuns]:
    """The attacked runs by variant and benchmark, where there is any attack beside the plain questions."""
    found: dict[tuple[str, str], dict[str, Run]] = defaultdict(dict)
    for run in runs:
        base, attack = split_attack(run.benchmark)
        if attack:
            found[run.variant, base][attack] = run
    return {
        place: AttackedRuns(*place, dict(sorted(by_attack.items(), key=lambda each: each[0] != PLAIN.name)))
        for place, by_attack in found.items()
        if by_attack.keys() - {PLAIN.name}
    }


def attack_comparisons(runs: Sequence[Run], pairs: Sequence[tuple[str, str, Relation]]) -> list[Comparison]:
    """Attack success of all pairs of variants, overall and by category; not corrected yet.

    The metric is one of ``ATTACK_METRICS``, or the over-refusal under an attack. The benchmark is
    ``BENCHMARK@ATTACK``, and that without an attack for any of them.
    """
    found = attacked_runs(runs)
    bases = dict.fromkeys(base for _, base in found)
    return [
        comparison
        for first, second, relation in pairs
        for base in bases
        if (first, base) in found and (second, base) in found
        for comparison in _compare(found[first, base], found[second, base], relation)
    ]


def _compare(first: AttackedRuns, second: AttackedRuns, relation: Relation) -> Iterator[Comparison]:
    shared = [attack for attack in first.attacks if attack in second.attacks]
    if not shared:
        return
    weights = min(first, second, key=lambda each: each.num_rows).weights
    for metric, (part, is_any) in ATTACK_METRICS.items():
        if is_any:
            yield from _differences(
                first,
                second,
                relation,
                first.base,
                metric,
                weights,
                (first.any(shared, part), second.any(shared, part)),
            )
            continue
        for attack in shared:
            yield from _differences(
                first,
                second,
                relation,
                f"{first.base}@{attack}",
                metric,
                weights,
                (first.harm(attack, part), second.harm(attack, part)),
            )
    for attack in shared:
        sides = (outcomes_of(each.runs[attack].rows, OVER_REFUSAL) for each in (first, second))
        name = f"{first.base}@{attack}"
        yield from _differences(first, second, relation, name, OVER_REFUSAL, weights, tuple(sides))


def _differences(
    first: AttackedRuns,
    second: AttackedRuns,
    relation: Relation,
    benchmark: str,
    metric: str,
    weights: Mapping[str, float],
    outcomes: tuple[Outcomes, ...],
) -> Iterator[Comparison]:
    before, after = ({place: each for place, (_, each) in side.items()} for side in outcomes)
    for (scope, key), questions in _scopes(outcomes[0], metric).items():
        mine = {question: weights[question] for question in questions if question in weights}
        trials = paired_counts(before, after, mine)
        if not any(each.pairs for each in trials.values()):
            continue
        is_main = scope == "overall" and not metric.startswith("reasoning")
        family: Family = "attack" if is_main else "attack_detail"
        yield Comparison(
            first=first.variant,
            second=second.variant,
            relation=relation,
            benchmark=benchmark,
            metric=metric,
            scope=scope,
            key=key,
            difference=difference(trials),
            family=family,
        )


def _scopes(outcomes: Outcomes, metric: str) -> dict[tuple[str, str], set[str]]:
    """Questions of all, and of each category of the answers' attack success."""
    found: dict[tuple[str, str], set[str]] = {("overall", "all"): {question for question, _ in outcomes}}
    if metric not in ATTACK_METRICS or metric.startswith("reasoning"):
        return found
    by_category: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (question, _), (row, _) in outcomes.items():
        by_category["category", row.sample.category].add(question)
    # One category alone repeats the overall difference.
    return found | by_category if len(by_category) > 1 else found


@dataclass(frozen=True)
class Transfer:
    """How attacks on one variant fare with another, on the same questions under the same attacks.

    Attributes:
        source: The variant on which they were tried.
        target: The other one.
        benchmark: Name of the benchmark without an attack.
        of_successes: Of the completions that harm came out of in the source, the share of which it came out
            of in the target; None where there is none.
        of_failures: The same of those that no harm came out of.
    """

    source: str
    target: str
    benchmark: str
    of_successes: Rate | None
    of_failures: Rate | None


def transfers(runs: Sequence[Run], variants: Sequence[str]) -> list[Transfer]:
    """From every attacked variant to every other one, by the attacks that ask all variants the same.

    Rows of the source without an outcome are left out.
    """
    found = {place: each for place, each in attacked_runs(runs).items() if each.fixed_attacks}
    made: list[Transfer] = []
    for base in dict.fromkeys(base for _, base in found):
        sets = [found[variant, base] for variant in variants if (variant, base) in found]
        table = _Table(sets)
        made += [
            Transfer(source.variant, target.variant, base, *table.transfer(place, other))
            for place, source in enumerate(sets)
            for other, target in enumerate(sets)
            if source is not target
        ]
    return made


class _Table:
    """The outcomes of variants on the same attacked questions, as arrays: pairs of variants are many."""

    def __init__(self, sets: Sequence[AttackedRuns]):
        outcomes = [
            {
                (attack, *key): _CODES[each]
                for attack in of.fixed_attacks
                for key, (_, each) in of.harm(attack, "answer").items()
            }
            for of in sets
        ]
        keys = sorted({key for each in outcomes for key in each})
        questions = sorted({question for _, question, _ in keys})
        place = {question: number for number, question in enumerate(questions)}
        weights = {question: weight for of in reversed(sets) for question, weight in of.weights.items()}
        self._question = np.array([place[question] for _, question, _ in keys], np.int64)
        self._weight = [weights[question] for question in questions]
        self._codes: list[_Codes] = [
            np.array([each.get(key, _ABSENT) for key in keys], np.int64) for each in outcomes
        ]

    def transfer(self, source: int, target: int) -> tuple[Rate | None, Rate | None]:
        """Rates of the target among the successes and among the failures of the source."""
        before, after = self._codes[source], self._codes[target]
        return self._rate(after[before == _HIT], self._question[before == _HIT]), self._rate(
            after[before == _MISS], self._question[before == _MISS]
        )

    def _rate(self, codes: _Codes, question: _Codes) -> Rate | None:
        hits, misses, missing = (
            np.bincount(question[codes == code], minlength=len(self._weight)).tolist()
            for code in (_HIT, _MISS, _MISSING)
        )
        clusters: Clusters = Counter(
            (hit, hit + miss, lost, weight)
            for hit, miss, lost, weight in zip(hits, misses, missing, self._weight, strict=True)
            if hit + miss + lost
        )
        return (
            next(iter(make_rates(HARM, "answer", {("overall", "all"): clusters})), None) if clusters else None
        )


def attack_notes(runs: Sequence[Run]) -> list[str]:
    """Attacks that some variants were asked and others were not, which compare what both were asked."""
    found = attacked_runs(runs)
    notes: list[str] = []
    for base in dict.fromkeys(base for _, base in found):
        sets = [each for (_, of), each in found.items() if of == base]
        attacks = list(dict.fromkeys(attack for each in sets for attack in each.attacks))
        for each in sets:
            if missing := [attack for attack in attacks if attack not in each.runs]:
                notes.append(
                    f"{each.variant} on {base}: not asked under {', '.join(missing)}, which others were; a "
                    "pair is compared under the attacks of both"
                )
    return notes
