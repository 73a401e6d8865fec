"""Counts and rates of an evaluated request, with the definitions of the evaluation job."""

from collections import Counter
from collections.abc import Sequence

from safe_r1.metrics.intervals import wilson_interval
from safe_r1.metrics.outcomes import REFUSAL_LABELS
from safe_r1.schema import Part
from safe_r1.serve.errors import CONTENT_FILTER
from safe_r1.serve.schemas import ItemResult, ModelOutcome, RateSummary, Summary


def summarize(results: Sequence[ItemResult], parts: Sequence[Part]) -> list[Summary]:
    """Counts and rates by model and part, in the order in which the request names them."""
    outcomes: dict[str | None, list[ModelOutcome]] = {}
    for result in results:
        for outcome in result.outcomes:
            outcomes.setdefault(outcome.model, []).append(outcome)
    return [_summarize_part(outcomes[model], model, part) for model in outcomes for part in parts]


def _summarize_part(outcomes: Sequence[ModelOutcome], model: str | None, part: Part) -> Summary:
    verdicts = [verdict for outcome in outcomes if (verdict := outcome.verdicts.get(part)) is not None]
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
