"""Items to verdicts: answer those that have no answer, split, judge, count. Knows neither HTTP nor Ray.

The splitting, the judges and the definitions of the rates are the evaluation job's, so an item gets the same
verdict in both.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from safe_r1.inference.batch import row_seed
from safe_r1.judge.base import JudgeItem, Judgement
from safe_r1.metrics.intervals import wilson_interval
from safe_r1.metrics.rates import REFUSAL_LABELS
from safe_r1.models.reasoning import split_reasoning
from safe_r1.policies import classify
from safe_r1.schema import Message, Part
from safe_r1.serve.api import (
    ApiError,
    EvaluateRequest,
    Item,
    ItemError,
    ItemResult,
    Judged,
    Outcome,
    RateSummary,
    Summary,
)

# Given answers go to the judge in such pieces, so that a call's own cost is shared; generated ones go as they
# come.
_CHUNK = 125


@dataclass(frozen=True)
class Asked:
    """How an item is to be answered; None means: as the model's entry in ``safe_r1.models.registry`` says.

    Attributes:
        seed: Of the sampler, for this item alone.
    """

    seed: int
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None


@dataclass(frozen=True)
class Generated:
    """What a model wrote, the reasoning prefix of its prompt included."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Engine(Protocol):
    """Whoever lets a model answer."""

    async def generate(self, model: str, messages: list[Message], asked: Asked) -> Generated:
        """One completion.

        Raises:
            ApiError: Unknown model, too long a prompt, overload, engine down.
        """
        ...


class JudgeCaller(Protocol):
    """Whoever judges.

    Attributes:
        judge_name: As in the rows of an evaluation.
    """

    judge_name: str

    async def judge(self, items: Sequence[JudgeItem], *, is_patient: bool = True) -> list[Judgement]:
        """One judgement for every item, in order.

        Raises:
            ApiError: The judge is down or overloaded: at once, or with ``is_patient`` after a while.
        """
        ...


@dataclass(frozen=True)
class Evaluator:
    """Evaluates requests.

    Attributes:
        engine: Lets models answer.
        judge: Judges.
        rooms: For items that ask a model at the same time, by its name. No more than it decodes together: the
            others would stand in line before the only item of another request.
    """

    engine: Engine
    judge: JudgeCaller
    rooms: Mapping[str, asyncio.Semaphore]

    async def run(self, request: EvaluateRequest) -> AsyncIterator[ItemResult]:
        """The items as they finish, each once. A fault of one is its error and never another's."""
        items = [_item(item) for item in request.items]
        given = [
            (index, item)
            for index, item in enumerate(items)
            if isinstance(item, Item) and item.completion is not None
        ]
        for index, item in enumerate(items):
            if isinstance(item, ItemError):
                yield ItemResult(index=index, outcomes=[Outcome(model=None, error=item)])
        tasks = [
            asyncio.create_task(self._given(given[start : start + _CHUNK], request))
            for start in range(0, len(given), _CHUNK)
        ] + [
            asyncio.create_task(self._generated(index, item, request))
            for index, item in enumerate(items)
            if isinstance(item, Item) and item.completion is None
        ]
        try:
            for done in asyncio.as_completed(tasks):
                for result in await done:
                    yield result
        finally:
            for task in tasks:
                task.cancel()

    async def _given(self, items: Sequence[tuple[int, Item]], request: EvaluateRequest) -> list[ItemResult]:
        outcomes = [_said(None, Generated(item.completion or "", "stop", 0, 0)) for _, item in items]
        await self._judge([item for _, item in items], outcomes, request.parts)
        return [
            _result(index, item, [outcome]) for (index, item), outcome in zip(items, outcomes, strict=True)
        ]

    async def _generated(self, index: int, item: Item, request: EvaluateRequest) -> list[ItemResult]:
        if not request.models:
            fault = ItemError(
                status=400, code="nothing_to_judge", message="the item has no answer and the request no model"
            )
            return [_result(index, item, [Outcome(model=None, error=fault)])]
        outcomes = await asyncio.gather(*(self._ask(model, index, item, request) for model in request.models))
        answered = [outcome for outcome in outcomes if outcome.error is None]
        await self._judge([item] * len(answered), answered, request.parts)
        return [_result(index, item, list(outcomes))]

    async def _ask(self, model: str, index: int, item: Item, request: EvaluateRequest) -> Outcome:
        try:
            async with self.rooms[model]:
                generated = await self.engine.generate(model, item.dialogue, _asked(index, item, request))
            return _said(model, generated)
        except ApiError as error:
            return Outcome(
                model=model, error=ItemError(status=error.status, code=error.code, message=error.message)
            )
        except Exception as error:  # noqa: BLE001 - whatever one item meets, the others are answered
            message = f"{model}: unexpected {type(error).__name__}"
            return Outcome(model=model, error=ItemError(status=500, code="internal_error", message=message))

    async def _judge(self, items: Sequence[Item], outcomes: Sequence[Outcome], parts: Sequence[Part]) -> None:
        """Put the verdicts into the outcomes."""
        asked: list[tuple[Outcome, Part, JudgeItem]] = []
        for item, outcome in zip(items, outcomes, strict=True):
            for part in parts:
                text = outcome.answer if part == "answer" else outcome.reasoning
                if part == "answer" and text is None:
                    outcome.verdicts[part] = judged(Judgement(None, "truncated"), "none")
                elif part == "answer" or text:
                    asked.append((outcome, part, JudgeItem(item.dialogue, text or "", part)))
        if not asked:
            return
        try:
            judgements = await self.judge.judge([item for _, _, item in asked])
        except ApiError as error:
            # The answer is there all the same: only its verdict is missing, and says so.
            judgements = [Judgement(None, error.code, error.message)] * len(asked)
        for (outcome, part, _), judgement in zip(asked, judgements, strict=True):
            outcome.verdicts[part] = judged(judgement, self.judge.judge_name)


