"""What keeps a benchmark from being published: answers without a label, told with what to do about it.

A result of nothing is no result. Completions and verdicts stay in the run folder, so that nothing is computed
twice.
"""

from collections.abc import Sequence

from safe_r1.errors import NoResultError
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.metrics.coverage import Coverage
from safe_r1.schema import JUDGED_PARTS, Sample, Unscored


def check_coverage(
    plan: EvaluationPlan, name: str, kinds: Sequence[Sample], coverage: Sequence[Coverage]
) -> None:
    """Check that every task of a benchmark has labels, and as many as ``min_scored_share`` asks for.

    Args:
        plan: The plan.
        name: The benchmark.
        kinds: A sample of each kind that it has.
        coverage: Of its groups.

    Raises:
        NoResultError: A task has too few; the message says why, and what to do.
    """
    floor = plan.config.min_scored_share
    poor = [each for each in coverage if not each.num_scored or each.share < floor]
    if not poor:
        return
    found = "; ".join(_shortage(each, floor) for each in poor)
    reasons = list(dict.fromkeys(reason for each in poor for reason in each.reasons))
    remedies = dict.fromkeys(_remedy(plan, name, reason, kinds) for reason in reasons)
    if all(each.num_scored for each in poor):
        remedies["or give a lower min_scored_share, which may change from session to session"] = None
    raise NoResultError(
        f"{name}: not published, {found}. What helps: {'; '.join(remedies)}. "
        f"All rows are kept in {plan.folders[name].path}"
    )


def _shortage(coverage: Coverage, floor: float) -> str:
    reasons = ", ".join(f"{number} {reason}" for reason, number in coverage.reasons.items())
    counts = f"{coverage.num_scored} of {coverage.num_rows} answers of task {coverage.name} have a label"
    least = f", min_scored_share={floor:g} asks for {100 * floor:g}%" if coverage.num_scored else ""
    return f"{counts} ({reasons}{least})"


def _remedy(plan: EvaluationPlan, name: str, reason: str, kinds: Sequence[Sample]) -> str:
    """What to do about rows that have no label for this reason."""
    if reason in (Unscored.JUDGE_ERROR, Unscored.FAILED):
        return f"{reason}: the same command tries these rows again"
    if reason == Unscored.TRUNCATED:
        limits = "/".join(
            str(limit) for limit in sorted({plan.max_tokens(name, kind.task) for kind in kinds})
        )
        # A folder holds rows of one limit only, so that a larger one needs another run.
        return (
            f"truncated: the reasoning reached the token limit; give a larger generation.max_tokens (now "
            f"{limits}; engine.max_model_len, now {plan.context(name)}, also holds the prompt) and another "
            "name, --set run=NAME"
        )
    if reason == Unscored.UNFINISHED:
        return (
            "unfinished: the model stopped inside its reasoning, which a larger limit does not change; look "
            f"at the completions in {plan.folders[name].path / 'completions'}, and at its prompt (--dry-run)"
        )
    if reason == Unscored.BLOCKED:
        return "blocked: the provider's filter took the answers; evaluate the model at another endpoint"
    if reason == Unscored.NOT_ASKED:
        return (
            f"{reason}: the attacker wrote no prompt; give another adaptive.attacker and another name, "
            "--set run=NAME"
        )
    judges = any(kind.task in JUDGED_PARTS for kind in kinds)
    if reason == Unscored.EMPTY or not judges:
        return f"{reason}: look at the answers in {plan.folders[name].path / 'completions'}"
    # Without verdicts the judge may change (`job._open`), and the completions are judged as they are.
    folder = plan.folders[name].path / "verdicts"
    if reason == Unscored.JUDGE_TRUNCATED:
        return (
            f"{reason}: the judge's reply reached judge.max_tokens (now {plan.config.judge.max_tokens}); "
            f"remove {folder} and give a larger one or another --judge: the same completions are judged again"
        )
    return (
        f"{reason}: the judge gave no verdict; check its model, remove {folder} and give another --judge: "
        "the same completions are judged again"
    )
