"""What Serve's HTTP proxy adds to the service: an answer where an ingress is lost under a request.

By itself the proxy ends such a request with a bare 500, or a stream without a last event. Serve calls
``middlewares`` in each proxy process that has ``ENVIRONMENT``.
"""

import json
from collections.abc import Mapping

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safe_r1.serve.errors import ApiError

ENVIRONMENT: Mapping[str, str] = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "safe_r1.serve.proxy.middlewares",
    # At Serve's ten rounds a second its controller takes a twentieth of a core.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
}
"""Environment of a Ray that runs the service."""

_LOST = ApiError(503, "service_unavailable", "the service is restarting; try again", retry_after_s=1)
_FULL = ApiError(429, "overloaded", "too many requests are in progress; try again", retry_after_s=1)


def middlewares() -> list[Middleware]:
    """For Serve, which wraps its proxy in them."""
    return [Middleware(LostIngress)]


class LostIngress:
    """Ends each request in the form of OpenAI's API, whatever becomes of the ingress that had it."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response = _Response(send)
        await self._app(scope, receive, response.send)
        if not response.has_started:
            await response.error.to_response()(scope, receive, send)
        elif response.is_stream and not response.has_ended:
            events = f"data: {json.dumps(_LOST.body)}\n\ndata: [DONE]\n\n".encode()
            await send({"type": "http.response.body", "body": events, "more_body": False})


class _Response:
    """Passes on what the ingress sends, and nothing that the proxy says in its place."""

    def __init__(self, send: Send):
        self._send = send
        self._is_proxys = False
        self.error = _LOST
        self.has_started = self.has_ended = self.is_stream = False

    async def send(self, message: Message) -> None:
        """Take one message of the proxy."""
        if message["type"] == "http.response.start":
            kind = next((value for name, value in message["headers"] if name.lower() == b"content-type"), b"")
            # The ingress reports errors as JSON, the proxy its own as text.
            self._is_proxys = message["status"] in (429, 500, 503) and kind.startswith(b"text/plain")
            if self._is_proxys and message["status"] == 429:
                self.error = _FULL
            self.has_started = not self._is_proxys
            self.is_stream = kind.startswith(b"text/event-stream")
        elif message["type"] == "http.response.body":
            self.has_ended = not message.get("more_body", False)
        if not self._is_proxys:
            await self._send(message)
