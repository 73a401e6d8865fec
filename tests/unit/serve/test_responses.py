"""``/v1/responses``: held against the types of the openai library, whole and streamed."""

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from safe_r1.serve.base import Chunk, ToolCall
from safe_r1.serve.errors import ApiError
from tests.unit.serve.fakes import COMPLETION, QUESTION, FakeModel, post

PATH = "/v1/responses"
BODY: dict[str, Any] = {"model": "demo", "input": QUESTION}
REASONING, ANSWER = "这是偏见。", "这种说法是偏见，我不能认同。建议多了解当地的情况。"
WEATHER: dict[str, Any] = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def ask(body: dict[str, Any], model: FakeModel | None = None) -> Response:
    reply = post(PATH, BODY | body, models={"demo": model or FakeModel()})
    assert reply.status_code == 200, reply.text
    return Response.model_validate(reply.json())


def stream(body: dict[str, Any], model: FakeModel | None = None) -> list[dict[str, Any]]:
    reply = post(PATH, BODY | body | {"stream": True}, models={"demo": model or FakeModel()})
    assert reply.status_code == 200, reply.text
    events: list[dict[str, Any]] = []
    for block in reply.text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert events[-1]["type"] == name.removeprefix("event: ")
        EVENTS.validate_python(events[-1])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def without_ids(item: Any) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in ("id", "created_at")}


def test_thoughts_and_answer_are_items():
    model = FakeModel()
    found = ask({"instructions": "简短。", "max_output_tokens": 50, "temperature": 0.5}, model)
    thoughts, message = cast(Any, found.output)
    assert [part.text for part in thoughts.content] == [REASONING]
    assert found.output_text == ANSWER == message.content[0].text
    assert (found.status, found.incomplete_details, found.store) == ("completed", None, False)  # pyright: ignore[reportAttributeAccessIssue]
    assert found.usage
    assert found.usage.output_tokens == len(COMPLETION)
    assert [turn["role"] for turn in model.messages] == ["system", "user"]
    assert (model.asked.max_tokens, model.asked.temperature) == (50, 0.5)


@pytest.mark.parametrize(
    ("completion", "finish_reason"),
    [(COMPLETION, "stop"), ("想一想", "length"), ("想</think>答", "length"), ("", "stop")],
)
def test_a_stream_ends_with_the_whole_response(completion: str, finish_reason: str):
    model = FakeModel(completion, finish_reason=finish_reason)
    whole = post(PATH, BODY, models={"demo": model}).json()
    events = stream({}, model)
    last = events[-1]["response"]
    assert [without_ids(item) for item in last["output"]] == [without_ids(item) for item in whole["output"]]
    ours = {name: value for name, value in last.items() if name not in ("id", "created_at", "output")}
    assert ours == {name: whole[name] for name in ours}
    status = "incomplete" if finish_reason == "length" else "completed"
    assert (whole["status"], events[-1]["type"]) == (status, f"response.{status}")
    # What the openai library puts together from the events is the same again.
    state = ResponseStreamState(input_tools=[], text_format=omit)
    for event in events:
        state.handle_event(EVENTS.validate_python(event))


def test_events_of_a_stream_come_in_order():
    events = stream({})
    kinds = [event["type"].removeprefix("response.") for event in events]
    in_order = [kind for number, kind in enumerate(kinds) if number == 0 or kinds[number - 1] != kind]
    assert in_order == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == ANSWER
    places = [event["output_index"] for event in events if "output_index" in event]
    assert places == sorted(places)


def test_an_error_on_the_way_ends_the_stream():
    class Broken(FakeModel):
        async def complete(self, *arguments: Any, **options: Any) -> AsyncIterator[Chunk]:
            async for chunk in super().complete(*arguments, **options):
                yield chunk
                raise ApiError(503, "engine_unavailable", "gone")

    events = stream({}, Broken())
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["message"] == "gone"


def test_a_dialogue_of_items_is_sent_on():
    model = FakeModel()
    first = post(PATH, BODY, models={"demo": model}).json()
    items = [{"role": "user", "content": [{"type": "input_text", "text": "你好"}]}, *first["output"]]
    ask({"input": [*items, {"type": "message", "role": "user", "content": QUESTION}]}, model)
    assert [turn["content"] for turn in model.messages] == ["你好", ANSWER, QUESTION]


def test_tools_and_their_results():
    model = FakeModel("想</think>查。")
    model.read_calls = lambda text: (text, [ToolCall("call_1", "weather", "{}")])
    found = post(PATH, BODY | {"tools": [WEATHER]}, models={"demo": model}).json()
    assert [item["type"] for item in found["output"]] == ["reasoning", "message", "function_call"]
    events = stream({"tools": [WEATHER]}, model)
    assert [without_ids(item) for item in events[-1]["response"]["output"]] == [
        without_ids(item) for item in found["output"]
    ]
    kinds = [event["type"] for event in events]
    assert kinds.index("response.function_call_arguments.delta") < kinds.index(
        "response.function_call_arguments.done"
    )
    result = {"type": "function_call_output", "call_id": "call_1", "output": "晴"}
    ask({"input": [{"role": "user", "content": "?"}, *found["output"], result], "tools": [WEATHER]}, model)
    assert model.tools
    turns = cast(Any, model.tools.turns)
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool"]
    assert turns[1]["tool_calls"][0]["function"]["name"] == "weather"
    assert turns[2] == {"role": "tool", "content": "晴", "tool_call_id": "call_1"}


def test_formats_and_log_probabilities():
    model = FakeModel()
    schema = {"type": "object", "properties": {}}
    form = {"type": "json_schema", "name": "a", "schema": schema, "strict": True}
    include = ["message.output_text.logprobs", "reasoning.encrypted_content"]
    found = ask({"text": {"format": form}, "include": include, "top_logprobs": 1}, model)
    assert model.asked.response_format
    assert model.asked.response_format["json_schema"] == {"name": "a", "schema": schema}
    logprobs = cast(Any, found.output[1]).content[0].logprobs
    assert "".join(each.token for each in logprobs) == ANSWER
    assert len(logprobs[0].top_logprobs) == 1


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("store", True, "store"),
        ("previous_response_id", "resp_1", "previous_response_id"),
        ("conversation", "conv_1", "conversation"),
        ("background", True, "background"),
        ("truncation", "auto", "truncation"),
        ("reasoning", {"effort": "high"}, "reasoning.effort"),
        ("prompt", {"id": "p"}, "prompt"),
        ("max_output_tokens", 0, "max_output_tokens"),
        ("tools", [{"type": "web_search"}], "tools.0"),
        ("input", [{"type": "item_reference", "id": "x"}], "input.0"),
        ("input", [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "input.0"),
        ("text", {"format": {"type": "json_schema", "name": "a"}}, "text.format"),
    ],
)
def test_what_is_not_supported_is_named(field: str, value: object, param: str):
    reply = post(PATH, BODY | {field: value})
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (400, "invalid_request_error")
    assert str(error["param"]).startswith(param), error


def test_what_clients_send_without_being_asked_is_accepted():
    settings = {"store": False, "metadata": {}, "truncation": "disabled", "parallel_tool_calls": True}
    clients = {"include": [], "reasoning": {"effort": None, "summary": "auto"}, "tool_choice": "auto"}
    ask(settings | clients | {"text": {"format": {"type": "text"}}, "user": "me", "service_tier": "auto"})
