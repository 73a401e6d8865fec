"""Evaluation of items: generate missing answers, split them, judge the parts. Independent of HTTP and Ray.

The judges are those of the evaluation job, so an item gets the same verdict in both, save a completion with
tags behind its answer: here the answer is all that a stream shows as such.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from safe_r1.inference.requests import row_seed
from safe_r1.judge.base import JudgeItem, Judgement
from safe_r1.policies import classify
from safe_r1.schema import Part, Unscored
from safe_r1.serve.base import Generation, GenerationClient, JudgeClient, SamplingParams, unscored_reason
from safe_r1.serve.errors import ApiError
from safe_r1.serve.offload import offload
from safe_r1.serve.schemas import EvaluateRequest, Item, ItemError, ItemResult, ModelOutcome, PartVerdict
from safe_r1.serve.stream import split_shown

# Given answers go to the judge in groups of this size, which share the cost of a call; generated ones are
# judged as soon as they are finished.
_ITEMS_PER_CALL = 125


@dataclass(frozen=True)
class Evaluator:
    """Evaluates requests.

    Attributes:
        engine: Generates answers.
        judge: Judges them.
        further_judges: Judge them as well.
        slots: For each model by name, a semaphore of as many items as it decodes concurrently. If a large
            request had more items in the model's queue, those of small requests would wait behind them.
    """

    engine: GenerationClient
    judge: JudgeClient
    slots: Mapping[str, asyncio.Semaphore]
    further_judges: Sequence[JudgeClient] = ()

    async def run(self, request: EvaluateRequest) -> AsyncIterator[ItemResult]:
        """Yield the result of each item when it is finished; an error of one item is its own result."""
        given: list[tuple[int, Item]] = []
        unanswered: list[tuple[int, Item]] = []
        for index, raw in enumerate(request.items):
            item = _parse_item(raw)
            if isinstance(item, ItemError):
                yield ItemResult(index=index, outcomes=[ModelOutcome(model=None, error=item)])
            elif item.completion is None:
                unanswered.append((index, item))
            else:
                given.append((index, item))
        groups = [given[start : start + _ITEMS_PER_CALL] for start in range(0, len(given), _ITEMS_PER_CALL)]
        tasks = [asyncio.create_task(self._judge_given(group, request)) for group in groups]
        tasks += [asyncio.create_task(self._generate_one(index, item, request)) for index, item in unanswered]
        try:
            for task in asyncio.as_completed(tasks):
                for result in await task:
                    yield result
        finally:
            # Also when the client disconnects: unfinished items would hold their slots.
            for task in tasks:
                task.cancel()

    async def _judge_given(
        self, items: Sequence[tuple[int, Item]], request: EvaluateRequest
    ) -> list[ItemResult]:
        num_chars = sum(item.num_chars for _, item in items)
        outcomes = await offload(_given_outcome, [item for _, item in items], num_chars)
        await self._add_verdicts([item for _, item in items], outcomes, request.parts)
        found = [(index, item, [outcome]) for (index, item), outcome in zip(items, outcomes, strict=True)]
        return await offload(_result, found, num_chars)

    async def _generate_one(self, index: int, item: Item, request: EvaluateRequest) -> list[ItemResult]:
        if not request.models:
            error = ItemError(
                status=400, code="nothing_to_judge", message="the item has no answer and the request no model"
            )
            found = [(index, item, [ModelOutcome(model=None, error=error)])]
            return await offload(_result, found, item.num_chars)
        outcomes = await asyncio.gather(
            *(self._generate_outcome(model, index, item, request) for model in request.models)
        )
        answered = [outcome for outcome in outcomes if outcome.error is None]
        await self._add_verdicts([item] * len(answered), answered, request.parts)
        return await offload(_result, [(index, item, list(outcomes))], item.num_chars)

    async def _generate_outcome(
        self, model: str, index: int, item: Item, request: EvaluateRequest
    ) -> ModelOutcome:
        params = _sampling_params(index, item, request)
        try:
            async with self.slots[model]:
                generation = await self.engine.generate(model, item.dialogue, params)
            [outcome] = await offload(functools.partial(_outcome, model), [generation], len(generation.text))
            return outcome
        except ApiError as error:
            failure = ItemError(status=error.status, code=error.code, message=error.message)
        except Exception as error:  # noqa: BLE001 - an unexpected error of one item must not fail the others
            message = f"{model}: unexpected {type(error).__name__}"
            failure = ItemError(status=500, code="internal_error", message=message)
        return ModelOutcome(model=model, error=failure)

    async def _add_verdicts(
        self, items: Sequence[Item], outcomes: Sequence[ModelOutcome], parts: Sequence[Part]
    ) -> None:
        """Judge the parts of all outcomes and add the verdicts to them."""
        pending: list[tuple[ModelOutcome, Part, JudgeItem]] = []
        for item, outcome in zip(items, outcomes, strict=True):
            further = {judge.judge_name: {} for judge in self.further_judges}
            outcome.further_verdicts.update(further)
            for part in parts:
                text = outcome.answer if part == "answer" else outcome.reasoning
                if part == "answer" and text is None:
                    is_cut = outcome.finish_reason == "length"
                    reason = Unscored.TRUNCATED if is_cut else Unscored.UNFINISHED
                    for verdicts in (outcome.verdicts, *further.values()):
                        verdicts[part] = to_wire(Judgement(None, reason), "none")
                elif part == "answer" or text:
                    pending.append((outcome, part, JudgeItem(item.dialogue, text or "", part)))
        if not pending:
            return
        judges = (self.judge, *self.further_judges)
        found = await asyncio.gather(*(_judge(judge, [item for _, _, item in pending]) for judge in judges))
        for judge, judgements in zip(judges, found, strict=True):
            for (outcome, part, _), judgement in zip(pending, judgements, strict=True):
                verdict = to_wire(judgement, judge.judge_name)
                if judge is self.judge:
                    outcome.verdicts[part] = verdict
                else:
                    outcome.further_verdicts[judge.judge_name][part] = verdict


async def _judge(judge: JudgeClient, items: Sequence[JudgeItem]) -> list[Judgement]:
    """Judgements of one judge; where it cannot be asked, each item is unscored with the error as reason, and
    its answer is still returned.
    """
    try:
        return await judge.judge(items)
    except ApiError as error:
        return [Judgement(None, unscored_reason(error), error.message)] * len(items)


def to_wire(judgement: Judgement, judge: str) -> PartVerdict:
    """A judgement as it is sent in a response."""
    label = judgement.label
    return PartVerdict(
        label=label.value if label else None,
        degree=label.degree if label else None,
        judge=judge,
        unscored_reason=judgement.unscored_reason,
        explanation=judgement.explanation,
        confidence=judgement.confidence,
    )


def _parse_item(raw: object) -> Item | ItemError:
    if isinstance(raw, Item):
        return raw
    try:
        return Item.model_validate(raw)
    except ValidationError as error:
        # The message names the problem and the field, and never quotes the request.
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        message = f"{field}: {first['msg']}" if field else first["msg"].removeprefix("Value error, ")
        return ItemError(status=400, code="invalid_item", message=message)


def _sampling_params(index: int, item: Item, request: EvaluateRequest) -> SamplingParams:
    """Sampling of an item; if its id is a sample's, the seed equals that of an evaluation's first repeat."""
    seed = row_seed(request.seed, item.id or f"item-{index}", 0)
    return SamplingParams(seed, request.max_tokens, request.temperature, request.top_p)


def _given_outcome(item: Item) -> ModelOutcome:
    outcome = _outcome(None, Generation(item.answer or "", "stop", 0, 0), is_whole=False)
    if item.reasoning:
        # Shown to users as they are: tags in them must not move text from one to the other.
        outcome.reasoning = item.reasoning.strip()
        outcome.answer = (item.answer or "").strip()
    return outcome


def _outcome(model: str | None, generation: Generation, *, is_whole: bool = True) -> ModelOutcome:
    reasoning, answer = split_shown(generation.text, generation.own_tags, is_whole=is_whole)
    return ModelOutcome(
        model=model,
        reasoning=reasoning,
        answer=answer,
        finish_reason=generation.finish_reason,
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=generation.completion_tokens,
        verdicts={},
        further_verdicts={},
    )


def _result(found: tuple[int, Item, list[ModelOutcome]]) -> ItemResult:
    index, item, outcomes = found
    category = item.category or classify(item.dialogue[-1]["content"])
    return ItemResult(index=index, id=item.id, category=category, outcomes=outcomes)
