"""Serve's proxy with an ingress that is lost: before its answer, within it, or not at all."""

import asyncio
import importlib
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from safe_r1.serve.proxy import ENVIRONMENT, LostIngress

JSON = (b"content-type", b"application/json")
TEXT = (b"content-type", b"text/plain")
EVENTS = (b"Content-Type", b"text/event-stream; charset=utf-8")


def start(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


def respond(*messages: Message) -> list[Message]:
    """What a client gets where the proxy without the middleware sends these."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    asyncio.run(LostIngress(app)({"type": "http", "method": "POST", "headers": []}, receive, send))
    return sent


@pytest.mark.parametrize(
    "messages",
    [
        [start(200, JSON), body(b"{}")],
        [
            start(200, EVENTS),
            body(b"data: 1\n\n", more=True),
            body(b"data: [DONE]\n\n", more=True),
            body(b""),
        ],
        [start(503, JSON), body(b'{"error": {}}')],
        [start(500, JSON), body(b'{"error": {}}')],
        [start(200, TEXT), body(b"metrics")],
        [start(204)],
    ],
)
def test_answers_of_the_ingress_are_left_alone(messages: list[Message]):
    assert respond(*messages) == messages


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([], 503),
        ([start(500, TEXT), body(b"Internal Server Error")], 503),
        ([start(503, TEXT), body(b"no replica of the deployment ", more=True), body(b"is up")], 503),
        ([start(429, TEXT), body(b"backpressure")], 429),
    ],
)
def test_a_request_without_an_answer_can_be_tried_again(messages: list[Message], status: int):
    [head, content] = respond(*messages)
    headers = dict(head["headers"])
    assert (head["status"], headers[b"content-type"]) == (status, b"application/json")
    assert int(headers[b"retry-after"]) > 0
    assert json.loads(content["body"])["error"]["code"]


def test_a_stream_that_breaks_off_ends_with_an_error():
    [*passed, last] = respond(start(200, EVENTS), body(b"data: 1\n\n", more=True))
    assert passed == [start(200, EVENTS), body(b"data: 1\n\n", more=True)]
    assert not last["more_body"]
    error, done, _ = last["body"].decode().split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "service_unavailable"
    assert done == "data: [DONE]"


def test_a_whole_answer_that_breaks_off_is_not_completed():
    """Its length is known to the client, who sees that some of it is missing."""
    messages = [start(200, JSON, (b"content-length", b"9")), body(b"{", more=True)]
    assert respond(*messages) == messages


def test_the_environment_names_what_serve_calls():
    module, _, name = ENVIRONMENT["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].rpartition(".")
    made: list[Any] = getattr(importlib.import_module(module), name)()
    from ray.serve._private.http_util import validate_http_proxy_callback_return

    assert validate_http_proxy_callback_return(made) == made
