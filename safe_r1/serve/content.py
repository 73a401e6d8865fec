"""What was asked and answered, written to a log of its own: only where ``log_content`` asks for it."""

import json
import logging
from typing import Any

content = logging.getLogger("safe_r1.content")
_LOGGED = ("/v1/chat/completions", "/v1/completions", "/v1/moderations", "/v1/safety/evaluate")


class ContentLog:
    """ASGI middleware: one line a request, a JSON object with the id of its audit line, what was sent, and
    what came back.
    """

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on and keep what goes by."""
        if scope["type"] != "http" or scope["path"] not in _LOGGED:
            await self._app(scope, receive, send)
            return
        sent, answered, head = bytearray(), bytearray(), {}

        async def heard() -> Any:
            message = await receive()
            sent.extend(message.get("body", b""))
            return message

        async def told(message: Any) -> None:
            head.update(dict(message.get("headers", ())))
            answered.extend(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, heard, told)
        finally:
            # As JSON strings: whatever a caller or a model wrote, it stays one line.
            facts = {"request": head.get(b"x-request-id", b"").decode(), "path": scope["path"]}
            content.info(
                json.dumps(facts | {"sent": _text(sent), "answered": _text(answered)}, ensure_ascii=False)
            )


def _text(body: bytearray) -> str:
    return body.decode("utf-8", "replace").replace("\u2028", " ").replace("\u2029", " ").replace("\x85", " ")
