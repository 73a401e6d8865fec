"""How many requests an endpoint gets: a ceiling that follows its 429s, and limits of requests and tokens."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from aiolimiter import AsyncLimiter

_MINUTE_S = 60.0
# Requests that were sent together are refused together: one refusal counts for all of them.
_SAME_REFUSAL_S = 1.0


class AdaptiveCeiling:
    """Bounds the requests in flight: half after a refusal, one more after a success in every place.

    Attributes:
        limit: Current ceiling; between 1 and ``most``.
    """

    def __init__(self, most: int):
        self.most = most
        self.limit = float(most)
        self._in_flight = 0
        self._changed = asyncio.Condition()
        self._refused_at = 0.0

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._in_flight < int(self.limit))
            self._in_flight += 1
        try:
            yield
        finally:
            async with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def refused(self) -> None:
        """The endpoint has too much to do."""
        if time.monotonic() - self._refused_at >= _SAME_REFUSAL_S:
            self._refused_at = time.monotonic()
            self.limit = max(1.0, self.limit / 2)

    def succeeded(self) -> None:
        """A request was answered."""
        self.limit = min(float(self.most), self.limit + 1 / self.limit)


class MinuteLimits:
    """Limits of requests and tokens a minute; None: no limit."""

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None):
        self._requests = AsyncLimiter(requests_per_minute, _MINUTE_S) if requests_per_minute else None
        self._tokens = AsyncLimiter(tokens_per_minute, _MINUTE_S) if tokens_per_minute else None

    async def wait(self, tokens: int) -> None:
        """Wait until a request of that many tokens may be sent."""
        if self._requests:
            await self._requests.acquire()
        if self._tokens:
            # A request above the whole limit has to pass at some time.
            await self._tokens.acquire(min(float(tokens), self._tokens.max_rate))
