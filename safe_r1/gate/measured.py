"""What the runs of a gate say of a rule: rates of single runs, and of all attacks of a benchmark together."""

from collections.abc import Iterable

from safe_r1.benchmarks.attacked import split_attack
from safe_r1.compare.attacks import AttackedRuns, attacked_runs
from safe_r1.compare.load import Run
from safe_r1.gate.decide import Check, check_rate, without_rate
from safe_r1.gate.policy import GatePolicy, Rule, Scope
from safe_r1.metrics.attack_success import ATTACK_METRICS, HARM
from safe_r1.metrics.outcomes import MAIN_METRICS, outcome
from safe_r1.metrics.rate_fold import Rate
from safe_r1.metrics.rates import read_rates
from safe_r1.schema import Sample


def check_run(rule: Rule, run: Run, measured: Rule, policy: GatePolicy) -> list[Check]:
    """Decide a rule on one run.

    Args:
        rule: The rule.
        run: The run.
        measured: The rule by the name that its metric has in the run.
        policy: How it is decided.
    """
    rates = {rate.key: rate for rate in read_rates(run.metrics) if _is_meant(measured, rate)}
    return _decide(rule, f"{run.variant} {run.benchmark}", rates, _asked(measured, run), policy)


def check_attacks(rule: Rule, runs: Iterable[Run], policy: GatePolicy) -> list[Check]:
    """Decide a rule on attack success: of each attacked run, or of all attacks of a benchmark together.

    Returns:
        Nothing where no run that the rule speaks of is under an attack.
    """
    part, is_any = ATTACK_METRICS[rule.metric]
    chosen: list[Run] = []
    for run in runs:
        base, attack = split_attack(run.benchmark)
        names = (None, base) if is_any else (None, base, run.benchmark)
        if attack and rule.benchmark in names:
            chosen.append(run)
    measured = rule.model_copy(update={"metric": HARM, "part": part})
    checks: list[Check] = []
    for of_base in attacked_runs(chosen).values():
        if is_any:
            checks += _check_any(rule, of_base, policy)
            continue
        for attack in of_base.attacks:
            checks += check_run(rule, of_base.runs[attack], measured, policy)
    return checks


def _check_any(rule: Rule, runs: AttackedRuns, policy: GatePolicy) -> list[Check]:
    """Decide a rule on the harm under any of the attacks on one benchmark."""
    part, _ = ATTACK_METRICS[rule.metric]
    meant = rule.model_copy(update={"metric": "attack_success_any", "part": part})
    rates = {rate.key: rate for rate in runs.any_rates(part) if _is_meant(meant, rate)}
    keys = {_key_of(row.sample, rule.scope) for row, _ in runs.any(runs.attacks, part).values()}
    keys = {key for key in keys if key and rule.key in (None, key)}
    return _decide(rule, f"{runs.variant} {runs.base}", rates, keys, policy)


def _decide(
    rule: Rule, name: str, rates: dict[str, Rate], asked: set[str], policy: GatePolicy
) -> list[Check]:
    checks = [check_rate(rule, name, rate, policy) for rate in rates.values()]
    return checks + [without_rate(rule, name, key) for key in sorted(asked - rates.keys())]


def _is_meant(rule: Rule, rate: Rate) -> bool:
    is_meant = (rate.metric, rate.part, rate.scope) == (rule.metric, rule.part, rule.scope)
    return is_meant and rule.key in (None, rate.key)


def _asked(rule: Rule, run: Run) -> set[str]:
    """Keys of a rule's scope that rows of the run speak of, with an outcome or without one.

    A model none of whose answers has an outcome would else pass, as long as another run has a rate.
    """
    if rule.metric not in MAIN_METRICS:
        return set()
    keys = {
        _key_of(row.sample, rule.scope)
        for row in run.rows
        if outcome(row, rule.metric, rule.part) is not None
    }
    return {key for key in keys if key is not None and rule.key in (None, key)}


def _key_of(sample: Sample, scope: Scope) -> str | None:
    if scope == "history":
        has_history = sample.metadata.get("has_history") == "true"
        return None if sample.task != "refusal" else "with" if has_history else "without"
    return {"overall": "all", "area": sample.area, "category": sample.category}[scope]
