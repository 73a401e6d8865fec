"""Tables of attack success in a comparison: by attack and category for each pair, and rates of variants."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from safe_r1.attacks.base import PLAIN
from safe_r1.benchmarks.attacked import SEPARATOR, split_attack
from safe_r1.compare.attacks import OVER_REFUSAL, attacked_runs
from safe_r1.compare.differences import Comparison
from safe_r1.compare.load import Run
from safe_r1.metrics.attack_success import ATTACK_METRICS, HARM
from safe_r1.metrics.rate_fold import Rate
from safe_r1.metrics.rates import read_rates
from safe_r1.report.labels import BilingualName, benchmark_labels

ANY_ATTACK = BilingualName("any", "任一攻击", "any attack")


@dataclass(frozen=True)
class AttackRow:
    """One attack, or any of them, or the questions as they are.

    Attributes:
        name: Of the attack.
        answer: Difference in harmful answers; None where no completion has an outcome for both.
        reasoning: The same of the reasonings; None for the plain questions.
        over_refusal: Difference in refused harmless questions; None where none was asked.
    """

    name: BilingualName
    answer: Comparison | None
    reasoning: Comparison | None = None
    over_refusal: Comparison | None = None


@dataclass(frozen=True)
class AttackPair:
    """Two variants on one benchmark under the attacks that both were asked.

    Attributes:
        first, second: The variants.
        benchmark: Name of the benchmark without an attack.
        rows: Any attack, the plain questions, then each attack.
        columns: Names of any attack and of each one, of the table by category.
        categories: Each category with its differences, one for each of ``columns``.
    """

    first: str
    second: str
    benchmark: str
    rows: list[AttackRow]
    columns: list[BilingualName]
    categories: list[tuple[BilingualName, list[Comparison | None]]]


def attack_pairs(comparisons: Iterable[Comparison], runs: Sequence[Run]) -> list[AttackPair]:
    """The comparisons of attacked benchmarks, by pair and benchmark."""
    by_pair: dict[tuple[str, str, str], dict[tuple[str, str, str], Comparison]] = {}
    bases = {base for _, base in attacked_runs(runs)}
    for each in comparisons:
        base, attack = split_attack(each.benchmark)
        if base in bases and (each.family.startswith("attack") or attack == PLAIN.name):
            found = by_pair.setdefault((each.first, each.second, base), {})
            if each.scope != "area":
                found[attack, each.metric, each.key] = each
    labels = {base: benchmark_labels(base, _info(base, runs)) for base in bases}
    pairs: list[AttackPair] = []
    for (first, second, base), found in by_pair.items():
        attacks = [attack for attack in dict.fromkeys(attack for attack, *_ in found) if attack]
        attacks = [attack for attack in attacks if attack != PLAIN.name]
        if not attacks:
            continue
        columns = [ANY_ATTACK, *(_name(attack) for attack in attacks)]
        rows = [
            AttackRow(ANY_ATTACK, *(found.get(("", metric, "all")) for metric in _metrics(is_any=True))),
            AttackRow(
                _name(PLAIN.name),
                found.get((PLAIN.name, HARM, "all")),
                over_refusal=found.get((PLAIN.name, OVER_REFUSAL, "all")),
            ),
            *(_row(attack, found) for attack in attacks),
        ]
        keys = labels[base].ordered(
            key for *_, key in found if key != "all" and ("", _ANSWER_ANY, key) in found
        )
        categories = [
            (
                labels[base].name(key),
                [found.get(("", _ANSWER_ANY, key)), *(found.get((each, _ANSWER, key)) for each in attacks)],
            )
            for key in keys
        ]
        pairs.append(AttackPair(first, second, base, rows, columns, categories))
    return pairs


def attack_rates(runs: Sequence[Run]) -> dict[tuple[str, ...], Rate]:
    """Attack success by variant, benchmark, metric, scope and key, as tables of rates look it up."""
    rates: dict[tuple[str, ...], Rate] = {}
    for (variant, base), found in attacked_runs(runs).items():
        for metric, (part, is_any) in ATTACK_METRICS.items():
            if is_any:
                of_metric = [(base, rate) for rate in found.any_rates(part)]
            else:
                of_metric = [
                    (found.runs[attack].benchmark, rate)
                    for attack in found.attacks
                    for rate in read_rates(found.runs[attack].metrics)
                    if (rate.metric, rate.part) == (HARM, part)
                ]
            for benchmark, rate in of_metric:
                place = (variant, benchmark, metric, rate.scope, rate.key)
                rates[place] = replace(rate, metric=metric, part="answer")
    return rates


_ANSWER, _REASONING, _ANSWER_ANY, _REASONING_ANY = ATTACK_METRICS


def _metrics(is_any: bool) -> list[str]:
    return [metric for metric, (_, of_any) in ATTACK_METRICS.items() if of_any == is_any]


def _row(attack: str, found: dict[tuple[str, str, str], Comparison]) -> AttackRow:
    metrics = (*_metrics(is_any=False), OVER_REFUSAL)
    return AttackRow(_name(attack), *(found.get((attack, metric, "all")) for metric in metrics))


def _name(attack: str) -> BilingualName:
    return (
        BilingualName(attack, "原问题", "plain")
        if attack == PLAIN.name
        else BilingualName(attack, attack, "")
    )


def _info(base: str, runs: Iterable[Run]) -> dict[str, object]:
    return next((run.info for run in runs if run.benchmark.startswith(base + SEPARATOR)), {})
