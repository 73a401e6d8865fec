"""A service that ends: it refuses what is new and finishes what it has begun."""

import asyncio
import time
from typing import Any

from starlette.responses import JSONResponse

from safe_r1.serve.api import ApiError


class Drain:
    """Counts what is being answered, and closes the door.

    Attributes:
        is_closed: New requests are answered by 503.
    """

    def __init__(self) -> None:
        self.is_closed, self._num_active = False, 0

    async def close(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for those that are being answered; True where all of them were."""
        self.is_closed, deadline = True, time.monotonic() + timeout_s
        while self._num_active and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        return not self._num_active

    def middleware(self, app: Any) -> Any:
        """ASGI middleware around ``app``: a stream counts until its last event."""

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
            elif self.is_closed:
                error = ApiError(
                    503, "service_ending", "the service is ending; ask another one", retry_after_s=30
                )
                await JSONResponse(error.body, error.status, error.headers)(scope, receive, send)
            else:
                self._num_active += 1
                try:
                    await app(scope, receive, send)
                finally:
                    self._num_active -= 1

        return guarded
