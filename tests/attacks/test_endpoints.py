"""Endpoints of models, judges and teachers: servers that stall, flood, lie about types or point elsewhere."""

import contextlib
import gzip
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from safe_r1.config import EndpointConfig
from safe_r1.errors import EndpointError
from safe_r1.inference import endpoint_transport
from safe_r1.inference.endpoint import ChatEndpoint
from safe_r1.inference.endpoint_client import ChatSampling, EndpointClient
from safe_r1.inference.endpoint_reply import Refusal, read_completion
from safe_r1.inference.reply_cache import Reply
from safe_r1.schema import Message
from tests.chat_server import Server, completion

KEY = "planted-key-7"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFE_R1_API_KEY", KEY)


def ask(url: str, timeout_s: float = 20.0, **further: Any) -> Reply:
    """The reply to one call without retries."""
    limits = EndpointConfig(timeout_s=timeout_s, max_retries=0, patience_s=0, **further)
    client = EndpointClient(
        url, "m", limits, title="model", api_key_variable="SAFE_R1_API_KEY", sampling=ChatSampling()
    )
    turns = [Message(role="system", content="x"), Message(role="user", content="问题")]
    return ChatEndpoint(client).complete([(turns, "")])[0]


def error_of(url: str, **limits: Any) -> str:
    """The one line of an endpoint that answers no row."""
    with pytest.raises(EndpointError) as caught:
        ask(url, **limits)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    return str(caught.value)


def answering(server: Server, write: Callable[[Any], None]) -> None:
    """Let a function write the whole answer."""

    def quietly(handler: Any) -> None:
        handler.close_connection = True
        # The caller goes, as it should.
        with contextlib.suppress(OSError):
            write(handler)

    server.on_request = lambda body, call: (200, quietly)


def raw(body: bytes, *headers: str, status: str = "200 OK", length: bool = True) -> Callable[[Any], None]:
    def write(handler: Any) -> None:
        lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers]
        lines += [f"Content-Length: {len(body)}"] if length else ["Connection: close"]
        handler.wfile.write("\r\n".join([*lines, "", ""]).encode() + body)

    return write


