"""Routes of the service: public pages, OpenAI's API, and the safety evaluation."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from typing import TypedDict, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from safe_r1 import __version__
from safe_r1.serve import moderation, openai_api
from safe_r1.serve.access import AuthorizedService, charge_items, is_batch
from safe_r1.serve.base import Chunk, Generation, TextModel
from safe_r1.serve.batch_routes import add_batch_routes
from safe_r1.serve.errors import ApiError, add_error_handlers
from safe_r1.serve.evaluator import Evaluator
from safe_r1.serve.middleware import AuditLog, ContentLog, SizeLimit
from safe_r1.serve.request_queue import time_limit
from safe_r1.serve.schemas import EvaluateRequest, EvaluateResponse, ItemResult
from safe_r1.serve.service import Service
from safe_r1.serve.summary import summarize

_DESCRIPTION = "OpenAI's API for reasoning models, and a batched safety evaluation of dialogues and answers."
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
_Element = TypeVar("_Element")


def create_app(service: Service) -> FastAPI:
    """The FastAPI app with all routes of one service."""
    app = FastAPI(title="safe_r1", version=__version__, description=_DESCRIPTION, redoc_url=None)
    app.state.service = service
    # The middleware added last is the outermost: draining, content log, audit, CORS, size limit.
    app.add_middleware(SizeLimit, max_bytes=service.config.limits.body_mib * 2**20)
    if service.config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.config.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(AuditLog)
    if service.config.log_content:
        app.add_middleware(ContentLog)
    app.add_middleware(service.drain.middleware)
    add_error_handlers(app)
    _add_public_routes(app)
    _add_model_routes(app)
    _add_generation_routes(app)
    _add_judge_routes(app)
    if service.store:
        add_batch_routes(app)
    return app


def _add_public_routes(app: FastAPI) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> Response:
        text = files("safe_r1.serve").joinpath("page.html").read_text(encoding="utf-8")
        if app.state.service.config.log_content:
            text = text.replace("内容不会被记录", "本服务会把内容写入日志")
        headers = {"Content-Security-Policy": _PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(text, headers=headers)

    @app.get("/healthz", tags=["service"])
    async def healthz() -> dict[str, str]:
        """Liveness: the ingress is running."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["service"])
    async def readyz(request: Request) -> Response:
        """Readiness: all models and the judge are up; otherwise 503 with those that are missing."""
        service: Service = request.app.state.service
        missing = await service.find_missing()
        body = {"status": "not ready" if missing else "ready", "missing": missing}
        return JSONResponse(body, 503 if missing else 200)


def _add_model_routes(app: FastAPI) -> None:
    @app.get("/v1/models", tags=["openai"])
    async def models(service: AuthorizedService) -> dict[str, object]:
        """List the models."""
        return {"object": "list", "data": [_model_card(name) for name in service.models]}

    @app.get("/v1/models/{name:path}", tags=["openai"])
    async def model(name: str, service: AuthorizedService) -> dict[str, object]:
        """Describe one model."""
        service.model(name)
        return _model_card(name)


def _model_card(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "safe_r1"}


def _add_generation_routes(app: FastAPI) -> None:
    @app.post("/v1/chat/completions", tags=["openai"])
    async def chat(body: openai_api.ChatRequest, request: Request, service: AuthorizedService) -> Response:
        """Generate the next turn of a dialogue, with the reasoning in ``reasoning_content``."""
        body.reject_unsupported()
        served = service.model(body.model)
        messages = [turn.to_message() for turn in body.messages]
        reply = await served.chat(messages, body.params, body.stops, stream=body.stream)
        prefix = reply.prefix
        num_prompt = reply.num_prompt
        timeout_s = service.config.answer_timeout_s
        if body.stream:
            counted = _count_tokens(service, body.model, num_prompt, reply.chunks)
            started = await _start(counted, timeout_s)
            return _stream(openai_api.chat_events(body, started, prefix, num_prompt, reply.own_tags))
        chunk = await _single_chunk(reply.chunks, timeout_s)
        _record_tokens(request, body.model, num_prompt, chunk.completion_tokens)
        generation = Generation(
            prefix + chunk.text,
            chunk.finish_reason or "stop",
            num_prompt,
            chunk.completion_tokens,
            reply.own_tags,
        )
        return JSONResponse(openai_api.chat_response(body.model, generation))

    @app.post("/v1/completions", tags=["openai"])
    async def complete(
        body: openai_api.CompletionRequest, request: Request, service: AuthorizedService
    ) -> Response:
        """Continue a text without a chat template."""
        body.reject_unsupported()
        served = service.model(body.model)
        if not isinstance(served, TextModel):
            message = f"{body.model} answers dialogues alone, it continues no texts: use /v1/chat/completions"
            raise ApiError(400, "unsupported_model", message, "model")
        tokens = await served.tokenize(body.prompt)
        num_prompt = len(tokens)
        chunks = served.complete(tokens, body.params, body.stops, stream=body.stream)
        timeout_s = service.config.answer_timeout_s
        if body.stream:
            counted = _count_tokens(service, body.model, num_prompt, chunks)
            started = await _start(counted, timeout_s)
            return _stream(openai_api.completion_events(body, started, num_prompt))
        chunk = await _single_chunk(chunks, timeout_s)
        _record_tokens(request, body.model, num_prompt, chunk.completion_tokens)
        return JSONResponse(openai_api.completion_response(body.model, chunk, num_prompt))


