"""The routes, and what surrounds each of them: keys, limits, sizes, errors in OpenAI's form, an audit line
without content.
"""

import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from safe_r1 import __version__
from safe_r1.judge.base import JudgeItem
from safe_r1.policies import classify
from safe_r1.serve import chat_api
from safe_r1.serve.access import Allowed, is_batch, take_items
from safe_r1.serve.api import ApiError, EvaluateRequest, EvaluateResponse, ItemResult, where
from safe_r1.serve.batch_routes import add_batch_routes
from safe_r1.serve.content import ContentLog
from safe_r1.serve.evaluator import Evaluator, judged, summarize
from safe_r1.serve.judges import NOT_JUDGED
from safe_r1.serve.line import within
from safe_r1.serve.service import Service
from safe_r1.serve.sizes import SizeLimit

audit = logging.getLogger("safe_r1.audit")
logger = logging.getLogger(__name__)
_MAX_MODERATIONS = 1000
_ABOUT = "Reasoning models under OpenAI's routes, and a batched safety evaluation of dialogues and answers."


def create_app(service: Service) -> FastAPI:
    """All routes over one service."""
    app = FastAPI(title="safe_r1", version=__version__, description=_ABOUT, redoc_url=None)
    app.state.service = service
    app.add_middleware(SizeLimit, max_bytes=service.config.limits.body_mib * 2**20)
    if service.config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.config.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.middleware("http")(_audited)
    if service.config.log_content:
        app.add_middleware(ContentLog)
    app.add_middleware(service.drain.middleware)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    _add_open_routes(app)
    _add_openai_routes(app)
    _add_safety_routes(app)
    if service.store:
        add_batch_routes(app)
    return app


async def _audited(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    started, request.state.facts = time.monotonic(), {}
    request.state.id = uuid.uuid4().hex
    try:
        response = await go_on(request)
    except Exception as error:  # noqa: BLE001 - a fault of our own is answered, counted and audited like any other
        logger.error("%s in\n%s", type(error).__name__, where(error))
        response = await _api_error(
            request, ApiError(500, "internal_error", f"unexpected {type(error).__name__}")
        )
    response.headers["X-Request-Id"] = request.state.id
    facts = {
        "request": request.state.id,
        "method": request.method,
        "path": request.url.path,
        "status": response.status_code,
        "ms": round(1000 * (time.monotonic() - started)),
        **request.state.facts,
    }
    audit.info(json.dumps(facts))
    route = request.scope.get("route")
    path = getattr(
        route, "path", "other"
    )  # the route's own words: whatever a caller types shall not become a metric
    request.app.state.service.meter.request(path, response.status_code, time.monotonic() - started)
    return response


async def _api_error(_: Request, error: Any) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


async def _invalid(_: Request, error: Any) -> Response:
    """The first thing wrong with a request, never what was sent."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        fault = ApiError(
            400, "invalid_json", f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}"
        )
    elif first["type"] == "model_attributes_type" and not place:
        fault = ApiError(
            400, "invalid_request", "expected a JSON object, sent as Content-Type: application/json"
        )
    else:
        message = f"{place or 'body'}: {first['msg'].removeprefix('Value error, ')}"
        fault = ApiError(400, "invalid_request", message, place or None)
    return await _api_error(_, fault)


async def _http_error(_: Request, error: Any) -> Response:
    words = {404: "not_found", 405: "method_not_allowed"}
    fault = ApiError(error.status_code, words.get(error.status_code, "error"), str(error.detail))
    return JSONResponse(fault.body, error.status_code, error.headers)


_HANDLERS: dict[Any, Any] = {
    ApiError: _api_error,
    RequestValidationError: _invalid,
    HTTPException: _http_error,
}


def _add_open_routes(app: FastAPI) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> Response:
        text = files("safe_r1.serve").joinpath("page.html").read_text(encoding="utf-8")
        if app.state.service.config.log_content:
            text = text.replace("内容不会被记录", "本服务会把内容写入日志")
        policy = (
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        )
        return HTMLResponse(
            text, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
        )

    @app.get("/healthz", tags=["service"])
    async def healthz() -> dict[str, str]:
        """The ingress answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["service"])
    async def readyz(request: Request) -> Response:
        """Every model and the judge answer; 503 with what is missing otherwise."""
        service: Service = request.app.state.service
        missing = await service.missing()
        return JSONResponse(
            {"status": "not ready" if missing else "ready", "missing": missing}, 503 if missing else 200
        )