def test_a_byte_now_and_then_does_not_hold_a_call_for_ever(server: Server):
    def drip(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        for _ in range(600):
            handler.wfile.write(b" ")
            time.sleep(0.1)

    answering(server, drip)
    began = time.monotonic()
    assert "no answer within 1 s" in error_of(server.url, timeout_s=1.0)
    assert time.monotonic() - began < 30


def test_headers_that_drip_do_not_either(server: Server):
    def drip(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(600):
            handler.wfile.write(f"X-{number}: y\r\n".encode())
            time.sleep(0.1)

    answering(server, drip)
    assert "no answer within 1 s" in error_of(server.url, timeout_s=1.0)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_bomb_is_not_decompressed(server: Server, monkeypatch: pytest.MonkeyPatch, num_layers: int):
    monkeypatch.setattr(endpoint_transport, "MAX_BODY_BYTES", 1 << 20)
    body = b'{"x": "' + bytes(64 << 20)
    for _ in range(num_layers):
        body = gzip.compress(body, 9)
    answering(server, raw(body, f"Content-Encoding: {', '.join(['gzip'] * num_layers)}"))
    tracemalloc.start()
    line = error_of(server.url)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "larger than 1 MiB" in line or "compressed in a way" in line
    assert peak < 16 << 20


def test_a_body_without_end_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(endpoint_transport, "MAX_BODY_BYTES", 1 << 20)

    def flood(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            handler.wfile.write(b"a" * 65536)

    answering(server, flood)
    assert "larger than 1 MiB" in error_of(server.url)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x"])
def test_an_encoding_that_was_not_asked_for_is_refused(server: Server, encoding: str):
    answering(server, raw(b"abc", f"Content-Encoding: {encoding}"))
    assert "compressed in a way" in error_of(server.url)


def test_gzip_that_is_sent_unasked_is_read(server: Server):
    body = gzip.compress(json.dumps(completion("好")).encode())
    answering(server, raw(body, "Content-Encoding: gzip"))
    assert ask(server.url).text == "好"


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
@pytest.mark.parametrize("is_same_host", [True, False])
def test_a_redirect_is_named_and_not_followed(server: Server, status: str, is_same_host: bool):
    other = Server()
    target = (server if is_same_host else other).url.replace("/v1", "/else?token=abcdefgh")
    answering(server, raw(b"", f"Location: {target}", status=status))
    line = error_of(server.url, headers={"x-own-key": "another-secret"})
    other.http.shutdown()
    other.http.server_close()
    assert other.paths == []
    assert server.paths == ["/v1/chat/completions"]
    assert "redirects to http://127.0.0.1" in line
    assert "abcdefgh" not in line


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"null",
        b"[]",
        b'"x"',
        b"9" * 10_000,
        b"\xff\xfe",
        b"<html>",
    ],
)
@pytest.mark.parametrize("status", ["200 OK", "400 x"])
def test_a_body_that_is_no_answer_is_one_line(server: Server, body: bytes, status: str):
    answering(server, raw(body, status=status))
    error_of(server.url)


@pytest.mark.parametrize(
    "models",
    [
        [],
        {},
        {"data": None},
        {"data": [None]},
        {"data": [{"id": 5}]},
        {"data": [{"id": {}}]},
        {"data": "abc"},
        {"data": [{}]},
        {"data": [{"id": ""}]},
    ],
)
def test_a_list_of_models_of_other_types_is_one_line(server: Server, models: Any):
    server.models = models
    with pytest.raises(EndpointError, match=r"name the model|expected exactly one"):
        EndpointClient(
            server.url,
            None,
            EndpointConfig(max_retries=0),
            title="judge",
            api_key_variable="SAFE_R1_API_KEY",
            sampling=ChatSampling(),
        )


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["stop", "12", "content_filter", "\ud800", "error"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
MESSAGE = JSON | st.fixed_dictionaries(
    {}, optional={"role": JSON, "content": JSON, "reasoning_content": JSON, "tool_calls": JSON}
)
CHOICE = JSON | st.fixed_dictionaries(
    {}, optional={"index": JSON, "message": MESSAGE, "finish_reason": JSON, "text": JSON}
)
ANSWER = st.fixed_dictionaries(
    {},
    optional={
        "choices": JSON | st.lists(CHOICE, max_size=2),
        "usage": JSON | st.fixed_dictionaries({"prompt_tokens": JSON, "completion_tokens": JSON}),
        "model": JSON,
        "system_fingerprint": JSON,
        "error": JSON | st.fixed_dictionaries({"code": JSON, "message": JSON, "param": JSON}),
        "base_resp": JSON | st.fixed_dictionaries({"status_code": JSON, "status_msg": JSON}),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(answer=ANSWER)
def test_an_answer_of_any_types_is_a_reply_that_can_be_kept(answer: dict[str, Any]):
    # As the openai library builds it, which checks no type.
    read = read_completion(openai._models.construct_type(type_=ChatCompletion, value=answer), (), str)
    if isinstance(read, Refusal):
        read.text.encode()
        return
    for text in (read.text or "", read.error, read.reasoning, read.partial, read.served_by):
        assert isinstance(text, str)
        text.encode()
    assert read.finish_reason is None or isinstance(read.finish_reason, str)
    for count in (read.prompt_tokens, read.completion_tokens):
        assert type(count) is int
        assert 0 <= count < 2**31
    if read.text:
        assert answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("given_count", "count"), [(7, 7), ("7", 7), (7.0, 7), (True, 0), (-1, 0), (10**30, 0), ("x", 0), ([], 0)]
)
def test_counts_are_numbers_or_unknown(server: Server, given_count: Any, count: int):
    body = completion("好") | {"usage": {"prompt_tokens": given_count, "completion_tokens": 1}}
    server.on_request = lambda _, call: (200, body)
    assert ask(server.url).prompt_tokens == count
