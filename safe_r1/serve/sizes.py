"""How large a request may be, told while it comes in and not after."""

import contextlib
from typing import Any

from starlette.responses import JSONResponse

from safe_r1.serve.api import ApiError


class SizeLimit:
    """ASGI middleware: a body beyond the limit is answered with 413 and not read further."""

    def __init__(self, app: Any, max_bytes: int):
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on while its body is within the limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if told.isdigit() and int(told) > self._max_bytes:
            await self._refusal()(scope, receive, send)
            return
        received, has_answered, is_over = 0, False, False

        async def counted() -> Any:
            nonlocal received, is_over
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                is_over = True
                raise _TooLargeError
            return message

        async def watched(message: Any) -> None:
            nonlocal has_answered
            if (
                not is_over or has_answered
            ):  # what the routes make of a body that broke off is not what was wrong
                has_answered = True
                await send(message)

        with contextlib.suppress(_TooLargeError):
            await self._app(scope, counted, watched)
        if is_over and not has_answered:
            await self._refusal()(scope, receive, send)

    def _refusal(self) -> JSONResponse:
        error = ApiError(
            413, "request_too_large", f"the request is larger than {self._max_bytes / 2**20:g} MiB"
        )
        return JSONResponse(error.body, error.status, {"Connection": "close"})


class _TooLargeError(Exception):
    """A body went on beyond its limit."""
