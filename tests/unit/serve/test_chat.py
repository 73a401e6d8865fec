"""Chat completions: choices, log probabilities, formats, tools, and what is refused."""

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from safe_r1.serve.base import ToolCall
from tests.unit.serve.fakes import CHAT, COMPLETION, QUESTION, FakeModel, post

PATH = "/v1/chat/completions"
REASONING, ANSWER = "这是偏见。", "这种说法是偏见，我不能认同。建议多了解当地的情况。"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def ask(body: dict[str, Any], model: FakeModel | None = None) -> dict[str, Any]:
    reply = post(PATH, CHAT | body, models={"demo": model or FakeModel()})
    assert reply.status_code == 200, reply.text
    ChatCompletion.model_validate(reply.json())
    return reply.json()


def stream(body: dict[str, Any], model: FakeModel | None = None) -> list[dict[str, Any]]:
    reply = post(PATH, CHAT | body | {"stream": True}, models={"demo": model or FakeModel()})
    assert reply.status_code == 200, reply.text
    lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    return chunks


def test_several_choices_whole_and_streamed():
    whole = ask({"n": 3})
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in whole["choices"]} == {ANSWER}
    assert whole["usage"]["completion_tokens"] == 3 * len(COMPLETION)
    texts = ["", "", ""]
    reasons: dict[int, str] = {}
    for chunk in stream({"n": 3, "stream_options": {"include_usage": True}}):
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
            if choice["finish_reason"]:
                reasons[choice["index"]] = choice["finish_reason"]
        if not chunk["choices"]:
            assert chunk["usage"]["completion_tokens"] == 3 * len(COMPLETION)
    assert texts == [ANSWER] * 3
    assert reasons == {0: "stop", 1: "stop", 2: "stop"}


def test_each_choice_counts_as_a_request():
    reply = post(PATH, CHAT | {"n": 5}, limits={"requests_per_minute": 4})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "too_many_items")


def test_log_probabilities_are_of_the_answer_and_of_the_thoughts():
    found = ask({"logprobs": True, "top_logprobs": 2})["choices"][0]["logprobs"]
    assert "".join(each["token"] for each in found["content"]) == ANSWER
    assert "".join(each["token"] for each in found["reasoning_content"]).startswith(REASONING)
    assert [len(each["top_logprobs"]) for each in found["content"]] == [2] * len(ANSWER)
    assert bytes(found["content"][0]["bytes"]).decode() == ANSWER[0]
    streamed: dict[str, str] = {"content": "", "reasoning_content": ""}
    for chunk in stream({"logprobs": True}):
        for name, each in (chunk["choices"][0]["logprobs"] or {}).items():
            streamed[name] = streamed.get(name, "") + "".join(token["token"] for token in each or ())
    assert streamed["content"] == ANSWER
    assert streamed["reasoning_content"].startswith(REASONING)
    assert ask({})["choices"][0]["logprobs"] is None


def test_settings_reach_the_engine():
    model = FakeModel()
    stops = [f"停{number}" for number in range(40)]
    ask({"stop": stops, "frequency_penalty": 0.5, "presence_penalty": -1, "seed": 7, "top_k": 9}, model)
    assert model.stops_sent == stops
    assert model.asked.engine_options == {"frequency_penalty": 0.5, "presence_penalty": -1, "top_k": 9}
    assert model.asked.seed == 7
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    ask({"response_format": form}, model)
    assert model.asked.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": schema},
    }
    ask({"response_format": {"type": "text"}, "logprobs": False, "stop": None, "n": None}, model)
    assert model.asked.response_format is None


def test_an_assistant_turn_without_content_is_an_empty_one():
    model = FakeModel()
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}, *CHAT["messages"]]
    ask({"messages": turns}, model)
    assert [turn["content"] for turn in model.messages] == ["a", "", QUESTION]
    assert post(PATH, CHAT | {"messages": [{"role": "user", "content": None}]}).status_code == 400


