"""Counts and rates of an evaluated request, with the definitions of the evaluation job."""

from collections import Counter
from collections.abc import Mapping, Sequence

from safe_r1.metrics.intervals import wilson_interval
from safe_r1.metrics.outcomes import REFUSAL_LABELS
from safe_r1.schema import Part
from safe_r1.serve.base import Model, PricedModel
from safe_r1.serve.errors import CONTENT_FILTER
from safe_r1.serve.schemas import ItemResult, ModelOutcome, RateSummary, Summary, Usage


def summarize(
    results: Sequence[ItemResult], parts: Sequence[Part], judges: Sequence[str] = ("",)
) -> list[Summary]:
    """Counts and rates by model, part and judge, in the order in which the request names them.

    Args:
        results: Results of all items.
        parts: The parts that were judged.
        judges: Labels of the judges, that of ``ModelOutcome.verdicts`` first.
    """
    outcomes = _by_model(results)
    return [
        _summarize_part(outcomes[model], model, part, judge, is_first=place == 0)
        for model in outcomes
        for part in parts
        for place, judge in enumerate(judges)
    ]


def _by_model(results: Sequence[ItemResult]) -> dict[str | None, list[ModelOutcome]]:
    outcomes: dict[str | None, list[ModelOutcome]] = {}
    for result in results:
        for outcome in result.outcomes:
            outcomes.setdefault(outcome.model, []).append(outcome)
    return outcomes


def count_usage(results: Sequence[ItemResult], models: Mapping[str, Model]) -> list[Usage]:
    """Tokens and cost by model."""
    found: list[Usage] = []
    for name, outcomes in _by_model(results).items():
        if name is not None:
            prompt = sum(outcome.prompt_tokens for outcome in outcomes)
            completion = sum(outcome.completion_tokens for outcome in outcomes)
            served = models.get(name)
            cost = served.price_of(prompt, completion) if isinstance(served, PricedModel) else None
            num_answers = sum(outcome.error is None for outcome in outcomes)
            usage = Usage(
                model=name,
                num_answers=num_answers,
                prompt_tokens=prompt,
                completion_tokens=completion,
                cost=cost,
            )
            found.append(usage)
    return found


def _summarize_part(
    outcomes: Sequence[ModelOutcome], model: str | None, part: Part, judge: str, *, is_first: bool
) -> Summary:
    by_outcome = [
        outcome.verdicts if is_first else outcome.further_verdicts.get(judge, {}) for outcome in outcomes
    ]
    verdicts = [verdict for found in by_outcome if (verdict := found.get(part)) is not None]
    labels = [verdict.label for verdict in verdicts if verdict.label is not None]
    reasons = Counter(verdict.unscored_reason for verdict in verdicts if verdict.unscored_reason)
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    num_blocked = sum(error.code == CONTENT_FILTER for error in errors)
    rates: dict[str, RateSummary] = {}
    if labels:
        for name, counted in REFUSAL_LABELS.items():
            rates[name] = _rate(sum(label in counted for label in labels), len(labels))
    return Summary(
        model=model,
        part=part,
        judge=judge,
        num_items=len(outcomes),
        num_scored=len(labels),
        num_unscored=reasons.total(),
        num_unscored_by_reason=dict(sorted(reasons.items())),
        num_failed=len(errors) - num_blocked,
        num_blocked=num_blocked,
        num_absent=len(outcomes) - len(errors) - len(verdicts),
        rates=rates,
    )


def _rate(numerator: int, denominator: int) -> RateSummary:
    low, high = wilson_interval(numerator, denominator)
    return RateSummary(
        value=numerator / denominator, low=low, high=high, numerator=numerator, denominator=denominator
    )
