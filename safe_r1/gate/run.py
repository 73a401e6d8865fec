"""Runs a gate: load the runs, decide every line, show and write the result."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from safe_r1.compare.differences import SECONDARY, Comparison, compare_all, without_pairs
from safe_r1.compare.load import Run, load_runs, setting_differences
from safe_r1.errors import ConfigError
from safe_r1.gate.decide import (
    Check,
    Status,
    check_regression,
    unmeasured,
    without_attacks,
    without_baseline,
    without_pair,
)
from safe_r1.gate.measured import check_attacks, check_run
from safe_r1.gate.policy import GatePolicy, Rule
from safe_r1.metrics.attack_success import ATTACK_METRICS
from safe_r1.report.labels import METRICS


@dataclass(frozen=True)
class GateResult:
    """The decided lines of a gate, the worst first."""

    checks: list[Check]

    @property
    def status(self) -> Status:
        """The worst of its checks: one that fails, then one that is undecided."""
        return max((check.status for check in self.checks), key=lambda status: status.value)


def run_gate(runs: Sequence[str], policy: GatePolicy, baseline: str | None = None) -> GateResult:
    """Decide every line of a policy on finished runs.

    Args:
        runs: Folders with the runs, see ``load_runs``.
        policy: The lines.
        baseline: Folder with the runs of one variant that no main metric may be worse than; None: no such
            line.

    Raises:
        ConfigError: There is nothing to decide, or the baseline's runs cannot be compared with the others.
        StorageError: A folder holds no finished run.
    """
    if not policy.rules and baseline is None:
        raise ConfigError("nothing to decide: give --min, --max, --no-regression or --policy")
    found, _ = load_runs(runs, allow_mismatch=False)
    checks = [check for rule in policy.rules for check in _check_rule(rule, found, policy)]
    if baseline is not None:
        checks += _check_baseline(found, baseline, policy)
    return GateResult(sorted(checks, key=lambda check: -check.status.value))


def _check_rule(rule: Rule, runs: Sequence[Run], policy: GatePolicy) -> list[Check]:
    if rule.metric in ATTACK_METRICS:
        return check_attacks(rule, runs, policy) or [without_attacks(rule)]
    checks: list[Check] = []
    for run in runs:
        if rule.benchmark in (None, run.benchmark):
            checks += check_run(rule, run, rule, policy)
    return checks or [unmeasured(rule)]


def _check_baseline(runs: Sequence[Run], baseline: str, policy: GatePolicy) -> list[Check]:
    before, _ = load_runs([baseline], allow_mismatch=False)
    names = {run.variant for run in before}
    if len(names) > 1:
        raise ConfigError(
            f"--no-regression {baseline}: runs of {', '.join(sorted(names))}; expected one variant"
        )
    by_benchmark = {run.benchmark: run for run in before}
    if not by_benchmark.keys() & {run.benchmark for run in runs}:
        raise ConfigError(
            f"--no-regression {baseline}: measures {', '.join(by_benchmark)}; no run given is of any of them"
        )
    checks = []
    for run in runs:
        first = by_benchmark.get(run.benchmark)
        if first is None:
            checks.append(without_baseline(before[0].variant, f"{run.variant} {run.benchmark}", policy))
            continue
        if problems := list(setting_differences([first, run], first.variant)):
            raise ConfigError(f"not comparable with --no-regression: {'; '.join(problems)}")
        checks += [check_regression(each, policy) for each in _main_comparisons(first, run)]
        checks += [
            without_pair(metric, first.variant, f"{run.variant} {run.benchmark}", policy)
            for metric in without_pairs(first, run)
            if METRICS[metric].better and metric not in SECONDARY
        ]
    return checks


def _main_comparisons(first: Run, second: Run) -> list[Comparison]:
    """Of the main metrics that have a good side."""
    # The same variant evaluated again is compared with itself.
    if first.variant == second.variant:
        first = replace(first, variant=f"{first.variant}@baseline")
    compared = compare_all([first, second], [(first.variant, second.variant, "baseline")])
    return [each for each in compared if each.family == "headline" and METRICS[each.metric].better]