class _EvaluationHead(TypedDict):
    id: str
    created: int
    judge: str


def _add_judge_routes(app: FastAPI) -> None:
    @app.post("/v1/moderations", tags=["openai"])
    async def moderate(
        body: moderation.ModerationRequest, request: Request, service: AuthorizedService
    ) -> Response:
        """Judge what users ask, or the last answer of a dialogue."""
        num_texts = len(body.texts)
        if num_texts > moderation.MAX_INPUTS:
            message = f"{num_texts} inputs; at most {moderation.MAX_INPUTS} in one request"
            raise ApiError(400, "too_many_items", message, "input")
        await charge_items(request, service, num_texts)
        return JSONResponse(await moderation.moderate(body, service))

    @app.post("/v1/safety/evaluate", tags=["safety"], response_model=EvaluateResponse)
    async def evaluate(body: EvaluateRequest, request: Request, service: AuthorizedService) -> Response:
        """Judge given answers, or generate and judge them; ``compare`` runs two models side by side."""
        # An unknown model is an error of the request, not of each item.
        for name in body.models:
            service.model(name)
        await charge_items(request, service, len(body.items))
        evaluator = service.evaluator(is_batch=is_batch(request))
        # The items of a batch are limited by its runner, which sends a few rows at a time.
        results = evaluator.run(body) if is_batch(request) else _admitted(service, evaluator, body)
        head = _EvaluationHead(
            id=f"eval-{request.state.id}", created=int(time.time()), judge=service.judge_name
        )
        if body.stream:
            return _stream(_evaluation_events(await _start(results), body, head, service))
        found = sorted([result async for result in results], key=lambda result: result.index)
        service.telemetry.results(found)
        reply = EvaluateResponse(items=found, summary=summarize(found, body.parts), **head)
        # As text at once: five times as fast as by way of Python's objects.
        return Response(reply.model_dump_json(), _status(found), media_type="application/json")


def _status(results: Sequence[ItemResult]) -> int:
    """503 if every outcome failed because of an engine that is down, otherwise 200."""
    errors = [outcome.error for result in results for outcome in result.outcomes]
    return 503 if all(error is not None and error.status == 503 for error in errors) else 200


async def _admitted(
    service: Service, evaluator: Evaluator, body: EvaluateRequest
) -> AsyncIterator[ItemResult]:
    with service.admit(len(body.items)):
        async for result in evaluator.run(body):
            yield result


async def _evaluation_events(
    results: AsyncIterator[ItemResult], body: EvaluateRequest, head: _EvaluationHead, service: Service
) -> AsyncIterator[str]:
    found: list[ItemResult] = []
    async for result in results:
        found.append(result)
        service.telemetry.results([result])
        yield f"event: item\ndata: {result.model_dump_json()}\n\n"
    found.sort(key=lambda result: result.index)
    summary = [each.model_dump(mode="json") for each in summarize(found, body.parts)]
    yield f"event: summary\ndata: {json.dumps({**head, 'summary': summary}, ensure_ascii=False)}\n\n"


def _stream(events: AsyncIterator[str]) -> Response:
    return StreamingResponse(openai_api.with_done_event(events), media_type="text/event-stream")


async def _start(
    elements: AsyncIterator[_Element], timeout_s: float | None = None
) -> AsyncIterator[_Element]:
    """The same elements, after waiting for the first: an error before it still sets the HTTP status.

    Raises:
        ApiError: No element within ``timeout_s``, or an error before the first.
    """
    async with time_limit(timeout_s):
        first = await anext(elements, None)

    async def with_first() -> AsyncIterator[_Element]:
        if first is not None:
            yield first
        async for element in elements:
            yield element

    return with_first()


async def _single_chunk(chunks: AsyncIterator[Chunk], timeout_s: float) -> Chunk:
    """The only chunk of a completion that is not streamed.

    Raises:
        ApiError: 503, no chunk, or none within ``timeout_s``.
    """
    async with time_limit(timeout_s):
        chunk = await anext(chunks, None)
    if chunk is None:
        raise ApiError(503, "engine_unavailable", "the engine ended without an answer")
    return chunk


async def _count_tokens(
    service: Service, model: str, num_prompt: int, chunks: AsyncIterator[Chunk]
) -> AsyncIterator[Chunk]:
    """The same chunks; their tokens are recorded when the stream ends, also if the client disconnects."""
    num_tokens = 0
    try:
        async for chunk in chunks:
            num_tokens = chunk.completion_tokens or num_tokens
            yield chunk
    finally:
        service.telemetry.tokens(model, num_prompt, num_tokens)


def _record_tokens(request: Request, model: str, num_prompt: int, num_completion: int) -> None:
    request.state.facts |= {"prompt_tokens": num_prompt, "completion_tokens": num_completion}
    request.app.state.service.telemetry.tokens(model, num_prompt, num_completion)
