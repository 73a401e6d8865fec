"""Rows of an endpoint: reasoning, parameters, limits, money, and servers that misbehave."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from safe_r1.config import EndpointConfig
from safe_r1.errors import BudgetError, ConfigError, EndpointError
from safe_r1.inference.spending import Spending
from safe_r1.models.endpoint_entry import with_overrides
from tests.chat_server import Answer, Server, completion
from tests.unit.inference.remote_rows import MemoryJournal, entry_of, request, results

# Slow: each waits for back-off, limits of a minute or time-outs, a second or two.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


def replying(content: str | None, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    body = completion(content, finish_reason)
    body["choices"][0]["message"] |= message
    body["usage"] = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    body["system_fingerprint"] = "fp_1"
    return body


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (replying("答", reasoning_content="想"), ("想", "答")),
        (replying("答", reasoning="想"), ("想", "答")),
        (replying("<think>\n想\n</think>\n\n答"), ("想", "答")),
        (replying("想\n</think>\n\n答"), ("想", "答")),
        (replying("答"), ("", "答")),
        (replying("答", reasoning_content=None, reasoning="想"), ("想", "答")),
        # A reasoning that mentions the tag is not split again.
        (replying("答", reasoning_content="标签</think>的用法"), ("标签</think>的用法", "答")),
        # Cut inside the reasoning: there is no answer, which is not an empty one.
        (replying("", "length", reasoning_content="想到一半"), ("想到一半", None)),
        (replying(None, "length", reasoning_content="想到一半"), ("想到一半", None)),
        (replying("<think>\n想到一半", "length"), ("想到一半", None)),
        # A reasoning that the endpoint hides, and that took all tokens.
        (replying("", "length"), ("", None)),
        (replying("", reasoning_content="想"), ("想", "")),
        (replying(""), ("", "")),
    ],
)
def test_reasoning_and_answer_from_whichever_field(
    server: Server, body: dict[str, Any], parts: tuple[str, str]
):
    server.on_request = lambda sent, call: (200, body)
    [row] = results(server, [request("甲")])
    assert row["parts"] == parts
    assert (row["prompt_tokens"], row["completion_tokens"]) == (10, 20)
    assert (row["error"], row["blocked"], row["served_by"]) == (None, None, "judge-model fp_1")


def test_the_dialogue_goes_as_messages_without_stops(server: Server):
    server.on_request = lambda sent, call: (200, replying("答"))
    results(server, [request("甲", max_tokens=77)], extra_body={"enable_thinking": True})
    [sent] = server.requests
    assert sent["messages"] == [{"role": "user", "content": "问题甲"}]
    assert (sent["max_tokens"], sent["seed"], sent["temperature"], sent["top_p"]) == (77, 7, 0.6, 0.95)
    assert sent["enable_thinking"] is True
    assert "stop" not in sent


def test_refused_parameters_are_left_out_after_one_try_and_named(server: Server):
    refused = ("temperature", "seed")

    def answer(sent: dict[str, Any], call: int) -> Answer:
        for name in refused:
            if name in sent:
                return 400, {"error": {"message": f"Unsupported parameter: '{name}'", "param": name}}
        return 200, replying("答")

    server.on_request = answer
    adaptations: dict[str, str] = {}
    rows = results(server, [request(str(number)) for number in range(30)], adaptations=adaptations)
    assert all(row["error"] is None for row in rows)
    assert sorted(adaptations) == sorted(refused)
    # Only what was under way together is asked again.
    assert len(server.requests) <= 30 + 2 * 4


def test_a_model_that_wants_the_other_name_of_max_tokens_gets_it(server: Server):
    def answer(sent: dict[str, Any], call: int) -> Answer:
        if "max_tokens" in sent:
            message = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            return 400, {
                "error": {"message": message, "param": "max_tokens", "code": "unsupported_parameter"}
            }
        return 200, replying("答")

    server.on_request = answer
    assert results(server, [request("甲")])[0]["error"] is None
    assert server.requests[-1]["max_completion_tokens"] == 100


def test_more_tokens_than_the_endpoint_allows_are_cut_to_its_limit(server: Server):
    def answer(sent: dict[str, Any], call: int) -> Answer:
        if sent["max_tokens"] > 8192:
            return 400, {
                "error": {"message": "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"}
            }
        return 200, replying("答")

    server.on_request = answer
    adaptations: dict[str, str] = {}
    assert results(server, [request("甲", 32768)], adaptations=adaptations)[0]["error"] is None
    assert server.requests[-1]["max_tokens"] == 8192
    assert "8192" in adaptations["max_tokens"]


def test_an_answered_row_is_not_paid_again(server: Server):
    server.on_request = lambda sent, call: (200, replying("答"))
    journal = MemoryJournal()
    requests = [request(str(number)) for number in range(10)]
    first = results(server, requests[:6], journal=journal)
    again = results(server, requests, journal=journal)
    assert again[:6] == first
    assert len(server.requests) == 10


def test_a_block_is_not_asked_again_and_a_failure_is(server: Server):
    server.on_request = lambda sent, call: (400, {"error": {"message": "Content Exists Risk"}})
    journal = MemoryJournal()
    results(server, [request("甲")], journal=journal)
    results(server, [request("甲")], journal=journal)
    assert len(server.requests) == 1
    server.on_request = lambda sent, call: (200, {"choices": []}) if call == 2 else (200, replying("答"))
    assert results(server, [request("乙")], journal=journal)[0]["error"]
    assert results(server, [request("乙")], journal=journal)[0]["parts"] == ("", "答")


def test_the_ceiling_falls_with_refusals_and_every_row_is_answered(server: Server):
    def answer(sent: dict[str, Any], call: int) -> Answer:
        time.sleep(0.02)
        if server.in_flight > 2:
            return 429, {"error": {"message": "slow down"}}
        return 200, replying("答")

    server.on_request = answer
    rows = results(server, [request(str(number)) for number in range(40)], concurrency=16, max_retries=3)
    assert all(row["error"] is None for row in rows)


def test_a_storm_of_refusals_is_waited_out(server: Server):
    begin = time.monotonic()

    def answer(sent: dict[str, Any], call: int) -> Answer:
        return (200, replying("答")) if time.monotonic() - begin > 2 else (503, b"<html>busy</html>")

    server.on_request = answer
    requests = [request(str(number)) for number in range(8)]
    rows = results(server, requests, patience_s=120, timeout_s=60, max_retries=0)
    assert [row["error"] for row in rows] == [None] * 8


def test_requests_per_minute_are_kept(server: Server):
    server.on_request = lambda sent, call: (200, replying("答"))
    # A bucket of 60 that refills at one a second: 62 requests take two seconds.
    begin = time.monotonic()
    results(server, [request(str(number)) for number in range(62)], requests_per_minute=60)
    assert time.monotonic() - begin > 1.5


def test_several_urls_and_keys_share_the_rows(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEY_ONE", "one")
    monkeypatch.setenv("KEY_TWO", "two")

    # Nobody is answered before four have asked, two with each key.
    four = threading.Barrier(4)

    def answer(sent: dict[str, Any], call: int) -> Answer:
        four.wait(60)
        return 200, replying("答")

    server.on_request = answer
    results(
        server,
        [request(str(number)) for number in range(40)],
        concurrency=2,
        timeout_s=120,
        api_key_env=("KEY_ONE", "KEY_TWO"),
    )
    assert Counter(server.keys) == {"Bearer one": 20, "Bearer two": 20}
    assert server.most_in_flight == 4


def test_a_lost_url_leaves_its_rows_to_the_others(server: Server):
    server.on_request = lambda sent, call: (200, replying("答"))
    rows = results(server, [request(str(number)) for number in range(20)], url=[server.url, _closed_url()])
    assert all(row["error"] is None for row in rows)


def test_the_job_stops_before_it_costs_more_and_keeps_what_it_has(server: Server):
    server.on_request = lambda sent, call: (200, replying("答"))
    settings: dict[str, Any] = {"input_price": 1e6, "output_price": 1e6, "max_cost": 1000.0}
    spending = Spending(entry_of(server, **settings))
    journal = MemoryJournal()
    requests = [request(str(number), max_tokens=50) for number in range(100)]
    with pytest.raises(BudgetError, match=r"endpoint\.max_cost=1000 reached"):
        results(server, requests, spending=spending, journal=journal, **settings)
    assert spending.cost is not None
    # Each row takes 30 tokens, and may take its prompt and 50.
    assert 900 <= spending.cost <= 1000
    assert len(journal.replies) == len(server.requests) == spending.cost / 30
    with pytest.raises(ConfigError, match="needs prices"):
        with_overrides(entry_of(server), EndpointConfig(max_cost=1.0))


def test_a_limit_is_told_by_the_setting_that_has_it(server: Server):
    server.on_request = lambda sent, call: (200, replying("答"))
    settings: dict[str, Any] = {"input_price": 1e6, "output_price": 1e6, "max_cost": 1.0}
    spending = Spending(entry_of(server, **settings), settings="adaptive.endpoint")
    with pytest.raises(BudgetError, match=r"^adaptive\.endpoint\.max_cost=1 reached"):
        results(server, [request("甲")], spending=spending, **settings)
    with pytest.raises(ConfigError, match=r"set adaptive\.endpoint\.input_price"):
        with_overrides(entry_of(server), EndpointConfig(max_cost=1.0), "adaptive.endpoint")


def test_the_limit_of_cost_holds_without_a_usage(server: Server):
    server.on_request = lambda sent, call: (200, completion("一二三四五六"))
    settings: dict[str, Any] = {"input_price": 1e6, "output_price": 1e6, "max_cost": 1000.0}
    adaptations: dict[str, str] = {}
    with pytest.raises(BudgetError):
        results(server, [request(str(number)) for number in range(200)], adaptations=adaptations, **settings)
    assert "estimated" in adaptations["usage"]


def test_a_negative_usage_costs_nothing_back(server: Server):
    body = replying("答") | {"usage": {"prompt_tokens": -5, "completion_tokens": -7, "total_tokens": -12}}
    server.on_request = lambda sent, call: (200, body)
    [row] = results(server, [request("甲")])
    assert row["prompt_tokens"] > 0
    assert row["completion_tokens"] > 0


def test_half_of_an_emoji_does_not_stop_the_run(server: Server):
    body = replying("bad \ud83d end", reasoning_content="想 \ud83d")
    server.on_request = lambda sent, call: (200, json.dumps(body).encode())
    [row] = results(server, [request("甲")])
    assert row["parts"] == ("想 \ufffd", "bad \ufffd end")
    server.on_request = lambda sent, call: (400, json.dumps({"error": {"message": "x \ud83d"}}).encode())
    [row] = results(server, [request("乙")])
    (row["error"] or "").encode()


def test_a_call_of_a_tool_is_no_empty_answer(server: Server):
    tool = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    server.on_request = lambda sent, call: (200, replying(None, "tool_calls", tool_calls=[tool]))
    [row] = results(server, [request("甲")])
    assert "tool" in (row["error"] or "")


@pytest.mark.parametrize(
    ("kind", "content", "hint"),
    [
        ("text/html", b"<!doctype html><html>", "HTML"),
        ("text/event-stream", b"data: {}", "stream of events"),
        ("application/json", b"{}", "/v1"),
    ],
)
def test_what_is_no_completion_is_named(server: Server, kind: str, content: bytes, hint: str):
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    answer = (0, _raw(head.encode() + content))
    server.on_request = lambda sent, call: answer
    [row] = results(server, [request("甲")])
    assert hint in (row["error"] or "")


def _closed_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def _raw(*chunks: bytes, pause_s: float = 0.0) -> Callable[[BaseHTTPRequestHandler], None]:
    """Writes bytes as they are and closes the connection."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        for chunk in chunks:
            handler.wfile.write(chunk)
            handler.wfile.flush()
            time.sleep(pause_s)
        handler.close_connection = True

    return write


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
_BODY = json.dumps(replying("答"), ensure_ascii=False).encode()
MISBEHAVIOURS: dict[str, Answer] = {
    "429 without a body": (429, b""),
    "429 in HTML": (429, b"<html>slow down</html>"),
    "500": (500, {"error": {"message": "internal"}}),
    "502 in HTML": (502, b"<html><body>Bad Gateway</body></html>"),
    "503 in plain text": (503, b"overloaded"),
    "504": (504, b""),
    "408": (408, {"error": {"message": "timeout"}}),
    "half a body": (0, _raw(_HEAD, _BODY[:20])),
    "headers alone": (0, _raw(_HEAD)),
    "no answer at all": (0, _raw()),
    "not HTTP": (0, _raw(b"SSH-2.0-OpenSSH_9.6\r\n")),
    "a hang": (0, _raw(_HEAD, _BODY[:5], pause_s=3.0)),
    "HTML with 200": (200, b"<html>login</html>"),
    "broken JSON": (200, b'{"id": "x", "choices": [{'),
    "another JSON": (200, {"hello": "world"}),
    "a list": (200, [1, 2, 3]),
    "null": (200, b"null"),
    "no choices": (200, {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": []}),
    "choices without a message": (200, {"id": "x", "model": "m", "choices": [{"index": 0}]}),
    "an error with 200": (200, {"error": {"message": "internal error", "code": 500}}),
    "an interrupted reply": (200, completion("半句", "network_error")),
    "content of another type": (200, completion(None)),
    "a stream": (200, b'data: {"choices": [{"delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n'),
    "an empty body": (200, b""),
    "not UTF-8": (200, b'{"choices": "\xff\xfe"}'),
}
EMPTY_ANSWERS = {"content of another type"}


@pytest.mark.parametrize("kind", MISBEHAVIOURS)
def test_a_server_that_misbehaves_once_in_three_costs_no_other_row(server: Server, kind: str):
    lock = threading.Lock()
    bad = {"问题3", "问题6"}
    seen: Counter[str] = Counter()

    def answer(sent: dict[str, Any], call: int) -> Answer:
        text = sent["messages"][-1]["content"]
        with lock:
            seen[text] += 1
        return MISBEHAVIOURS[kind] if text in bad else (200, replying("答"))

    server.on_request = answer
    requests = [request(str(number)) for number in range(8)]
    rows = results(server, requests, timeout_s=3.0, max_retries=0, patience_s=0.2)
    assert [row["key"] for row in rows] == [each.key for each in requests]
    for row in rows:
        if f"问题{row['key']}" not in bad:
            assert (row["error"], row["parts"]) == (None, ("", "答"))
        elif kind in EMPTY_ANSWERS:
            assert row["parts"] == ("", "")
        else:
            # Named, and without an answer: never an empty one, which would be scored.
            assert row["error"]
            assert row["blocked"] is None


@pytest.mark.parametrize("kind", [name for name in MISBEHAVIOURS if name not in EMPTY_ANSWERS])
def test_a_server_that_only_misbehaves_ends_the_job_in_one_line(server: Server, kind: str):
    server.on_request = lambda sent, call: MISBEHAVIOURS[kind]
    requests = [request(str(number)) for number in range(40)]
    with pytest.raises(EndpointError) as caught:
        results(server, requests, timeout_s=0.3, max_retries=0, patience_s=0.2, concurrency=8)
    assert "\n" not in str(caught.value)
    assert "rows failed in a row" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, {"error": {"message": "Incorrect API key provided"}}, "SAFE_R1_API_KEY"),
        (402, {"error": {"message": "Insufficient Balance"}}, "Insufficient Balance"),
        (404, {"error": {"message": "no such model"}}, "not served here"),
        (429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}, "quota"),
    ],
)
def test_what_concerns_all_rows_ends_the_job_at_once(server: Server, status: int, body: Any, message: str):
    server.on_request = lambda sent, call: (status, body)
    with pytest.raises(EndpointError, match=message):
        results(server, [request(str(number)) for number in range(40)])
    assert len(server.requests) <= 8


