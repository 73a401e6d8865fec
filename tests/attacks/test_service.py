"""A hostile caller of the service: bodies that stall, are deep or huge, and callers without a key."""

import asyncio
import contextlib
import json
import logging
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_r1.serve import keys as key_files
from safe_r1.serve.config import LimitConfig, ServeConfig
from safe_r1.serve.errors import ApiError
from safe_r1.serve.json_limits import JsonLimits
from safe_r1.serve.routes import create_app
from safe_r1.serve.service import Service
from tests.unit.serve.fakes import CHAT, FakeJudge, FakeModel, RecordingTelemetry, call, make_app, post

KEY = {"Authorization": "Bearer a-secret-of-some-length"}
OTHER_KEY = {"Authorization": "Bearer another-secret-of-length"}
WANTED_CONNECTIONS = 2000
# A client's and a server's end of each, and some for the tests themselves.
NUM_CONNECTIONS = min(WANTED_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 100)
_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_REST = b"Content-Type: application/json\r\nContent-Length: 999\r\n\r\n{"
STALLS = {
    "in the head": _HEAD,
    "without a key": _HEAD + _REST,
    "with a key": _HEAD + b"Authorization: Bearer another-secret-of-length\r\n" + _REST,
}


@pytest.fixture
def keys(tmp_path: Path) -> str:
    file = tmp_path / "keys.toml"
    lines = ("key = 'a-secret-of-some-length'", "[b]", "key = 'another-secret-of-length'")
    limit = "requests_per_minute = 1000000"
    file.write_text("\n".join(["[a]", lines[0], *lines[1:], limit, ""]), "utf-8")
    return str(file)


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[int]:
    """The port of a server of the app, as Serve's proxy runs it, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error", backlog=4096))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.force_exit = server.should_exit = True
        thread.join()


@pytest.mark.parametrize("stall", STALLS)
def test_connections_that_stall_keep_nobody_out(keys: str, stall: str):
    """Health routes and another caller are answered within two seconds."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serving(make_app(api_keys=keys)))
        for _ in range(NUM_CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            connection.sendall(STALLS[stall])
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=2) as client:
            # Answered when all of them have come in.
            client.get("/healthz", timeout=60)
            for path in ("/healthz", "/readyz"):
                assert client.get(path).status_code == 200
            assert client.get("/v1/models", headers=KEY).status_code == 200
            reply = client.post("/v1/chat/completions", json=CHAT, headers=KEY)
            assert reply.status_code == 200, reply.text


async def _request(app: FastAPI, head: dict[bytes, bytes], pieces: list[bytes]) -> tuple[int, Any, int]:
    """Status, body, and how many messages of the request the app has read; after the pieces it stalls."""
    sent: list[Any] = []
    num_read = 0

    async def receive() -> dict[str, object]:
        nonlocal num_read
        num_read += 1
        if num_read > len(pieces):
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": pieces[num_read - 1], "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), *head.items()],
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"]), num_read


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files", "/v1/batches", "/healthz", "/no/such"])
@pytest.mark.parametrize("body", [b"[" * 10**6, b"[" + b"[]," * 10**6 + b"0]", b"\0", b"x"])
def test_a_body_without_a_key_is_not_read(keys: str, tmp_path: Path, path: str, body: bytes):
    app = make_app(api_keys=keys, batches=str(tmp_path / "batches"))

    async def receive() -> dict[str, object]:
        raise AssertionError("read before the key was checked")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "client": ("9.9.9.9", 1),
    }
    for headers in ([], [(b"authorization", b"Bearer \xff\xfe")], [(b"content-length", b"%d" % len(body))]):
        sent.clear()
        asyncio.run(app(scope | {"headers": headers}, receive, send))
        assert sent[0]["status"] == 401
        assert json.loads(sent[1]["body"])["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[" * 10**5, 400, "json_too_deep"),
        (b'{"a":' * 10**5, 400, "json_too_deep"),
        (b"[" + b"[]," * 10**6 + b"0]", 413, "too_many_elements"),
        (b'{"messages": [' + b"0," * 10**6 + b"0]}", 413, "too_many_elements"),
        (json.dumps([0] * 300_000).encode("utf-16"), 400, "invalid_json"),
        (json.dumps("[" * 300_000).encode("utf-32"), 400, "invalid_json"),
        (b"{" + b" " * 2**21 + b"}", 413, "request_too_large"),
        (b"9" * 5000, 400, None),
        (b"\xff" * 1000, 400, None),
        (b'"' * 1001, 400, None),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/safety/evaluate", "/v1/moderations"])
