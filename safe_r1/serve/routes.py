"""Routes of the service: public pages, OpenAI's API, and the safety evaluation."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from typing import TypedDict

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse

from safe_r1 import __version__
from safe_r1.serve import moderation
from safe_r1.serve.access import AuthorizedService, charge_items, is_batch
from safe_r1.serve.batch_routes import add_batch_routes
from safe_r1.serve.errors import ApiError, add_error_handlers
from safe_r1.serve.evaluator import Evaluator
from safe_r1.serve.generation_routes import add_generation_routes, start, stream_events
from safe_r1.serve.middleware import ContentLog, SizeLimit, audit_request
from safe_r1.serve.schemas import EvaluateRequest, EvaluateResponse, ItemResult
from safe_r1.serve.service import Service
from safe_r1.serve.summary import summarize

_DESCRIPTION = "OpenAI's API for reasoning models, and a batched safety evaluation of dialogues and answers."
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


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
    app.middleware("http")(audit_request)
    if service.config.log_content:
        app.add_middleware(ContentLog)
    app.add_middleware(service.drain.middleware)
    add_error_handlers(app)
    _add_public_routes(app)
    _add_model_routes(app)
    add_generation_routes(app)
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
            return stream_events(_evaluation_events(await start(results), body, head, service))
        found = sorted([result async for result in results], key=lambda result: result.index)
        service.telemetry.results(found)
        reply = EvaluateResponse(items=found, summary=summarize(found, body.parts), **head)
        return JSONResponse(reply.model_dump(mode="json"), _status(found))


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