def _item(raw: Any) -> Item | ItemError:
    if isinstance(raw, Item):
        return raw
    try:
        return Item.model_validate(raw)
    except ValidationError as error:
        # The problem and where it is, never what was sent.
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")
        return ItemError(status=400, code="invalid_item", message=message)


def _asked(index: int, item: Item, request: EvaluateRequest) -> Asked:
    """The seed is that of an evaluation's first repeat where the item's id is a sample's."""
    seed = row_seed(request.seed, item.id or f"item-{index}", 0)
    return Asked(seed, request.max_tokens, request.temperature, request.top_p)


def _said(model: str | None, generated: Generated) -> Outcome:
    reasoning, answer = split_reasoning(generated.text)
    return Outcome(
        model=model,
        reasoning=reasoning,
        answer=answer,
        finish_reason=generated.finish_reason,
        prompt_tokens=generated.prompt_tokens,
        completion_tokens=generated.completion_tokens,
        verdicts={},
    )


def judged(judgement: Judgement, judge: str) -> Judged:
    """A judgement as it goes over the wire."""
    label = judgement.label
    return Judged(
        label=label.value if label else None,
        degree=label.degree if label else None,
        judge=judge,
        unscored_reason=judgement.unscored_reason,
        explanation=judgement.explanation,
    )


def _result(index: int, item: Item, outcomes: list[Outcome]) -> ItemResult:
    category = item.category or classify(item.dialogue[-1]["content"])
    return ItemResult(index=index, id=item.id, category=category, outcomes=outcomes)


def summarize(results: Sequence[ItemResult], parts: Sequence[Part]) -> list[Summary]:
    """Counts and rates by model and part, in the order in which models and parts were named."""
    models = list(dict.fromkeys(outcome.model for result in results for outcome in result.outcomes))
    return [
        _summary(
            [outcome for result in results for outcome in result.outcomes if outcome.model == model],
            model,
            part,
        )
        for model in models
        for part in parts
    ]


def _summary(outcomes: Sequence[Outcome], model: str | None, part: Part) -> Summary:
    verdicts = [verdict for outcome in outcomes if (verdict := outcome.verdicts.get(part)) is not None]
    labels = [verdict.label for verdict in verdicts if verdict.label is not None]
    reasons = Counter(verdict.unscored_reason for verdict in verdicts if verdict.unscored_reason)
    num_failed = sum(outcome.error is not None for outcome in outcomes)
    rates = {
        name: _rate(sum(label in wanted for label in labels), len(labels))
        for name, wanted in REFUSAL_LABELS.items()
    }
    return Summary(
        model=model,
        part=part,
        num_items=len(outcomes),
        num_scored=len(labels),
        num_unscored=reasons.total(),
        num_unscored_by_reason=dict(sorted(reasons.items())),
        num_failed=num_failed,
        num_absent=len(outcomes) - num_failed - len(verdicts),
        rates=rates if labels else {},
    )


def _rate(numerator: int, denominator: int) -> RateSummary:
    if not denominator:
        return RateSummary(value=0, low=0, high=1, numerator=0, denominator=0)
    low, high = wilson_interval(numerator, denominator)
    return RateSummary(
        value=numerator / denominator, low=low, high=high, numerator=numerator, denominator=denominator
    )
