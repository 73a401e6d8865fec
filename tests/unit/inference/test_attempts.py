"""Attempts without an answer, and probes: what they cost, and what is told while they go on."""

import logging
import time
from typing import Any

import diskcache
import pytest

from safe_r1.errors import BudgetError
from safe_r1.inference import endpoint_attempts
from safe_r1.inference.endpoint_attempts import Outage, is_trouble, may_have_been_paid
from safe_r1.inference.reply_cache import NO_OVERHEAD, Overhead, Reply, ReplyCache
from safe_r1.inference.spending import Spending
from tests.chat_server import Answer, Server, completion
from tests.unit.inference.remote_rows import MemoryJournal, entry_of, request, results

pytestmark = [pytest.mark.timeout(60), pytest.mark.slow]
PRICES: dict[str, Any] = {"input_price": 1e6, "output_price": 1e6}


def replying(content: str) -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    return completion(content) | {"usage": usage}


def test_attempts_that_timed_out_count_with_the_most_that_they_can_have_taken(server: Server):
    def answer(sent: dict[str, Any], call: int) -> Answer:
        if "慢" in sent["messages"][-1]["content"]:
            time.sleep(1.0)
        return 200, replying("答")

    server.on_request = answer
    spending = Spending(entry_of(server, **PRICES))
    slow, quick = results(
        server, [request("慢"), request("快")], spending=spending, timeout_s=0.3, max_retries=2
    )
    assert "no answer within 0.3 s" in (slow["error"] or "")
    assert quick["error"] is None
    # Three bytes a character, and 8 tokens for the turn.
    assert spending.overhead == Overhead(0, 3, 3 * (9 + 8), 3 * 100)
    assert spending.overheads == {"慢": spending.overhead}
    assert spending.cost == 30 + 3 * (9 + 8) + 3 * 100


def test_they_count_for_the_limit(server: Server):
    server.on_request = lambda sent, call: time.sleep(1.0) or (200, replying("答"))
    settings = {**PRICES, "max_cost": 500.0, "timeout_s": 0.2, "max_retries": 1, "concurrency": 1}
    with pytest.raises(BudgetError, match=r"460 spent, 460 of it for probes"):
        results(server, [request(str(number)) for number in range(6)], **settings)
    # Two rows of two attempts, each with at most 15 tokens of the prompt and 100 more.
    assert len(server.requests) == 4


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>login</html>"), (504, b"")])
def test_a_success_that_cannot_be_read_and_a_gateway_that_gave_up_may_have_been_paid(
    server: Server, status: int, body: bytes
):
    server.on_request = lambda sent, call: (status, body)
    spending = Spending(entry_of(server))
    results(server, [request("甲")], spending=spending, max_retries=0, patience_s=0)
    assert spending.overhead.num_unanswered == 1


def test_what_is_refused_or_never_sent_costs_nothing(server: Server):
    server.on_request = lambda sent, call: (429, b"") if call < 3 else (200, replying("答"))
    spending = Spending(entry_of(server))
    [row] = results(server, [request("甲")], spending=spending)
    assert row["error"] is None
    assert spending.overhead == NO_OVERHEAD
    assert not any(map(may_have_been_paid, ("ConnectError", "ConnectTimeout", 200, 400, 429, 500, 503)))
    assert all(map(may_have_been_paid, ("ReadTimeout", "RemoteProtocolError", 408, 504)))
    assert [is_trouble(outcome) for outcome in ("ReadError", 429, 502, 200, 400)] == [
        *(True, True, True),
        *(False, False),
    ]


def test_probes_count(server: Server):
    def answer(sent: dict[str, Any], call: int) -> Answer:
        if "问题" in sent["messages"][-1]["content"]:
            return 400, {"error": {"message": "E-7788 refused"}}
        return 200, replying("是的")

    server.on_request = answer
    spending = Spending(entry_of(server))
    [row] = results(server, [request("甲")], spending=spending)
    assert row["blocked"] == "input"
    assert spending.overhead == Overhead(2, 0, 10, 20)


def test_an_answer_to_the_second_try_of_a_probe_is_the_rows(server: Server):
    server.on_request = lambda sent, call: (
        (400, {"error": {"message": "E-7788 refused"}}) if call == 1 else (200, replying("答"))
    )
    spending = Spending(entry_of(server))
    [row] = results(server, [request("甲")], spending=spending)
    assert (row["parts"], row["error"]) == (("", "答"), None)
    assert (spending.prompt_tokens, spending.overhead.num_probes) == (10, 1)


def test_the_journal_keeps_it(tmp_path: Any, server: Server):
    cache = ReplyCache(tmp_path, "journal")
    with cache.writing() as write:
        write("a", Reply("答", overhead=Overhead(2, 1, 30, 40)))
    with diskcache.Cache(str(tmp_path), disk=diskcache.JSONDisk) as before:
        # As an earlier version wrote it.
        before.set("b", {"text": "答", "finish_reason": "stop"})
    assert cache.read(["a", "b"]) == {
        "a": Reply("答", overhead=Overhead(2, 1, 30, 40)),
        "b": Reply("答", finish_reason="stop"),
    }
    spending = Spending(entry_of(server))
    journal = MemoryJournal()
    journal.replies["甲"] = Reply("答", overhead=Overhead(2, 1, 30, 40))
    results(server, [request("甲")], journal=journal, spending=spending)
    assert spending.overhead == Overhead(2, 1, 30, 40)


def test_an_outage_is_told_at_a_calm_pace(caplog: pytest.LogCaptureFixture):
    now = 0.0
    outage = Outage("endpoint http://host/v1", 600.0, lambda: now)
    with caplog.at_level(logging.WARNING):
        for second in range(130):
            now = float(second)
            outage.failed("ReadTimeout" if second < 100 else 503, 0.5)
        outage.ended()
        now += 5.0
        # One refusal among answers is usual.
        outage.failed(429, 0.5)
        outage.ended()
        outage.failed("ReadTimeout", 600.0)
    first, second, back, late = [record.getMessage() for record in caplog.records]
    assert first.startswith("endpoint http://host/v1: no answer since ")
    assert "(ReadTimeout, 11 attempts)" in first
    assert "given up after 600 s" in first
    assert "(ReadTimeout, 71 attempts)" in second
    assert back == "endpoint http://host/v1: answers again after 130 s"
    assert "(ReadTimeout, 1 attempt)" in late


def test_what_is_told_holds_no_secret(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(endpoint_attempts, "_QUIET_S", 0.0)
    monkeypatch.setenv("SAFE_R1_API_KEY", "sk-very-secret")
    server.on_request = lambda sent, call: (503, b"sk-very-secret") if call < 3 else (200, replying("答"))
    url = server.url.replace("://", "://user:pass-word@")
    with caplog.at_level(logging.WARNING):
        [row] = results(server, [request("甲")], url=url)
    assert row["error"] is None
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert f"endpoint {server.url}: no answer since" in told
    assert "(HTTP 503, 1 attempt)" in told
    assert "answers again" in told
    assert "very-secret" not in told
    assert "pass-word" not in told
