"""Invalid requests get an error of OpenAI's form that quotes nothing, and affect no other item."""

from typing import Any

import pytest

from tests.unit.serve.fakes import CHAT, QUESTION, post

HALF = '"\\ud83d"'


def test_an_unpaired_surrogate_is_an_error_of_its_item_only():
    bad = f'{{"prompt": "q", "answer": {HALF}}}'
    good = '{"prompt": "q", "answer": "这是偏见，我不能认同。"}'
    items = f'{{"items": [{bad}, {good}]}}'
    outcomes = [item["outcomes"][0] for item in post("/v1/safety/evaluate", items).json()["items"]]
    assert [outcome["error"] and outcome["error"]["code"] for outcome in outcomes] == ["invalid_item", None]
    assert "event: summary" in post("/v1/safety/evaluate", items[:-1] + ', "stream": true}').text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", f'{{"model": "demo", "messages": [{{"role": "user", "content": {HALF}}}]}}'),
        ("completions", f'{{"model": "demo", "prompt": {HALF}}}'),
        ("completions", f'{{"model": "demo", "prompt": "x", "stop": [{HALF}]}}'),
        ("completions", '{"model": "demo", "prompt": [-1]}'),
        ("moderations", f'{{"input": [{HALF}]}}'),
    ],
)
def test_invalid_text_is_rejected(path: str, body: str):
    reply = post(f"/v1/{path}", body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/chat/completions", CHAT | {"model": "gpt"}, 404, "model_not_found"),
        ("/v1/chat/completions", "{", 400, "invalid_json"),
        ("/v1/chat/completions", {"model": "demo"}, 400, "invalid_request"),
        ("/v1/chat/completions", CHAT | {"max_tokens": "many"}, 400, "invalid_request"),
        ("/v1/chat/completions", CHAT | {"tools": [{"type": "function"}]}, 400, "invalid_request"),
        ("/v1/chat/completions", CHAT | {"best_of": 2}, 400, "unsupported_parameter"),
        (
            "/v1/chat/completions",
            {"model": "demo", "messages": [{"role": "user", "content": "长" * 200}]},
            400,
            "context_length_exceeded",
        ),
        ("/v1/chat/completions", {"model": "demo", "messages": []}, 400, "invalid_request"),
        ("/v1/completions", {"model": "demo", "prompt": "长" * 300}, 400, "context_length_exceeded"),
        ("/v1/safety/evaluate", {"items": [{"prompt": "x"}] * 1001}, 400, "invalid_request"),
        (
            "/v1/safety/evaluate",
            {"items": [{"prompt": "x"}], "compare": ["demo", "other"]},
            404,
            "model_not_found",
        ),
        ("/v1/moderations", {"input": ["x"] * 1001}, 400, "too_many_items"),
        ("/v1/nothing", {}, 404, "not_found"),
        ("/v1/models", {}, 405, "method_not_allowed"),
    ],
)
def test_errors_have_openais_form_and_quote_nothing(path: str, body: Any, status: int, code: str):
    response = post(path, body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["type"]
    assert "长长" not in response.text


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"model": "demo", "prompt": [-1]}, "prompt.0"),
        ("/v1/moderations", {"input": 3}, "input"),
        ("/v1/chat/completions", {"model": "demo", "messages": [{"role": "user"}]}, "messages.0.content"),
        ("/v1/chat/completions", {"messages": []}, "model"),
        ("/v1/chat/completions", [], None),
    ],
)
def test_the_param_of_an_error_is_the_name_of_the_field(path: str, body: Any, param: str | None):
    assert post(path, body).json()["error"]["param"] == param


def test_an_unknown_model_is_answered_with_the_known_ones():
    message = post("/v1/chat/completions", CHAT | {"model": "gpt"}).json()["error"]["message"]
    assert "demo" in message
    assert QUESTION not in message
