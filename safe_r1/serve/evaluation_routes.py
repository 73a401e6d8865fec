"""``/v1/safety/evaluate``: judge given answers, or generate and judge them."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import TypedDict

from fastapi import FastAPI, Request, Response

from safe_r1.serve.access import AuthorizedService, charge_items, is_batch
from safe_r1.serve.cost import evaluation_items
from safe_r1.serve.errors import ApiError
from safe_r1.serve.evaluator import Evaluator
from safe_r1.serve.generation_routes import start, stream_events
from safe_r1.serve.result_table import MEDIA_TYPES, table_response
from safe_r1.serve.schemas import EvaluateRequest, EvaluateResponse, ItemResult
from safe_r1.serve.service import Service
from safe_r1.serve.summary import count_usage, summarize

_PROGRESS_S = 1.0
_REJECTION_S = 0.02


class _Head(TypedDict):
    id: str
    created: int
    judge: str


class _Progress(TypedDict):
    num_finished: int
    num_items: int
    elapsed_s: float


def add_evaluation_routes(app: FastAPI) -> None:
    """Add the routes to an app."""

    @app.get("/v1/safety/judges", tags=["safety"])
    async def judges(service: AuthorizedService) -> dict[str, object]:
        """List the judges and policies that a request can name; the first is the service's own."""
        return {"object": "list", "data": service.describe_judges()}

    @app.post(
        "/v1/safety/evaluate",
        tags=["safety"],
        response_model=EvaluateResponse,
        responses={200: {"content": {kind: {} for kind in MEDIA_TYPES}}},
    )
    async def evaluate(body: EvaluateRequest, request: Request, service: AuthorizedService) -> Response:
        """Judge given answers, or generate and judge them; ``compare`` runs two models side by side.

        ``Accept: text/csv`` or that of XLSX gives the result as a table, one row a model and judge.
        """
        # An unknown model or judge is an error of the request, not of each item.
        for name in body.models:
            service.model(name)
        if body.policy and body.policy not in service.policies:
            known = ", ".join(service.policies) or "none"
            message = f"unknown policy {body.policy[:200]!r}; available: {known}"
            raise ApiError(404, "policy_not_found", message, "policy")
        judges = service.find_judges(body.judge_names)
        table = _wanted_table(request, body)
        num_items = evaluation_items(body, len(judges))
        await charge_items(request, service, num_items)
        evaluator = service.evaluator(judges, is_batch=is_batch(request))
        # The items of a batch are limited by its runner, which sends a few rows at a time.
        results = evaluator.run(body) if is_batch(request) else _admitted(service, evaluator, body, num_items)
        labels = [judge.judge_name for judge in judges]
        head = _Head(id=f"eval-{request.state.id}", created=int(time.time()), judge=labels[0])
        if body.stream:
            told = _with_progress(results, len(body.items)) if body.progress else results
            return stream_events(_evaluation_events(await start(told), body, head, labels, service))
        found = sorted([result async for result in results], key=lambda result: result.index)
        service.telemetry.results(found)
        if table:
            return await table_response(table, body, found, labels, head["id"], _status(found))
        summary = summarize(found, body.parts, labels)
        reply = EvaluateResponse(
            items=found, summary=summary, usage=count_usage(found, service.models), **head
        )
        # As text at once: five times as fast as by way of Python's objects.
        return Response(reply.model_dump_json(), _status(found), media_type="application/json")


def _wanted_table(request: Request, body: EvaluateRequest) -> str | None:
    """The media type of the table that a request accepts; None for JSON.

    Raises:
        ApiError: 400, a table is asked for as a stream.
    """
    known = {"application/json", "*/*", *MEDIA_TYPES}
    kinds = request.headers.get("accept", "").lower().split(",")
    accepted = [kind.partition(";")[0].strip() for kind in kinds]
    first = next((kind for kind in accepted if kind in known), None)
    if first not in MEDIA_TYPES:
        return None
    if body.stream:
        raise ApiError(400, "invalid_request", "a table cannot be streamed: leave stream out", "stream")
    return first


def _status(results: Sequence[ItemResult]) -> int:
    """503 if every outcome failed because of an engine that is down, otherwise 200."""
    errors = [outcome.error for result in results for outcome in result.outcomes]
    return 503 if all(error is not None and error.status == 503 for error in errors) else 200


async def _admitted(
    service: Service, evaluator: Evaluator, body: EvaluateRequest, num_items: int
) -> AsyncIterator[ItemResult]:
    with service.admit(num_items):
        async for result in evaluator.run(body):
            yield result


async def _evaluation_events(
    results: AsyncIterator[ItemResult] | AsyncIterator[ItemResult | _Progress],
    body: EvaluateRequest,
    head: _Head,
    judges: Sequence[str],
    service: Service,
) -> AsyncIterator[str]:
    found: list[ItemResult] = []
    async for result in results:
        if isinstance(result, ItemResult):
            found.append(result)
            service.telemetry.results([result])
            yield f"event: item\ndata: {result.model_dump_json()}\n\n"
        else:
            yield f"event: progress\ndata: {json.dumps(result)}\n\n"
    found.sort(key=lambda result: result.index)
    summary = [each.model_dump(mode="json") for each in summarize(found, body.parts, judges)]
    usage = [each.model_dump(mode="json") for each in count_usage(found, service.models)]
    end = json.dumps({**head, "summary": summary, "usage": usage}, ensure_ascii=False)
    yield f"event: summary\ndata: {end}\n\n"


async def _with_progress(
    results: AsyncIterator[ItemResult], num_items: int
) -> AsyncIterator[ItemResult | _Progress]:
    """The results, and the progress at the beginning, each second and at the end."""
    started = time.monotonic()
    num_finished = 0

    def progress() -> _Progress:
        elapsed = round(time.monotonic() - started, 1)
        return _Progress(num_finished=num_finished, num_items=num_items, elapsed_s=elapsed)

    pending: asyncio.Future[ItemResult] | None = asyncio.ensure_future(anext(results))
    due = started + _PROGRESS_S
    try:
        # What is rejected at once has a status of its own.
        await asyncio.wait([pending], timeout=_REJECTION_S)
        if pending.done() and isinstance(pending.exception(), ApiError):
            pending.result()
        yield progress()
        while True:
            # Not wait_for, which would cancel the evaluation when the second is over.
            pending = pending or asyncio.ensure_future(anext(results))
            await asyncio.wait([pending], timeout=max(0.0, due - time.monotonic()))
            if pending.done():
                try:
                    result = pending.result()
                except StopAsyncIteration:
                    break
                pending = None
                num_finished += 1
                yield result
            if time.monotonic() >= due:
                due = time.monotonic() + _PROGRESS_S
                yield progress()
        yield progress()
    finally:
        if pending and not pending.done():
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pending
