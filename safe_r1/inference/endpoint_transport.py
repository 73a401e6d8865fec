"""HTTP of an endpoint within bounds: the time of a whole attempt, the size of an answer, and no redirects.

What is sent bears a key and a user's texts, and what comes back is somebody else's: a server may answer a
byte a minute, send a body that never ends or one that grows a thousandfold when it is decompressed, or point
to another host.
"""

import asyncio
import importlib
import zlib
from typing import Any

import openai

MAX_BODY_BYTES = 16 << 20
"""Largest answer, as it is sent and decompressed: 100 times that of the longest completion."""
# gzip and zlib, told apart by their first bytes.
_ANY_ZLIB = 47
_PLAIN = ("", "identity")
_ZLIB = ("gzip", "x-gzip", "deflate")
# Of the body as it is rebuilt.
_DROPPED_HEADERS = ("content-encoding", "content-length", "transfer-encoding")


def _http_library() -> Any:
    """The generation of httpx that the openai library uses, whose errors it understands."""
    base = next(each for each in openai.DefaultAsyncHttpxClient.__mro__ if each.__name__ == "AsyncClient")
    return importlib.import_module(base.__module__.partition(".")[0])


_http = _http_library()


class UnreadableAnswerError(openai.OpenAIError):
    """An answer that is not read to its end. The openai library does not send its request again."""


class BoundedHttpClient(openai.DefaultAsyncHttpxClient):
    """The openai library's HTTP client, which reads whole answers within bounds."""

    def __init__(self, timeout_s: float):
        """Create it.

        Args:
            timeout_s: Limit of a whole attempt: to connect, send, wait and read.
        """
        # Compressed answers are read if they come, but not asked for.
        super().__init__(follow_redirects=False, headers={"Accept-Encoding": "identity"})
        self._timeout_s = timeout_s

    async def send(self, request: Any, **kwargs: Any) -> Any:
        """Send one request, and read its answer whole.

        Raises:
            UnreadableAnswerError: It is too large, or compressed in a way that was not asked for.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await super().send(request, **{**kwargs, "stream": True})
                try:
                    body = await _read_body(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise _http.ReadTimeout(
                f"no whole answer within {self._timeout_s:g} s", request=request
            ) from None
        headers = [item for item in response.headers.multi_items() if item[0].lower() not in _DROPPED_HEADERS]
        return _http.Response(response.status_code, headers=headers, content=body, request=request)


async def _read_body(response: Any) -> bytes:
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in (*_PLAIN, *_ZLIB):
        raise UnreadableAnswerError("the reply is compressed in a way that was not asked for")
    decoder = zlib.decompressobj(_ANY_ZLIB) if encoding in _ZLIB else None
    body = bytearray()
    num_sent = 0
    async for chunk in response.aiter_raw():
        num_sent += len(chunk)
        try:
            # One byte more than fits, to see that it does not.
            body += decoder.decompress(chunk, MAX_BODY_BYTES + 1 - len(body)) if decoder else chunk
        except zlib.error:
            raise UnreadableAnswerError("the reply is damaged: it cannot be decompressed") from None
        if max(num_sent, len(body)) > MAX_BODY_BYTES:
            raise UnreadableAnswerError(f"the reply is larger than {MAX_BODY_BYTES >> 20} MiB")
    return bytes(body)
