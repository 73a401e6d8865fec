"""Errors that arrive as HTTP 200: codes of MiniMax, and replies that a provider could not finish."""

from typing import Any

import pytest

from safe_r1.errors import EndpointError
from safe_r1.inference.reply_cache import NO_OVERHEAD
from safe_r1.inference.spending import Spending
from tests.chat_server import Answer, Server, completion
from tests.unit.inference.remote_rows import entry_of, request, results

pytestmark = pytest.mark.slow


def minimax(code: int, message: str) -> Answer:
    """As MiniMax answers whatever happened."""
    status = {"status_code": code, "status_msg": message}
    return 200, {
        "id": "04b1",
        "created": 1760000000,
        "model": "MiniMax-M2",
        "choices": None,
        "base_resp": status,
    }


def interrupted(finish_reason: str) -> Answer:
    """Half a reply, as Zhipu sends it."""
    return 200, completion("第一步是准备", finish_reason)


def once(bad: Answer, server: Server) -> None:
    """Has a server answer this to the first request, and well to the others."""
    server.on_request = lambda sent, call: bad if call == 1 else (200, completion("答"))


@pytest.mark.parametrize(
    "bad",
    [
        interrupted("network_error"),
        interrupted("insufficient_system_resource"),
        interrupted("error"),
        minimax(1000, "unknown error, please try again later"),
        minimax(1001, "request timeout, please try again later"),
        minimax(1002, "rate limit, please try again later"),
        minimax(1039, "token limit, please try again later"),
        minimax(2045, "rate growth limit, please try again later"),
    ],
    ids=str,
)
def test_what_may_succeed_later_is_sent_again(server: Server, bad: Answer):
    once(bad, server)
    [row] = results(server, [request("甲")])
    assert (row["error"], row["parts"]) == (None, ("", "答"))
    assert len(server.requests) == 2


def test_a_reply_that_is_always_interrupted_is_a_failed_row_and_no_answer(server: Server):
    server.on_request = lambda sent, call: (
        interrupted("network_error") if "甲" in sent["messages"][-1]["content"] else (200, completion("答"))
    )
    bad, good = results(server, [request("甲"), request("乙")], patience_s=0.1)
    assert (bad["text"], bad["finish_reason"]) == ("", None)
    assert "network_error" in (bad["error"] or "")
    assert good["parts"] == ("", "答")


def test_only_what_was_worked_on_may_have_been_paid(server: Server):
    for bad, num_unanswered in ((minimax(1002, "rate limit"), 0), (interrupted("network_error"), 1)):
        server.requests.clear()
        once(bad, server)
        spending = Spending(entry_of(server))
        results(server, [request("甲")], spending=spending)
        assert spending.overhead.num_unanswered == num_unanswered
        assert (spending.overhead == NO_OVERHEAD) == (num_unanswered == 0)


@pytest.mark.parametrize(
    ("code", "message"), [(1004, "not authorized"), (1008, "insufficient balance"), (2049, "invalid api key")]
)
def test_what_concerns_all_rows_ends_the_job_at_once(server: Server, code: int, message: str):
    server.on_request = lambda sent, call: minimax(code, message)
    with pytest.raises(EndpointError, match=f"{code} {message}"):
        results(server, [request(str(number)) for number in range(40)])
    assert len(server.requests) <= 8


@pytest.mark.parametrize("answer", [minimax(2013, "invalid params"), minimax(0, ""), minimax(9999, "?")])
def test_other_codes_are_as_before(server: Server, answer: Any):
    if answer[1]["base_resp"]["status_code"] == 0:
        answer = (200, completion("答") | {"base_resp": {"status_code": 0, "status_msg": ""}})
    server.on_request = lambda sent, call: answer
    [row] = results(server, [request("甲")], max_retries=0)
    assert bool(row["error"]) == bool(answer[1]["base_resp"]["status_code"])
    assert row["blocked"] is None
    assert len(server.requests) == 1
