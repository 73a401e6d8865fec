"""OpenTelemetry traces: a span for each request, and one for each stage of it; never any content.

A request that has a ``traceparent`` goes on with the caller's trace. What is sampled, and further attributes
of the service, are set by OpenTelemetry's own environment variables.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safe_r1 import __version__
from safe_r1.errors import ConfigError
from safe_r1.serve.schemas import ItemResult
from safe_r1.serve.telemetry import Telemetry

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

_UNTRACED = ("/", "/healthz", "/readyz", "/metrics")
_SERVER_ERROR = 500
_NANOSECONDS = 1_000_000_000


def check_traces(url: str) -> None:
    """Reject a collector that cannot be sent to.

    Raises:
        ConfigError: No URL of HTTP, or OpenTelemetry's packages are missing.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise ConfigError("traces: expected the URL of an OTLP collector, e.g. http://localhost:4318")
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"traces: {error.name} is not installed: pip install opentelemetry-sdk "
            "opentelemetry-exporter-otlp-proto-http on all nodes, or leave traces out"
        ) from None


def make_tracer(url: str, exporter: "SpanExporter | None" = None) -> "Tracer":
    """A tracer that sends to a collector.

    Args:
        url: The collector's.
        exporter: Sends the spans; None: OTLP over HTTP.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # Not the process's global one, which Ray's own tracing may have set.
    provider = TracerProvider(
        resource=Resource.create({"service.name": "safe_r1", "service.version": __version__})
    )
    endpoint = f"{url.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter(endpoint=endpoint)))
    return provider.get_tracer("safe_r1.serve")


class Tracing:
    """ASGI middleware: a span from a request's first byte to the last of its response."""

    def __init__(self, app: ASGIApp, tracer: "Tracer"):
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"] in _UNTRACED:
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        method: str = scope["method"]
        headers = dict(Headers(scope=scope))
        context = TraceContextTextMapPropagator().extract(headers)
        with self._tracer.start_as_current_span(method, context, SpanKind.SERVER) as span:
            span.set_attribute("http.request.method", method)

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status: int = message["status"]
                    span.set_attribute("http.response.status_code", status)
                    if status >= _SERVER_ERROR:
                        span.set_status(StatusCode.ERROR)
                    if found := Headers(raw=message["headers"]).get("x-request-id"):
                        span.set_attribute("safe_r1.request_id", found)
                await send(message)

            await self._app(scope, receive, send_and_note)
            # The path of the route, never the caller's own, whose parts may be anything.
            if route := getattr(scope.get("route"), "path", None):
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)


class TracedTelemetry:
    """Telemetry sink that also makes a span of each stage and gives it to another sink."""

    def __init__(self, sink: Telemetry, tracer: "Tracer"):
        self._sink = sink
        self._tracer = tracer

    def request(self, path: str, status: int, seconds: float) -> None:
        """See ``Telemetry.request``."""
        self._sink.request(path, status, seconds)

    def stage(self, stage: str, seconds: float) -> None:
        """See ``Telemetry.stage``."""
        end = time.time_ns()
        span = self._tracer.start_span(stage, start_time=end - int(seconds * _NANOSECONDS))
        span.end(end)
        self._sink.stage(stage, seconds)

    def tokens(self, model: str, prompt: int, completion: int) -> None:
        """See ``Telemetry.tokens``."""
        from opentelemetry.trace import get_current_span

        span = get_current_span()
        span.set_attribute("gen_ai.response.model", model)
        span.set_attribute("gen_ai.usage.input_tokens", prompt)
        span.set_attribute("gen_ai.usage.output_tokens", completion)
        self._sink.tokens(model, prompt, completion)

    def results(self, results: Sequence[ItemResult]) -> None:
        """See ``Telemetry.results``."""
        self._sink.results(results)