def test_what_costs_too_much_is_refused_before_it_is_parsed(
    path: str, body: bytes, status: int, code: str | None, monkeypatch: pytest.MonkeyPatch
):
    if code:
        monkeypatch.setattr(json, "loads", lambda *arguments, **options: pytest.fail("was parsed"))
    reply = post_bytes(path, body, limits=LimitConfig(body_mib=1 if code == "request_too_large" else 32))
    monkeypatch.undo()
    assert reply.status_code == status
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
    assert code is None or reply.json()["error"]["code"] == code


def post_bytes(path: str, body: bytes, **options: Any) -> httpx.Response:
    sent = {"Content-Type": "application/json"}
    return call(lambda http: http.post(path, content=body, headers=sent), **options)


_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def _depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, dict | list) + max(map(_depth, inner), default=0)


def _size(value: object) -> int:
    """Number of values, with a list that is empty counted as if it had one."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 1 if inner is None else 1 + max(1, sum(map(_size, inner)))


@settings(max_examples=50, deadline=None)
@given(_JSON, st.booleans(), st.integers(1, 7))
def test_depth_and_elements_are_those_of_the_parsed_value(value: object, ascii: bool, step: int):
    """Whatever stands in strings, and wherever the text is cut into pieces."""
    text = json.dumps(value, ensure_ascii=ascii).encode("utf-8", "replace")
    pieces = [text[start : start + step] for start in range(0, len(text), step)]

    def passes(max_elements: int, max_depth: int) -> bool:
        limits = JsonLimits(max_elements, max_depth)
        try:
            for piece in pieces:
                limits.feed(piece)
        except ApiError:
            return False
        return True

    size, depth = _size(value), _depth(value)
    assert passes(size, depth)
    assert not passes(size - 1, depth) or size == 1
    assert depth == 0 or not passes(size, depth - 1)


def test_a_body_that_stalls_is_ended(caplog: pytest.LogCaptureFixture):
    app = make_app(limits=LimitConfig(body_timeout_s=0.1))
    with caplog.at_level(logging.INFO, "safe_r1.audit"):
        status, body, _ = asyncio.run(_request(app, {}, [b"{"]))
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    [line] = [json.loads(each.message) for each in caplog.records if each.name == "safe_r1.audit"]
    assert (line["status"], line["key"], line["refused"]) == (408, "local", "request_timeout")


def test_bodies_are_bounded_in_all(keys: str):
    """One key's large bodies that stall are ended, and not the body of another key."""
    app = make_app(api_keys=keys, limits=LimitConfig(bodies_mib=4))
    mine, others = ({b"authorization": each["Authorization"].encode()} for each in (KEY, OTHER_KEY))

    async def run() -> tuple[list[int], bool]:
        slow = asyncio.create_task(_request(app, mine, [b'"' + b"x" * 1000]))
        await asyncio.sleep(0)
        stalled = [asyncio.create_task(_request(app, others, [b'"' + b"x" * 2**20])) for _ in range(20)]
        done, rest = await asyncio.wait(stalled, timeout=0.5)
        is_alive = not slow.done()
        for task in (slow, *rest):
            task.cancel()
        await asyncio.gather(slow, *rest, return_exceptions=True)
        return [task.result()[0] for task in done], is_alive

    ended, is_alive = asyncio.run(run())
    assert ended == [503] * 17
    assert is_alive


