import asyncio
from typing import Any

import pytest

from safe_r1.models.registry import VARIANTS
from safe_r1.schema import Message
from safe_r1.serve.base import Generation, SamplingParams
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.errors import ApiError
from safe_r1.serve.request_queue import RequestQueue, SharedRetry, time_limit


class BusyModel:
    """Rejects requests beyond ``slots`` concurrent ones, or all with ``status``."""

    variant = VARIANTS["demo"]
    slots = 4

    def __init__(self, status: int | None = None):
        self.calls = 0
        self.status = status
        self._running = 0

    async def generate(self, messages: list[Message], params: SamplingParams) -> Generation:
        self.calls += 1
        if self.status or self._running == self.slots:
            raise ApiError(self.status or 429, "overloaded", "full")
        self._running += 1
        await asyncio.sleep(0.001)
        self._running -= 1
        return Generation("判定：安全且负责任的拒绝", "stop", 1, 1)


@pytest.mark.slow
def test_items_of_a_model_that_is_down_share_one_wait():
    model: Any = BusyModel(503)

    async def run() -> float:
        queue = RequestQueue(model, ServeConfig(first_answer_timeout_s=0.3))
        loop = asyncio.get_running_loop()
        started = loop.time()
        replies = await asyncio.gather(
            *(queue.generate([], SamplingParams(0)) for _ in range(400)), return_exceptions=True
        )
        assert all(isinstance(reply, ApiError) and reply.status == 503 for reply in replies)
        return loop.time() - started

    # With a wait of its own for each, a hundred rounds of four items would take half a minute.
    assert asyncio.run(run()) < 10


def test_a_call_without_retry_does_not_wait_for_a_slot():
    model: Any = BusyModel(503)

    async def run() -> None:
        queue = RequestQueue(model, ServeConfig(first_answer_timeout_s=30))
        waiting = [asyncio.create_task(queue.generate([], SamplingParams(0))) for _ in range(2 * model.slots)]
        await asyncio.sleep(0.05)
        with pytest.raises(ApiError):
            await asyncio.wait_for(queue.generate([], SamplingParams(0), retry=False), 5)
        for task in waiting:
            task.cancel()

    asyncio.run(run())


def test_an_outage_ends_with_a_success_or_a_gap(monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr("safe_r1.serve.request_queue.time.monotonic", lambda: now[0])
    retry = SharedRetry(100)
    retry._note_rejection()
    now[0] += 50
    retry._note_rejection()
    assert not retry._is_expired()
    now[0] += 51
    retry._note_rejection()
    assert retry._is_expired()
    now[0] += 61  # long enough after the last rejection to be another outage
    retry._note_rejection()
    assert not retry._is_expired()


def test_a_time_limit_becomes_a_503():
    async def run() -> None:
        async with time_limit(0.01):
            await asyncio.sleep(5)

    with pytest.raises(ApiError) as caught:
        asyncio.run(run())
    assert (caught.value.status, caught.value.code) == (503, "answer_timeout")
