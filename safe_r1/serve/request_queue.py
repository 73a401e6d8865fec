"""Client-side queue in front of each model: limits concurrency and retries while the model is unavailable."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from safe_r1.schema import Message
from safe_r1.serve.base import Generation, Model, SamplingParams
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.errors import ApiError

_TRANSIENT_STATUSES = (429, 503)
# Rejections further apart than this, or with a success in between, belong to different outages.
_OUTAGE_GAP_S = 60.0
_Result = TypeVar("_Result")


class SharedRetry:
    """Retries calls that fail with 429 or 503, with one deadline per outage for all callers.

    The deadline is ``timeout_s`` after the outage's first rejection. If each call had a deadline of its own,
    many items of a model that is down would wait for it one after the other.
    """

    def __init__(self, timeout_s: float):
        self._timeout_s = timeout_s
        self._reset()

    async def call(self, function: Callable[[], Awaitable[_Result]]) -> _Result:
        """Await ``function()``, again while it fails with a transient error.

        Raises:
            ApiError: The last one, once the deadline has passed, or one that is not transient.
        """

        async def attempt() -> _Result:
            try:
                result = await function()
            except ApiError as error:
                if _is_transient(error):
                    self._note_rejection()
                raise
            self._reset()
            return result

        has_waited_too_long = stop_after_delay(self._timeout_s)
        retrying = AsyncRetrying(
            stop=lambda state: has_waited_too_long(state) or self._is_expired(),
            wait=wait_random_exponential(0.1, max=5),
            retry=retry_if_exception(_is_transient),
            reraise=True,
        )
        return await retrying(attempt)

    def _reset(self) -> None:
        self._first_rejection = math.inf
        self._last_rejection = -math.inf

    def _note_rejection(self) -> None:
        now = time.monotonic()
        if now - self._last_rejection > _OUTAGE_GAP_S:
            self._first_rejection = now
        self._last_rejection = now

    def _is_expired(self) -> bool:
        return time.monotonic() - self._first_rejection > self._timeout_s


class RequestQueue:
    """The queue in front of one model."""

    def __init__(self, model: Model, config: ServeConfig):
        self._model = model
        # Requests wait here rather than in the model's own queue, which a large evaluation would fill, so
        # that all others would be rejected with 429.
        self._slots = asyncio.Semaphore(model.slots)
        self._retry = SharedRetry(config.first_answer_timeout_s)
        self._answer_timeout_s = config.answer_timeout_s

    async def generate(
        self, messages: list[Message], params: SamplingParams, *, retry: bool = True
    ) -> Generation:
        """Generate one completion.

        Args:
            messages: The dialogue to continue.
            params: Sampling parameters.
            retry: Wait for a slot, and try again while the model is overloaded or down; False fails at once.

        Raises:
            ApiError: Prompt too long, overload, or engine down.
        """

        async def attempt() -> Generation:
            async with time_limit(self._answer_timeout_s):
                return await self._model.generate(messages, params)

        if not retry:
            return await attempt()
        async with self._slots:
            return await self._retry.call(attempt)


@contextlib.asynccontextmanager
async def time_limit(seconds: float | None) -> AsyncIterator[None]:
    """Limit the time of the block, since a call to a model without a replica waits forever.

    Raises:
        ApiError: 503 after ``seconds``.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        message = f"no answer in {seconds or 0:.0f} s"
        raise ApiError(503, "answer_timeout", message, retry_after_s=30) from None


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, ApiError) and error.status in _TRANSIENT_STATUSES