def test_refused_requests_are_in_the_audit_log(keys: str, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "safe_r1.audit"):
        post("/v1/chat/completions", CHAT, api_keys=keys)
        post("/v1/chat/completions", CHAT, {"Content-Length": str(2**30)}, api_keys=keys)
        post("/v1/chat/completions", CHAT, client="9.9.9.9")
    lines = [json.loads(each.message) for each in caplog.records if each.name == "safe_r1.audit"]
    found = [(line["status"], line["refused"]) for line in lines]
    assert found == [(401, "missing_api_key"), (401, "missing_api_key"), (403, "loopback_only")]


@pytest.mark.parametrize("text", [None, "", "[a", "[a]\nkey = 'short'", "密"])
def test_a_revoked_key_ends_with_its_file(keys: str, monkeypatch: pytest.MonkeyPatch, text: str | None):
    """Whatever the new file is like; ``/readyz`` tells the operator, without details."""
    for name in ("_CHECK_INTERVAL_S", "_RETRY_INTERVAL_S"):
        monkeypatch.setattr(key_files, name, 0.0)

    async def use(http: httpx.AsyncClient) -> list[httpx.Response]:
        before = await http.get("/v1/models", headers=KEY)
        Path(keys).unlink() if text is None else Path(keys).write_text(text, "utf-8")
        return [before, await http.get("/v1/models", headers=KEY), await http.get("/readyz")]

    before, after, ready = call(use, api_keys=keys)
    assert (before.status_code, after.status_code, ready.status_code) == (200, 503, 503)
    assert after.json()["error"]["code"] == "keys_unavailable"
    assert "API keys" in ready.text
    assert keys not in ready.text


EVIL = "https://evil.example"


@pytest.mark.parametrize("path", ["/", "/docs", "/v1/models", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "unknown_host"),
        ({"Host": "127.0.0.1.evil.example:8000"}, "unknown_host"),
        ({"Host": "127.0.0.1@evil.example"}, "unknown_host"),
        ({"Host": "[::1"}, "unknown_host"),
        ({"Origin": EVIL}, "unknown_origin"),
        ({"Origin": "null"}, "unknown_origin"),
        ({"Origin": "http://127.0.0.1:3000"}, "unknown_origin"),
        ({"Origin": f"{EVIL}, http://127.0.0.1"}, "unknown_origin"),
    ],
)
def test_pages_of_others_cannot_use_a_local_service(path: str, headers: dict[str, str], code: str):
    """DNS rebinding, and a form or script that posts from another origin."""
    method = "POST" if path.endswith("completions") else "GET"
    reply = call(lambda http: http.request(method, path, headers=headers))
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, code)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "localhost:8000"},
        {"Host": "[::1]:8000", "Origin": "http://[::1]:8000"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "https://app.example"},
    ],
)
def test_own_and_named_origins_use_a_local_service(headers: dict[str, str]):
    reply = post("/v1/chat/completions", CHAT, headers, cors_origins=("https://app.example",))
    assert reply.status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_what_a_form_can_send_is_no_json(kind: str):
    reply = post("/v1/chat/completions", CHAT, {"Content-Type": kind})
    assert reply.status_code == 400


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_need_no_other_file_and_no_frame(path: str):
    reply = call(lambda http: http.get(path))
    policy = reply.headers["content-security-policy"]
    assert {"default-src 'none'", "frame-ancestors 'none'"} <= {part.strip() for part in policy.split(";")}
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", reply.text)
    assert path == "/" or "/v1/safety/evaluate" in reply.text


def test_readiness_without_a_key_asks_the_cluster_once():
    num_asked = 0

    async def find_missing() -> list[str]:
        nonlocal num_asked
        num_asked += 1
        await asyncio.sleep(0.01)
        return ["demo: UNHEALTHY"]

    config = ServeConfig()
    service = Service(config, {"demo": FakeModel()}, FakeJudge(), find_missing, RecordingTelemetry())

    async def ask() -> set[int]:
        transport = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            return {
                each.status_code for each in await asyncio.gather(*(http.get("/readyz") for _ in range(50)))
            }

    assert asyncio.run(ask()) == {503}
    assert num_asked == 1
