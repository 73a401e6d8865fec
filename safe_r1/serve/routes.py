"""Routes of the service: public pages, OpenAI's API, and the safety evaluation."""

import functools

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse

from safe_r1 import __version__
from safe_r1.serve import moderation
from safe_r1.serve.access import Authentication, AuthorizedService, charge_items
from safe_r1.serve.batch_routes import add_batch_routes
from safe_r1.serve.bodies import BodyLimits
from safe_r1.serve.cost import text_items
from safe_r1.serve.errors import ApiError, add_error_handlers
from safe_r1.serve.evaluation_routes import add_evaluation_routes
from safe_r1.serve.generation_routes import add_generation_routes
from safe_r1.serve.local_guard import LocalGuard
from safe_r1.serve.metrics import CONTENT_TYPE
from safe_r1.serve.middleware import AuditLog, ContentLog
from safe_r1.serve.page import make_docs, read_page
from safe_r1.serve.service import Service
from safe_r1.serve.traces import Tracing

# Of the requests that a replica takes at a time, those whose body may still be on its way.
_RECEIVING_SHARE = 0.25
_MIN_RECEIVING = 8
_DESCRIPTION = "OpenAI's API for reasoning models, and a batched safety evaluation of dialogues and answers."


def create_app(service: Service) -> FastAPI:
    """The FastAPI app with all routes of one service."""
    # FastAPI's own page of the API loads its script from another host.
    app = FastAPI(
        title="safe_r1", version=__version__, description=_DESCRIPTION, docs_url=None, redoc_url=None
    )
    app.state.service = service
    config = service.config
    # The middleware added last is the outermost: traces, content log, audit, draining, CORS,
    # the origin, the key, the body.
    receiving = max(_MIN_RECEIVING, int(config.max_ongoing_requests * _RECEIVING_SHARE))
    app.add_middleware(BodyLimits, limits=config.limits, max_receiving=receiving)
    app.add_middleware(Authentication, service=service)
    if config.api_keys is None:
        app.add_middleware(LocalGuard, origins=config.cors_origins)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(service.drain.middleware)
    app.add_middleware(AuditLog)
    if config.log_content:
        app.add_middleware(ContentLog)
    if service.tracer:
        app.add_middleware(Tracing, tracer=service.tracer)
    add_error_handlers(app)
    _add_public_routes(app)
    _add_metrics_route(app)
    _add_model_routes(app)
    add_generation_routes(app)
    _add_moderation_route(app)
    add_evaluation_routes(app)
    if service.store:
        add_batch_routes(app)
    return app


def _add_public_routes(app: FastAPI) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> Response:
        text, policy = read_page()
        if app.state.service.config.log_content:
            text = text.replace("内容不会被记录", "本服务会把内容写入日志")
        return _html(text, policy)

    # Made once: whoever asks for it needs no key.
    docs_page = functools.cache(lambda: make_docs(app.openapi()))

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> Response:
        return _html(*docs_page())

    @app.get("/healthz", tags=["service"])
    async def healthz() -> dict[str, str]:
        """Liveness: the ingress is running."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["service"])
    async def readyz(request: Request) -> Response:
        """Readiness: all models and the judge are up, and the key file is valid; otherwise 503 with what is
        missing.
        """
        service: Service = request.app.state.service
        missing = list(await service.missing())
        service.keys.check()
        if service.keys.problem:
            # A public page: the log has the details.
            missing.append("API keys: their file is invalid, see the log")
        body = {"status": "not ready" if missing else "ready", "missing": missing}
        return JSONResponse(body, 503 if missing else 200)


def _html(text: str, policy: str) -> Response:
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
    # Browsers without the policy's frame-ancestors.
    return HTMLResponse(text, headers=headers | {"X-Frame-Options": "DENY"})


def _add_metrics_route(app: FastAPI) -> None:
    @app.get("/metrics", tags=["service"], response_class=Response)
    async def metrics(service: AuthorizedService) -> Response:
        """Metrics of the service, of Serve and of the engines, for Prometheus."""
        if service.read_metrics is None:
            raise ApiError(404, "not_found", "this service keeps no metrics")
        return Response(await service.read_metrics(), media_type=CONTENT_TYPE)


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


def _add_moderation_route(app: FastAPI) -> None:
    @app.post("/v1/moderations", tags=["openai"])
    async def moderate(
        body: moderation.ModerationRequest, request: Request, service: AuthorizedService
    ) -> Response:
        """Judge what users ask, or the last answer of a dialogue."""
        num_texts = len(body.texts)
        if num_texts > moderation.MAX_INPUTS:
            message = f"{num_texts} inputs; at most {moderation.MAX_INPUTS} in one request"
            raise ApiError(400, "too_many_items", message, "input")
        await charge_items(request, service, sum(text_items(len(text)) for text in body.texts))
        return JSONResponse(await moderation.moderate(body, service))
