"""Requests recorded from today's clients are answered as they are."""

from typing import Any

import pytest

from tests.openai_requests import RECORDED
from tests.unit.serve.fakes import FakeModel, post

COMPLETION = '想一想。\n</think>\n\n{"a": "x"}'


@pytest.mark.parametrize("name", RECORDED)
def test_what_clients_send_is_answered(name: str):
    path, body = RECORDED[name]["path"], RECORDED[name]["body"]
    reply = post(path, body | {"model": "demo"}, models={"demo": FakeModel(COMPLETION)})
    assert reply.status_code == 200, reply.text
    assert '"error":{' not in reply.text
    if body.get("stream"):
        return
    found: dict[str, Any] = reply.json()
    if "/responses" in path:
        text = found["output"][-1]["content"][0]["text"]
    else:
        choice = found["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    assert text.endswith('{"a": "x"}')
