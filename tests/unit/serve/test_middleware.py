import asyncio
import json
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from safe_r1.serve.config import LimitConfig
from safe_r1.serve.middleware import AuditLog, Drain
from tests.unit.serve.fakes import CHAT, QUESTION, FakeModel, RecordingTelemetry, call, post


def test_drain_finishes_active_requests_and_rejects_new_ones():
    drain = Drain()
    release = asyncio.Event()
    sent: list[Message] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await send({"type": "done"})

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> tuple[bool, bool]:
        app = drain.middleware(slow)
        active = asyncio.create_task(app({"type": "http"}, receive, send))  # pyright: ignore[reportArgumentType]
        await asyncio.sleep(0)
        was_in_time = await drain.close(0.2)
        await app({"type": "http"}, receive, send)
        release.set()
        is_empty = await drain.close(5)
        await active
        return was_in_time, is_empty

    assert asyncio.run(run()) == (False, True)
    assert [message.get("status") for message in sent if "status" in message] == [503]
    assert sent[-1] == {"type": "done"}


def test_large_bodies_are_not_read():
    body = json.dumps(CHAT | {"user": "x" * 2**21})
    assert post("/v1/chat/completions", body, limits=LimitConfig(body_mib=1)).status_code == 413

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 2**16

    response = call(
        lambda http: http.post("/v1/chat/completions", content=chunks()), limits=LimitConfig(body_mib=1)
    )
    assert response.status_code == 413
    assert response.headers["connection"] == "close"
    assert response.json()["error"]["code"] == "request_too_large"


def test_the_audit_line_has_no_content(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        post("/v1/chat/completions", CHAT)
    line = json.loads(next(record.message for record in caplog.records if record.name == "safe_r1.audit"))
    wanted = {"path": "/v1/chat/completions", "status": 200, "key": "local", "prompt_tokens": len(QUESTION)}
    assert line.items() >= wanted.items()
    assert QUESTION not in caplog.text
    assert "偏见" not in caplog.text


def test_an_internal_error_is_answered_and_audited(caplog: pytest.LogCaptureFixture):
    class Broken(FakeModel):
        async def render(self, messages: list[dict[str, str]]):  # pyright: ignore[reportIncompatibleMethodOverride]
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
    items = post("/v1/safety/evaluate", body, models={"demo": Broken()}).json()["items"]
    outcomes = [item["outcomes"][0] for item in items]
    assert [outcome["error"] and outcome["error"]["code"] for outcome in outcomes] == ["internal_error", None]


def test_metrics_are_labelled_with_the_route_not_the_path_of_the_request():
    telemetry = RecordingTelemetry()

    async def get(http: httpx.AsyncClient) -> None:
        await http.get("/v1/models/demo")
        await http.get("/no-such-path")

    call(get, telemetry=telemetry)
    assert telemetry.requests == [("/v1/models/{name:path}", 200), ("other", 404)]


@pytest.mark.parametrize("stream", [False, True])
def test_content_is_logged_only_on_request(caplog: pytest.LogCaptureFixture, stream: bool):
    hostile = "你好\n2026-01-01 forged line\u2028\x85"
    with caplog.at_level(logging.INFO):
        body = CHAT | {"stream": stream, "messages": [{"role": "user", "content": hostile}]}
        response = post("/v1/chat/completions", json.dumps(body, ensure_ascii=False), log_content=True)
    written = [record.message for record in caplog.records if record.name == "safe_r1.content"]
    assert len(written) == 1
    assert len(written[0].splitlines()) == 1
    line = json.loads(written[0])
    assert line["request"] == response.headers["x-request-id"]
    assert json.loads(line["sent"])["messages"][0]["content"].startswith("你好\n")
    assert "偏" in line["answered"]
    audited = next(record.message for record in caplog.records if record.name == "safe_r1.audit")
    assert "你好" not in audited


@pytest.mark.parametrize("breaks", [False, True])
def test_a_stream_is_audited_once_when_it_has_ended(caplog: pytest.LogCaptureFixture, breaks: bool):
    """A stream that breaks keeps the status that the client has seen."""
    text = "secret of a user"
    telemetry = RecordingTelemetry()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["facts"]["key"] = "me"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: 1", "more_body": True})
        assert not audited(caplog)
        if breaks:
            raise RuntimeError(text)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    service = SimpleNamespace(telemetry=telemetry)
    scope: Any = {"type": "http", "method": "POST", "path": "/x", "headers": []}
    scope["app"] = SimpleNamespace(state=SimpleNamespace(service=service))
    with caplog.at_level(logging.INFO, "safe_r1.audit"):
        running = AuditLog(app)(scope, receive, send)
        if breaks:
            with pytest.raises(RuntimeError):
                asyncio.run(running)
        else:
            asyncio.run(running)
    [line] = audited(caplog)
    assert (line["status"], line["key"], line["path"]) == (200, "me", "/x")
    assert dict(sent[0]["headers"])[b"x-request-id"].decode() == line["request"]
    assert text not in caplog.text


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [json.loads(each.message) for each in caplog.records if each.name == "safe_r1.audit"]
