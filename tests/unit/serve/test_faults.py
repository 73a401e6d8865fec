"""What goes wrong inside, or comes from outside as no text, is told to whoever asked and to nobody else."""

import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from safe_r1.judge.base import JudgeItem, Judgement
from tests.unit.serve.test_http import CHAT, QUESTION, SAID, Judge, Model, post


@pytest.mark.parametrize("reason", ["judge_unavailable", "judge_overloaded"])
def test_a_text_that_nobody_judged_is_not_told_as_harmless(monkeypatch: pytest.MonkeyPatch, reason: str):
    async def judge(self: Judge, items: Sequence[JudgeItem], *, is_patient: bool = True) -> list[Judgement]:
        assert not is_patient
        return [Judgement(None, reason, "the engine is down") for _ in items]

    monkeypatch.setattr(Judge, "judge", judge)
    reply = post("/v1/moderations", {"input": ["他们就是懒，活该受穷。"]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, reason)


HALF = '"\\ud83d"'


def test_half_an_emoji_is_the_fault_of_its_item():
    items = f'{{"items": [{{"prompt": "q", "answer": {HALF}}}, {{"prompt": "q", "answer": "这是偏见，我不能认同。"}}]}}'
    outcomes = [item["outcomes"][0] for item in post("/v1/safety/evaluate", items).json()["items"]]
    assert [outcome["error"] and outcome["error"]["code"] for outcome in outcomes] == ["invalid_item", None]
    assert "event: summary" in post("/v1/safety/evaluate", items[:-1] + ', "stream": true}').text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", f'{{"model": "demo", "messages": [{{"role": "user", "content": {HALF}}}]}}'),
        ("completions", f'{{"model": "demo", "prompt": {HALF}}}'),
        ("completions", f'{{"model": "demo", "prompt": "x", "stop": [{HALF}]}}'),
        ("completions", '{"model": "demo", "prompt": [-1]}'),
        ("moderations", f'{{"input": [{HALF}]}}'),
    ],
)
def test_what_is_no_text_is_refused(path: str, body: str):
    reply = post(f"/v1/{path}", body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request")


def test_a_fault_of_our_own_is_answered_and_audited(caplog: pytest.LogCaptureFixture):
    class Broken(Model):
        async def render(self, messages: list[Any]) -> Any:
            raise KeyError(messages[0]["content"])

    caplog.set_level(logging.INFO)
    reply = post("/v1/chat/completions", CHAT, models={"demo": Broken()})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert any(
        json.loads(each.message)["status"] == 500 for each in caplog.records if each.name == "safe_r1.audit"
    )
    assert QUESTION not in caplog.text
    body = {
        "model": "demo",
        "items": [{"prompt": QUESTION}, {"prompt": QUESTION, "answer": "这是偏见，我不能认同。"}],
    }
    outcomes = [
        item["outcomes"][0]
        for item in post("/v1/safety/evaluate", body, models={"demo": Broken()}).json()["items"]
    ]
    assert [outcome["error"] and outcome["error"]["code"] for outcome in outcomes] == ["internal_error", None]


def test_streams_count_their_tokens(monkeypatch: pytest.MonkeyPatch):
    counted: list[tuple[Any, ...]] = []
    monkeypatch.setattr("safe_r1.serve.metrics.NoMeter.tokens", lambda self, *facts: counted.append(facts))
    for stream in (False, True):
        assert post("/v1/chat/completions", CHAT | {"stream": stream}).status_code == 200
    assert counted == [("demo", len(QUESTION), len(SAID))] * 2
