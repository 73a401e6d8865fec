"""Many who wait for a model or a judge that is full or away."""

import asyncio
from typing import Any

import pytest

from safe_r1.config import JudgeConfig
from safe_r1.judge.base import JudgeItem
from safe_r1.models.registry import VARIANTS
from safe_r1.serve.api import ApiError
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.evaluator import Asked, Generated
from safe_r1.serve.judges import ModelJudge
from safe_r1.serve.line import Line, Patience, within
from tests.unit.serve.test_http import QUESTION, Model, post

ITEM = JudgeItem([{"role": "user", "content": QUESTION}], "这是偏见，我不能认同。", "answer")


class Engine:
    """Refuses whoever comes while it decodes ``room`` sequences."""

    variant, room = VARIANTS["demo"], 4

    def __init__(self, status: int | None = None):
        self.calls, self.status, self._running = 0, status, 0

    async def generate(self, messages: list[Any], asked: Asked) -> Generated:
        self.calls += 1
        if self.status or self._running == self.room:
            raise ApiError(self.status or 429, "overloaded", "full")
        self._running += 1
        await asyncio.sleep(0.001)
        self._running -= 1
        return Generated("判定：安全且负责任的拒绝", "stop", 1, 1)


def judge(engine: Any, **settings: Any) -> ModelJudge:
    return ModelJudge(JudgeConfig(kind="llm"), "demo", Line(engine, ServeConfig(**settings)))


def test_a_model_that_judges_is_not_flooded():
    engine = Engine()
    judgements = asyncio.run(judge(engine).judge([ITEM] * 300))
    assert engine.calls == 300
    assert {judgement.unscored_reason for judgement in judgements} & {
        "judge_overloaded",
        "judge_unavailable",
    } == set()


@pytest.mark.parametrize(
    ("status", "reason"), [(503, "judge_unavailable"), (429, "judge_overloaded"), (400, "judge_error")]
)
def test_a_model_that_cannot_judge_says_why(status: int, reason: str):
    [judgement] = asyncio.run(judge(Engine(status)).judge([ITEM], is_patient=False))
    assert (judgement.label, judgement.unscored_reason) == (None, reason)


def test_items_of_a_model_that_is_gone_wait_once_for_all():
    engine: Any = Engine(503)

    async def ask() -> float:
        line, loop = Line(engine, ServeConfig(first_answer_timeout_s=0.3)), asyncio.get_running_loop()
        started = loop.time()
        replies = await asyncio.gather(
            *(line.generate([], Asked(0)) for _ in range(400)), return_exceptions=True
        )
        assert all(isinstance(reply, ApiError) and reply.status == 503 for reply in replies)
        return loop.time() - started

    # One by one, the hundred turns of four would take half a minute.
    assert asyncio.run(ask()) < 10


def test_who_will_not_wait_does_not_stand_in_line():
    engine: Any = Engine(503)

    async def ask() -> None:
        line = Line(engine, ServeConfig(first_answer_timeout_s=30))
        waiting = [asyncio.create_task(line.generate([], Asked(0))) for _ in range(2 * engine.room)]
        await asyncio.sleep(0.05)
        with pytest.raises(ApiError):
            await asyncio.wait_for(line.generate([], Asked(0), is_patient=False), 5)
        for task in waiting:
            task.cancel()

    asyncio.run(ask())


def test_an_outage_ends_with_an_answer(monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr("safe_r1.serve.line.time.monotonic", lambda: now[0])
    patience = Patience(100)
    patience._refused()
    now[0] += 50
    patience._refused()
    assert not patience._is_over()
    now[0] += 51
    patience._refused()
    assert patience._is_over()
    now[0] += 61  # so long after the last refusal it is another outage
    patience._refused()
    assert not patience._is_over()


def test_nobody_waits_for_ever():
    async def ask() -> None:
        async with within(0.01):
            await asyncio.sleep(5)

    with pytest.raises(ApiError) as caught:
        asyncio.run(ask())
    assert (caught.value.status, caught.value.code) == (503, "answer_timeout")


def test_a_chat_without_an_answer_ends():
    class Silent(Model):
        async def complete(self, *arguments: Any, **more: Any) -> Any:
            await asyncio.sleep(5)
            yield None

    body = {"model": "demo", "messages": [{"role": "user", "content": QUESTION}]}
    for stream in (False, True):
        reply = post(
            "/v1/chat/completions",
            body | {"stream": stream},
            models={"demo": Silent()},
            answer_timeout_s=0.05,
        )
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "answer_timeout")