def test_no_server_ends_the_job_at_once():
    server = Server()
    server.http.shutdown()
    server.http.server_close()
    begin = time.monotonic()
    with pytest.raises(EndpointError, match="cannot be reached"):
        results(server, [request("甲")], patience_s=60, max_retries=0)
    assert time.monotonic() - begin < 20


def test_a_secret_is_hidden_where_a_message_is_cut(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAFE_R1_API_KEY", "sk-secret-key")
    for length in range(540, 600, 3):
        message = "x" * length + " sk-secret-key ?token=query-secret"
        server.on_request = lambda sent, call, message=message: (400, {"error": {"message": message}})
        url = server.url.replace("http://", "http://user:pass-word@") + "?token=query-secret"
        [row] = results(server, [request("甲")], url=url)
        assert not any(part in (row["error"] or "") for part in ("sk-sec", "query-s", "pass-w"))


def test_a_server_that_repeats_the_key_puts_it_into_no_answer(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAFE_R1_API_KEY", "sk-secret-key")
    server.on_request = lambda sent, call: (
        200,
        replying("key sk-secret-key", reasoning_content="sk-secret-key"),
    )
    [row] = results(server, [request("甲")])
    assert row["parts"] == ("***", "key ***")


def test_the_key_and_headers_are_in_no_message(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAFE_R1_API_KEY", "sk-secret-key")
    body = {"error": {"message": "bad key sk-secret-key and header-secret"}}
    server.on_request = lambda sent, call: (401, body) if call > 1 else (400, body)
    with pytest.raises(EndpointError) as caught:
        results(server, [request("甲"), request("乙")], headers={"X-Token": "header-secret"}, concurrency=1)
    assert "secret" not in str(caught.value)
