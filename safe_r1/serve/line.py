"""The line before a model: items take turns, and wait for a model that is full, starts, or is being replaced."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from safe_r1.schema import Message
from safe_r1.serve.api import ApiError
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.engine import ServedModel
from safe_r1.serve.evaluator import Asked, Generated

_PASSING = (429, 503)
# Refusals further apart than this, or with an answer in between, are not of one outage.
_GAP_S = 60.0
_Found = TypeVar("_Found")


class Patience:
    """Asks again while the answer is 429 or 503, so long after the first such answer to anybody: many items
    of a model that is gone do not wait one after the other.
    """

    def __init__(self, timeout_s: float):
        self._timeout_s = timeout_s
        self._first_refusal, self._last_refusal = math.inf, -math.inf

    async def ask(self, call: Callable[[], Awaitable[_Found]]) -> _Found:
        """Give what ``call`` gives.

        Raises:
            ApiError: Its last one.
        """

        async def asked() -> _Found:
            try:
                found = await call()
            except ApiError as error:
                if _is_passing(error):
                    self._refused()
                raise
            self._first_refusal, self._last_refusal = math.inf, -math.inf
            return found

        too_long = stop_after_delay(self._timeout_s)
        retrying = AsyncRetrying(
            stop=lambda state: too_long(state) or self._is_over(),
            wait=wait_random_exponential(0.1, max=5),
            retry=retry_if_exception(_is_passing),
            reraise=True,
        )
        return await retrying(asked)

    def _refused(self) -> None:
        now = time.monotonic()
        if now - self._last_refusal > _GAP_S:
            self._first_refusal = now
        self._last_refusal = now

    def _is_over(self) -> bool:
        return time.monotonic() - self._first_refusal > self._timeout_s


class Line:
    """Before one model."""

    def __init__(self, model: ServedModel, config: ServeConfig):
        # Turns are taken before the model's own queue, so that a large request does not push others out of
        # it.
        self._model, self._turns = model, asyncio.Semaphore(model.room)
        self._patience, self._answer_timeout_s = (
            Patience(config.first_answer_timeout_s),
            config.answer_timeout_s,
        )

    async def generate(self, messages: list[Message], asked: Asked, *, is_patient: bool = True) -> Generated:
        """One whole completion.

        Raises:
            ApiError: Too long a prompt, overload, engine down; the last two at once where not ``is_patient``.
        """

        async def call() -> Generated:
            async with within(self._answer_timeout_s):
                return await self._model.generate(messages, asked)

        if not is_patient:
            return await call()
        async with self._turns:
            return await self._patience.ask(call)


@contextlib.asynccontextmanager
async def within(seconds: float | None) -> AsyncIterator[None]:
    """Allow so much time: a model without any replica lets its callers wait for ever.

    Raises:
        ApiError: 503 after it.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise ApiError(
            503, "answer_timeout", f"no answer in {seconds or 0:.0f} s", retry_after_s=30
        ) from None


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, ApiError) and error.status in _PASSING
