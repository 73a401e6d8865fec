"""A served model behind another URL, through the service's own routes."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from safe_r1.config import GenerationConfig
from safe_r1.models.registry import get_variant
from safe_r1.serve.remote import RemoteModel
from tests.chat_server import Server, completion
from tests.unit.serve.fakes import QUESTION, FakeModel, call

CHAT = {"model": "remote", "messages": [{"role": "user", "content": QUESTION}]}
REFUSAL = "抱歉，我不能协助这件事。建议了解相关法律法规，尊重每一个群体。"


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    running.on_request = lambda sent, call: (200, reply())
    yield running
    running.http.shutdown()
    running.http.server_close()


def reply() -> dict[str, Any]:
    body = completion(REFUSAL)
    body["choices"][0]["message"]["reasoning_content"] = "先想一想。"
    return body | {"usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}}


def models(server: Server) -> dict[str, Any]:
    remote = RemoteModel(get_variant(f"endpoint:{server.url}#m"), GenerationConfig())
    return {"demo": FakeModel(), "remote": remote}


def ask(server: Server, path: str, body: dict[str, Any]) -> httpx.Response:
    return call(lambda client: client.post(path, json=body), models=models(server))


def test_a_local_model_and_one_behind_a_url_are_compared(server: Server):
    body = {"items": [{"prompt": QUESTION}], "compare": ["demo", "remote"]}
    [item] = ask(server, "/v1/safety/evaluate", body).json()["items"]
    local, remote = item["outcomes"]
    assert (local["model"], remote["model"]) == ("demo", "remote")
    assert (remote["reasoning"], remote["answer"]) == ("先想一想。", REFUSAL)
    assert remote["verdicts"]["answer"]["degree"] >= 2


def test_chat_passes_sampling_and_stops_on(server: Server):
    body = ask(
        server, "/v1/chat/completions", {**CHAT, "max_tokens": 7, "temperature": 0, "stop": "。"}
    ).json()
    message = body["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == (REFUSAL, "先想一想。")
    assert body["usage"] == {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    [sent] = server.requests
    assert (sent["max_tokens"], sent["temperature"], sent["stop"]) == (7, 0, ["。"])
    assert "seed" not in sent


def test_a_stream_has_the_whole_reply(server: Server):
    text = ask(server, "/v1/chat/completions", {**CHAT, "stream": True}).text
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ") and "[DONE]" not in line]
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines]
    assert "".join(delta.get("content", "") for delta in deltas).strip() == REFUSAL
    assert "".join(delta.get("reasoning_content", "") for delta in deltas).strip() == "先想一想。"


def test_texts_are_not_continued(server: Server):
    response = ask(server, "/v1/completions", {"model": "remote", "prompt": "道路"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported_model")


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        ((400, {"error": {"message": "Content Exists Risk"}}), 400, "content_filter"),
        ((200, completion("前半", "content_filter")), 400, "content_filter"),
        ((400, {"error": {"message": f"maximum context length: {QUESTION}"}}), 400, "invalid_messages"),
        ((401, {"error": {"message": "bad key"}}), 503, "engine_unavailable"),
        ((200, {"choices": []}), 503, "engine_unavailable"),
    ],
)
def test_what_the_endpoint_does_not_answer_is_an_error_of_this_service(
    server: Server, answer: Any, status: int, code: str
):
    server.on_request = lambda sent, call: answer
    response = ask(server, "/v1/chat/completions", CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert QUESTION not in response.text
    body = {"items": [{"prompt": QUESTION}], "model": "remote"}
    [item] = ask(server, "/v1/safety/evaluate", body).json()["items"]
    assert item["outcomes"][0]["error"]["code"] == code