def _add_openai_routes(app: FastAPI) -> None:
    @app.get("/v1/models", tags=["openai"])
    async def models(service: Allowed) -> dict[str, Any]:
        """The models that can be asked."""
        return {"object": "list", "data": [_card(name) for name in service.models]}

    @app.get("/v1/models/{name:path}", tags=["openai"])
    async def model(name: str, service: Allowed) -> dict[str, Any]:
        """One of them."""
        service.model(name)
        return _card(name)

    @app.post("/v1/chat/completions", tags=["openai"])
    async def chat(body: chat_api.ChatRequest, request: Request, service: Allowed) -> Response:
        """The next turn of a dialogue; reasoning in ``reasoning_content``."""
        body.refuse_unknown()
        served = service.model(body.model)
        tokens, prefix = await served.render([turn.to_message() for turn in body.messages])
        pieces = served.complete(tokens, body.asked, [*served.stops, *body.stops], stream=body.stream)
        if body.stream:
            first = await _started(
                _counted(service, body.model, len(tokens), pieces), service.config.answer_timeout_s
            )
            return _stream(chat_api.chat_events(body, first, prefix, len(tokens)))
        piece = await _whole(pieces, service.config.answer_timeout_s)
        _note_tokens(request, body.model, len(tokens), piece.completion_tokens)
        generated = chat_api.Generated(
            prefix + piece.text, piece.finish_reason or "stop", len(tokens), piece.completion_tokens
        )
        return JSONResponse(chat_api.chat_response(body.model, generated))

    @app.post("/v1/completions", tags=["openai"])
    async def complete(body: chat_api.CompletionRequest, request: Request, service: Allowed) -> Response:
        """The continuation of a text, without any template."""
        body.refuse_unknown()
        served = service.model(body.model)
        tokens = await served.tokenize(body.prompt)
        pieces = served.complete(tokens, body.asked, body.stops, stream=body.stream)
        if body.stream:
            first = await _started(
                _counted(service, body.model, len(tokens), pieces), service.config.answer_timeout_s
            )
            return _stream(chat_api.completion_events(body, first, len(tokens)))
        piece = await _whole(pieces, service.config.answer_timeout_s)
        _note_tokens(request, body.model, len(tokens), piece.completion_tokens)
        return JSONResponse(chat_api.completion_response(body.model, piece, len(tokens)))

    @app.post("/v1/moderations", tags=["openai"])
    async def moderate(body: chat_api.ModerationRequest, request: Request, service: Allowed) -> Response:
        """Texts that the judge looks at."""
        if len(body.texts) > _MAX_MODERATIONS:
            raise ApiError(
                400,
                "too_many_items",
                f"{len(body.texts)} inputs; at most {_MAX_MODERATIONS} in one request",
                "input",
            )
        await take_items(request, service, len(body.texts))
        judgements = await service.judge(
            [JudgeItem([], text, "answer") for text in body.texts], is_patient=False
        )
        if missing := next((each for each in judgements if each.unscored_reason in NOT_JUDGED), None):
            # A text that nobody looked at must not pass as one that is not flagged.
            raise ApiError(503, missing.unscored_reason or "", missing.explanation, retry_after_s=5)
        verdicts = [judged(judgement, service.judge_name) for judgement in judgements]
        categories = [classify(text) for text in body.texts]
        return JSONResponse(chat_api.moderation_response(service.judge_name, verdicts, categories))


def _add_safety_routes(app: FastAPI) -> None:
    @app.post("/v1/safety/evaluate", tags=["safety"], response_model=EvaluateResponse)
    async def evaluate(body: EvaluateRequest, request: Request, service: Allowed) -> Any:
        """Judge answers, or let a model answer and judge that; two models side by side with ``compare``."""
        for name in body.models:
            service.model(name)
        await take_items(request, service, len(body.items))
        evaluator = service.evaluator(is_batch=is_batch(request))
        results = evaluator.run(body) if is_batch(request) else _admitted(service, evaluator, body)
        head = {"id": f"eval-{request.state.id}", "created": int(time.time()), "judge": service.judge_name}
        if body.stream:
            return _stream(_evaluation_events(await _started(results), body, head, service))
        found = sorted([result async for result in results], key=lambda result: result.index)
        service.meter.results(found)
        reply = EvaluateResponse(items=found, summary=summarize(found, body.parts), **head)
        return JSONResponse(reply.model_dump(mode="json"), _status(found))


def _status(results: Sequence[ItemResult]) -> int:
    """200 where anything was answered; 503 where all of it failed for want of an engine."""
    errors = [outcome.error for result in results for outcome in result.outcomes]
    return 503 if all(error is not None and error.status == 503 for error in errors) else 200


async def _admitted(
    service: Service, evaluator: Evaluator, body: EvaluateRequest
) -> AsyncIterator[ItemResult]:
    with service.admit(len(body.items)):
        async for result in evaluator.run(body):
            yield result


async def _evaluation_events(
    results: AsyncIterator[ItemResult], body: EvaluateRequest, head: dict[str, Any], service: Service
) -> AsyncIterator[str]:
    found = []
    async for result in results:
        found.append(result)
        service.meter.results([result])
        yield f"event: item\ndata: {result.model_dump_json()}\n\n"
    summary = [
        each.model_dump(mode="json")
        for each in summarize(sorted(found, key=lambda each: each.index), body.parts)
    ]
    yield f"event: summary\ndata: {json.dumps(head | {'summary': summary}, ensure_ascii=False)}\n\n"


def _stream(events: AsyncIterator[str]) -> Response:
    return StreamingResponse(chat_api.closed(events), media_type="text/event-stream")


async def _started(pieces: AsyncIterator[Any], timeout_s: float | None = None) -> AsyncIterator[Any]:
    """The same pieces, the first one already there: what goes wrong before it still gets a status of its own."""
    async with within(timeout_s):
        first = await anext(pieces, None)

    async def all_of_them() -> AsyncIterator[Any]:
        if first is not None:
            yield first
        async for piece in pieces:
            yield piece

    return all_of_them()


async def _whole(pieces: AsyncIterator[Any], timeout_s: float) -> Any:
    async with within(timeout_s):
        piece = await anext(pieces, None)
    if piece is None:
        raise ApiError(503, "engine_unavailable", "the engine ended without an answer")
    return piece


async def _counted(
    service: Service, model: str, num_prompt: int, pieces: AsyncIterator[Any]
) -> AsyncIterator[Any]:
    """The same pieces; their tokens are counted when the stream ends, however it does."""
    num_tokens = 0
    try:
        async for piece in pieces:
            num_tokens = piece.completion_tokens or num_tokens
            yield piece
    finally:
        service.meter.tokens(model, num_prompt, num_tokens)


def _note_tokens(request: Request, model: str, num_prompt: int, num_completion: int) -> None:
    request.state.facts |= {"prompt_tokens": num_prompt, "completion_tokens": num_completion}
    request.app.state.service.meter.tokens(model, num_prompt, num_completion)


def _card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "safe_r1"}
