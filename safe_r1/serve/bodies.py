"""Limits of request bodies: size, time, JSON, how many are being received, and the bytes of all of them.

A body is read as a whole before a route sees the request, by which time its caller is known.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safe_r1.serve.config import LimitConfig
from safe_r1.serve.errors import ApiError, refuse
from safe_r1.serve.json_limits import JsonLimits

# No route reads a body with these.
_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS", "DELETE")
_FORMS = (b"multipart/form-data", b"application/x-www-form-urlencoded")


@dataclass(eq=False)
class _Body:
    """A body that is held.

    Attributes:
        owner: Name of the caller's key.
        timer: Ends its receipt; None before and after.
        is_evicted: Ended in favour of others.
    """

    owner: str
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    timer: asyncio.Timeout | None = None
    is_evicted: bool = False


class BodyLimits:
    """Reads the body of each request and answers one that breaks a limit, without reading the rest of it.

    Where too many bodies are being received, or all together are too large, the oldest one of the key with
    most of them is ended: callers that stall do not keep others out.
    """

    def __init__(self, app: ASGIApp, limits: LimitConfig, max_receiving: int):
        self._app = app
        self._limits = limits
        self._max_bytes = limits.body_mib * 2**20
        self._max_receiving = max_receiving
        # In the order in which they began.
        self._receiving: list[_Body] = []
        self._num_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] in _WITHOUT_BODY:
            await self._app(scope, receive, send)
            return
        body = _Body(scope["state"]["facts"]["key"])
        try:
            try:
                is_whole = await self._receive(body, scope, receive)
            except ApiError as error:
                await refuse(error, scope, receive, send)
                return
            if is_whole:
                await self._app(scope, _replay(body, receive), send)
        finally:
            self._num_bytes -= body.size

    async def _receive(self, body: _Body, scope: Scope, receive: Receive) -> bool:
        """Read a body; False if the client went away.

        Raises:
            ApiError: A limit.
        """
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_bytes:
            raise self._too_large()
        is_form = headers.get(b"content-type", b"").lower().startswith(_FORMS)
        json_limits = None if is_form else JsonLimits(self._limits.json_elements)
        self._make_room(self._max_receiving - 1)
        self._receiving.append(body)
        try:
            async with asyncio.timeout(self._limits.body_timeout_s) as body.timer:
                return await self._read(body, json_limits, receive)
        except TimeoutError:
            if body.is_evicted:
                raise _overloaded() from None
            message = f"the request's body did not arrive within {self._limits.body_timeout_s:g} s"
            raise ApiError(408, "request_timeout", message) from None
        finally:
            body.timer = None
            if body in self._receiving:
                self._receiving.remove(body)

    async def _read(self, body: _Body, json_limits: JsonLimits | None, receive: Receive) -> bool:
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return False
            chunk = message.get("body", b"")
            body.size += len(chunk)
            self._num_bytes += len(chunk)
            if body.size > self._max_bytes:
                raise self._too_large()
            if json_limits:
                json_limits.feed(chunk)
            if self._num_bytes > self._limits.bodies_mib * 2**20:
                shares: Counter[str] = Counter()
                for each in self._receiving:
                    shares[each.owner] += each.size
                self._evict(shares)
            if body.is_evicted:
                raise _overloaded()
            body.chunks.append(chunk)
            if not message.get("more_body", False):
                return True

    def _make_room(self, max_receiving: int) -> None:
        while len(self._receiving) > max_receiving:
            self._evict(Counter(each.owner for each in self._receiving))

    def _evict(self, shares: "Counter[str]") -> None:
        """End the oldest body of the key with the largest share of those that are being received."""
        [(owner, _)] = shares.most_common(1)
        oldest = next(each for each in self._receiving if each.owner == owner)
        self._receiving.remove(oldest)
        oldest.is_evicted = True
        self._num_bytes -= oldest.size
        oldest.size = 0
        oldest.chunks.clear()
        if oldest.timer:
            oldest.timer.reschedule(asyncio.get_running_loop().time())

    def _too_large(self) -> ApiError:
        message = f"the request is larger than {self._limits.body_mib:g} MiB"
        return ApiError(413, "request_too_large", message)


def _overloaded() -> ApiError:
    return ApiError(503, "overloaded", "too many request bodies are being received", retry_after_s=1)


def _replay(body: _Body, receive: Receive) -> Receive:
    """A ``receive`` that gives the body in one message."""

    async def replay() -> Message:
        if not body.chunks:
            return await receive()
        content = b"".join(body.chunks)
        body.chunks.clear()
        return {"type": "http.request", "body": content, "more_body": False}

    return replay
