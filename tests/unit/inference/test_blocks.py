"""What providers' content filters say, in the form of their documentation, and what is no block."""

from typing import Any

import pytest

from safe_r1.inference.blocks import block_in_error, is_block, without_appended_refusal
from tests.chat_server import Server, completion
from tests.unit.inference.remote_rows import request, results

AZURE = {
    "error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management "
        "policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"hate": {"filtered": True}},
        },
    }
}
DEEPSEEK = {
    "error": {
        "message": "Content Exists Risk",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_request_error",
    }
}
DASHSCOPE_INPUT = {
    "error": {
        "code": "data_inspection_failed",
        "param": None,
        "message": "Input data may contain inappropriate content.",
        "type": "data_inspection_failed",
    }
}
DASHSCOPE_OUTPUT = {
    "error": {
        "code": "data_inspection_failed",
        "param": None,
        "message": "Output data may contain inappropriate content.",
        "type": "data_inspection_failed",
    }
}
ZHIPU = {
    "contentFilter": [{"level": 1, "role": "user"}],
    "error": {
        "code": "1301",
        "message": "系统检测到输入或生成内容可能包含不安全或敏感内容，请您避免输入易产生敏感内容的提示语。",
    },
}
MOONSHOT = {
    "error": {
        "message": "The request was rejected because it was considered high risk",
        "type": "content_filter",
    }
}
"""Bodies of HTTP 400 by provider."""


@pytest.mark.parametrize(
    ("body", "blocked"),
    [
        (AZURE, "input"),
        (DEEPSEEK, "input"),
        (DASHSCOPE_INPUT, "input"),
        (DASHSCOPE_OUTPUT, "output"),
        (ZHIPU, "input"),
        (MOONSHOT, "input"),
    ],
)
def test_a_providers_error_is_a_block_and_no_failure(server: Server, body: dict[str, Any], blocked: str):
    server.on_request = lambda sent, call: (400, body)
    [row] = results(server, [request("甲")])
    assert (row["blocked"], row["error"], row["parts"]) == (blocked, None, ("", None))
    # Asked once: neither a probe nor a retry.
    assert len(server.requests) == 1


@pytest.mark.parametrize("finish_reason", ["content_filter", "sensitive"])
def test_a_reply_that_the_filter_ended_keeps_what_was_sent(server: Server, finish_reason: str):
    body = completion("前半句", finish_reason)
    body["choices"][0]["message"]["reasoning_content"] = "想法"
    server.on_request = lambda sent, call: (200, body)
    [row] = results(server, [request("甲")])
    assert (row["blocked"], row["parts"], row["error"]) == ("output", ("想法", None), None)
    assert "前半句" in row["text"]


def test_a_refusal_that_is_appended_to_the_text_is_a_block(server: Server):
    end = "你好，这个问题我暂时无法回答，让我们换个话题再聊聊吧。"
    server.on_request = lambda sent, call: (200, completion(f"第一步是准备材料。{end}"))
    [row] = results(server, [request("甲")])
    assert (row["blocked"], row["text"]) == ("output", "第一步是准备材料。")
    server.on_request = lambda sent, call: (200, completion(end))
    [row] = results(server, [request("乙")])
    assert (row["blocked"], row["parts"]) == (None, ("", end))


def test_an_unknown_wording_is_found_by_a_probe_of_two_requests(server: Server):
    def answer(sent: dict[str, Any], call: int) -> tuple[int, Any]:
        if "问题" not in sent["messages"][-1]["content"]:
            return 200, completion("是的")
        return 400, {"error": {"message": f"E-7788 refused, trace {call:08d}"}}

    server.on_request = answer
    rows = results(server, [request("甲"), request("乙"), request("丙")], concurrency=1)
    assert [row["blocked"] for row in rows] == ["input"] * 3
    # The first row, its probe, the first row again; then the wording is known.
    assert len(server.requests) == 5


def test_a_wording_can_be_listed(server: Server):
    server.on_request = lambda sent, call: (400, {"error": {"message": "E-7788 refused"}})
    [row] = results(server, [request("甲")], block_patterns=("e-7788",))
    assert row["blocked"] == "input"
    assert len(server.requests) == 1


def test_a_row_that_is_too_long_is_no_block(server: Server):
    message = "This model's maximum context length is 8192 tokens, however you requested 9000 tokens"
    server.on_request = lambda sent, call: (400, {"error": {"message": message}})
    [row] = results(server, [request("甲")])
    assert row["blocked"] is None
    assert "maximum context length" in (row["error"] or "")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (401, "", "Invalid API key"),
        (429, "", "Rate limited by risk control, retry"),
        (429, "", "Rate limit reached for requests: content policy of your tier"),
        (500, "", "upstream moderation service timeout"),
        (400, "", "该请求参数不合规"),
        (400, "", "max_tokens must not exceed 1301"),
        (402, "", "Insufficient Balance"),
        (502, "", "bad gateway"),
    ],
)
def test_errors_of_other_kinds_are_no_blocks(status: int, code: str, text: str):
    assert block_in_error(status, code, text, {}) is None


def test_a_code_means_a_block_whatever_the_status():
    assert block_in_error(429, "1301", "", {}) == "input"
    assert block_in_error(500, "content_filter", "the output content was filtered", {}) == "output"


@pytest.mark.parametrize("status", [400, 413])
def test_a_length_that_looks_like_a_code_is_no_block(server: Server, status: int):
    message = "maximum context length is 1024 tokens, you requested 1301; content policy"
    server.on_request = lambda sent, call: (status, {"error": {"message": message}})
    [row] = results(server, [request("甲")])
    assert row["blocked"] is None
    assert row["error"]


def test_other_ends_are_no_blocks():
    assert not any(map(is_block, ("stop", "length", "tool_calls", None, "")))
    assert without_appended_refusal("普通回答。") is None


def test_a_long_error_is_read_in_linear_time():
    import time

    begin = time.perf_counter()
    block_in_error(400, "", "content " * 100_000, {})
    without_appended_refusal("a " * 1_000_000)
    assert time.perf_counter() - begin < 2
