"""Middleware around every route: content log, draining, and the audit log."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safe_r1.serve.errors import ApiError, format_location, refuse

audit_log = logging.getLogger("safe_r1.audit")
content_log = logging.getLogger("safe_r1.content")
logger = logging.getLogger(__name__)
_LOGGED_PATHS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/completions",
    "/v1/moderations",
    "/v1/safety/evaluate",
)


class ContentLog:
    """Writes requests and responses to the log ``safe_r1.content``; added only if ``log_content`` is set.

    One line per request: a JSON object with the request id of the audit log, the path, and both bodies.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request and record its bodies."""
        if scope["type"] != "http" or scope["path"] not in _LOGGED_PATHS:
            await self._app(scope, receive, send)
            return
        request_body = bytearray()
        response_body = bytearray()
        response_headers: dict[bytes, bytes] = {}

        async def receive_and_record() -> Message:
            message = await receive()
            request_body.extend(message.get("body", b""))
            return message

        async def send_and_record(message: Message) -> None:
            response_headers.update(dict(message.get("headers", ())))
            response_body.extend(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive_and_record, send_and_record)
        finally:
            # Encoded as JSON strings, so that no text of a caller or a model can begin a new log line.
            entry = {
                "request": response_headers.get(b"x-request-id", b"").decode(),
                "path": scope["path"],
                "sent": _decode_line(request_body),
                "answered": _decode_line(response_body),
            }
            content_log.info(json.dumps(entry, ensure_ascii=False))


def _decode_line(body: bytearray) -> str:
    """The body as text without the line separators that JSON leaves unescaped."""
    text = body.decode("utf-8", "replace")
    return text.replace("\u2028", " ").replace("\u2029", " ").replace("\x85", " ")


class Drain:
    """Rejects new requests while the service shuts down, and waits for those in progress.

    Attributes:
        is_closed: New requests are answered with 503.
    """

    def __init__(self) -> None:
        self.is_closed = False
        self._num_active = 0

    async def close(self, timeout_s: float) -> bool:
        """Reject new requests and wait for those in progress; True if all of them finished in time."""
        self.is_closed = True
        deadline = time.monotonic() + timeout_s
        while self._num_active and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        return not self._num_active

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """ASGI middleware around ``app``; a stream is in progress until its last event."""

        async def count_or_reject(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
            elif self.is_closed:
                error = ApiError(503, "service_ending", "the service is shutting down", retry_after_s=30)
                await refuse(error, scope, receive, send)
            else:
                self._num_active += 1
                try:
                    await app(scope, receive, send)
                finally:
                    self._num_active -= 1

        return count_or_reject


class AuditLog:
    """Writes one line without content for each request, and answers unexpected exceptions with 500.

    Routes add to the line through ``request.state.facts``: name of the key, items, tokens. A stream's line is
    written when it has ended. An ASGI middleware, as FastAPI's own kind passes each event through two tasks.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        request_id = uuid.uuid4().hex
        facts: dict[str, object] = {}
        scope.setdefault("state", {}).update(id=request_id, facts=facts)
        # Where the client goes away before there is a response.
        status = 499

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:  # an internal error is answered, counted and audited as well
            logger.error("%s in\n%s", type(error).__name__, format_location(error))
            if status != 499:
                raise
            answer = ApiError(500, "internal_error", f"unexpected {type(error).__name__}").to_response()
            await answer(scope, receive, send_with_id)
        finally:
            self._write(scope, status, time.monotonic() - started, facts)

    def _write(self, scope: Scope, status: int, seconds: float, facts: Mapping[str, object]) -> None:
        entry = {
            "request": scope["state"]["id"],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(1000 * seconds),
            **facts,
        }
        audit_log.info(json.dumps(entry))
        # The metric's label is the path of the route, never that of the request: a caller must not be able to
        # create new time series.
        path = getattr(scope.get("route"), "path", "other")
        scope["app"].state.service.telemetry.request(path, status, seconds)
