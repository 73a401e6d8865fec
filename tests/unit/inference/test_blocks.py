"""What providers' content filters say, as their pages and users' reports quote it, and what is no block.

The sources are named in ``safe_r1.inference.blocks``.
"""

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
DEEPSEEK_BEFORE = {"detail": "Content Exists Risk"}
OPENAI = {
    "error": {
        "message": "Invalid prompt: your prompt was flagged as potentially violating our usage policy. "
        "Please try again with a different prompt: https://platform.openai.com/docs/guides/reasoning",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_prompt",
    }
}
MOONSHOT = {
    "error": {
        "code": 400,
        "message": "The request was rejected because it was considered high risk",
        "param": "prompt",
        "type": "content_filter",
    }
}
ONE_API = {
    "error": {
        "message": "input contains sensitive words: [test] (request id: 20240523152007160608893pVIxONYS)",
        "type": "new_api_error",
        "param": "",
        "code": "sensitive_words_detected",
    }
}


def dashscope(message: str) -> dict[str, Any]:
    fields = {"code": "data_inspection_failed", "param": None, "message": message}
    return {"error": {**fields, "type": "data_inspection_failed"}, "request_id": "deab386b-2562-9a7b"}


def zhipu(role: str) -> dict[str, Any]:
    message = (
        "系统检测到输入或生成内容可能包含不安全或敏感内容，请您避免输入易产生敏感内容的提示语，感谢您的配合。"
    )
    return {"contentFilter": [{"level": 1, "role": role}], "error": {"code": "1301", "message": message}}


def volcengine(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "param": "", "type": "BadRequest"}}


def minimax(message: str) -> dict[str, Any]:
    fields = {"type": "unprocessable_entity_error", "message": message, "http_code": "422"}
    return {"type": "error", "error": fields, "request_id": "x"}


def minimax_status(code: int, message: str) -> dict[str, Any]:
    return {"id": "x", "choices": None, "base_resp": {"status_code": code, "status_msg": message}}


_ARK_INPUT = "The request failed because the input text may contain sensitive information. Request id: 1"
_ARK_OUTPUT = "The request failed because the output text may contain sensitive information. Request id: 1"
_ARK_RISK = "The request could not be processed because the {} text includes sensitive content that violates "


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body", "blocked"),
    [
        (400, AZURE, "input"),
        (400, DEEPSEEK, "input"),
        (400, DEEPSEEK_BEFORE, "input"),
        (400, OPENAI, "input"),
        (400, dashscope("Input data may contain inappropriate content."), "input"),
        (400, dashscope("Output data may contain inappropriate content."), "output"),
        # It leaves open which of the two; nothing was sent.
        (400, dashscope("Input or output data may contain inappropriate content."), "input"),
        (
            400,
            dashscope(
                "<400> InternalError.Algo.DataInspectionFailed: Input text data may contain inappropriate "
            ),
            "input",
        ),
        (
            500,
            {"error": {"message": "<400> InternalError.Algo.DataInspectionFailed: Output data may contain"}},
            "output",
        ),
        (400, zhipu("user"), "input"),
        (400, zhipu("assistant"), "output"),
        (400, MOONSHOT, "input"),
        (400, volcengine("SensitiveContentDetected", _ARK_INPUT), "input"),
        (400, volcengine("SensitiveContentDetected.SevereViolation", _ARK_INPUT), "input"),
        (400, volcengine("InputTextSensitiveContentDetected.PolicyViolation", _ARK_INPUT), "input"),
        (400, volcengine("OutputTextSensitiveContentDetected", _ARK_OUTPUT), "output"),
        (400, volcengine("InputTextRiskDetection", _ARK_RISK.format("input")), "input"),
        (400, volcengine("OutputTextRiskDetection", _ARK_RISK.format("output")), "output"),
        (422, minimax("input new_sensitive (1026)"), "input"),
        (500, minimax("output new_sensitive (1027)"), "output"),
        (200, minimax_status(1026, "input new_sensitive"), "input"),
        (200, minimax_status(1027, "output new_sensitive"), "output"),
        (400, ONE_API, "input"),
    ],
)
def test_a_providers_error_is_a_block_and_no_failure(
    server: Server, status: int, body: dict[str, Any], blocked: str
):
    server.on_request = lambda sent, call: (status, body)
    [row] = results(server, [request("甲")], max_retries=0)
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
        (400, "ContentSecurityDetectionError", "Internal error. CSDcode: 1"),
        (400, "1210", "API 调用参数有误，请检查文档。"),
    ],
)
def test_errors_of_other_kinds_are_no_blocks(status: int, code: str, text: str):
    assert block_in_error(status, [code], text, {}) is None


def test_a_code_means_a_block_whatever_the_status():
    assert block_in_error(429, ["1301"], "", {}) == "input"
    assert block_in_error(500, ["content_filter"], "the output content was filtered", {}) == "output"


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
    block_in_error(400, [""], "content " * 100_000, {})
    without_appended_refusal("a " * 1_000_000)
    assert time.perf_counter() - begin < 2