def test_calls_of_tools_end_a_turn():
    def read_calls(text: str) -> tuple[str, list[ToolCall]]:
        answer, mark, arguments = text.partition("CALL")
        return answer, [ToolCall("call_1", "weather", arguments)] if mark else []

    model = FakeModel('想一想。</think>好的。CALL{"city": "北京"}')
    model.read_calls = read_calls
    choice = ask({"tools": [WEATHER]}, model)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "好的。"
    assert choice["message"]["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": '{"city": "北京"}',
    }
    chunks = [chunk["choices"][0] for chunk in stream({"tools": [WEATHER]}, model)]
    assert "".join(chunk["delta"].get("reasoning_content", "") for chunk in chunks) == "想一想。"
    [calls] = [chunk["delta"]["tool_calls"] for chunk in chunks if "tool_calls" in chunk["delta"]]
    assert (calls[0]["index"], calls[0]["id"]) == (0, "call_1")
    assert chunks[-1]["finish_reason"] == "tool_calls"
    result = [
        *CHAT["messages"],
        {"role": "assistant", "content": None, "tool_calls": choice["message"]["tool_calls"]},
        {"role": "tool", "tool_call_id": "call_1", "content": "晴"},
    ]
    ask({"messages": result, "tools": [WEATHER], "tool_choice": "auto"}, model)
    assert model.tools
    assert [turn["role"] for turn in model.tools.turns] == ["user", "assistant", "tool"]
    ask({"tools": [WEATHER], "tool_choice": "none"}, model)
    assert model.tools is None


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("best_of", 3, "best_of"),
        ("functions", [{"name": "f"}], "functions"),
        ("reasoning_effort", "high", "reasoning_effort"),
        ("guided_json", {"type": "object"}, "guided_json"),
        ("chat_template_kwargs", {"enable_thinking": False}, "chat_template_kwargs"),
        ("store", True, "store"),
        ("top_logprobs", 3, "top_logprobs"),
        ("top_logprobs", 21, "top_logprobs"),
        ("tool_choice", "required", "tool_choice"),
        ("n", 0, "n"),
        ("frequency_penalty", 3, "frequency_penalty"),
        ("logit_bias", {"x": 1}, "logit_bias"),
        ("response_format", {"type": "json_schema"}, "response_format"),
        ("tools", [{"type": "custom", "custom": {"name": "x"}}], "tools.0.type"),
    ],
)
def test_what_is_not_supported_is_named(field: str, value: object, param: str):
    reply = post(PATH, CHAT | {field: value})
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["code"]
    assert error["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"user": "me", "metadata": {"a": "b"}, "service_tier": "auto", "store": False},
        {"logprobs": False, "response_format": {"type": "text"}, "tools": [], "logit_bias": {}},
        {"modalities": ["text"], "reasoning_effort": None, "parallel_tool_calls": True},
    ],
)
def test_what_clients_send_without_being_asked_is_accepted(body: dict[str, Any]):
    ask(body)


def test_completions_have_choices_and_log_probabilities():
    body = {"model": "demo", "prompt": "你好", "n": 2, "logprobs": 1}
    whole = post("/v1/completions", body).json()
    assert [choice["text"] for choice in whole["choices"]] == [COMPLETION] * 2
    found = whole["choices"][1]["logprobs"]
    assert "".join(found["tokens"]) == COMPLETION
    assert found["text_offset"][:3] == [0, 1, 2]
    assert found["top_logprobs"][0] == {COMPLETION[0]: -0.7, "x": -1.0}
    text = post("/v1/completions", body | {"stream": True}).text
    offsets: list[int] = []
    for line in text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                if choice["index"] == 0 and choice["logprobs"]:
                    offsets += choice["logprobs"]["text_offset"]
    assert offsets == list(range(len(COMPLETION)))


def test_a_list_of_one_prompt_is_that_prompt():
    for prompt in ("你好", ["你好"], [[5, 6]]):
        assert post("/v1/completions", {"model": "demo", "prompt": prompt}).status_code == 200
    several = post("/v1/completions", {"model": "demo", "prompt": ["a", "b"]})
    assert (several.status_code, several.json()["error"]["param"]) == (400, "prompt")
