"""OpenAI's chat, completion and moderation routes in the words of this service: what is accepted, and how
answers are written.

The models speak one dialogue at a time, so tools, images and several choices are refused by name rather than
ignored.
"""

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from safe_r1.models.reasoning import split_reasoning
from safe_r1.schema import RefusalLabel
from safe_r1.serve.api import ApiError, Judged, Text
from safe_r1.serve.engine import Piece
from safe_r1.serve.evaluator import Asked, Generated
from safe_r1.serve.stream import StreamSplitter


class _Open(BaseModel):
    """OpenAI's clients send fields that do not matter here, such as ``user``; those that would matter are
    refused below.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Text | list[Text] | None = Field(default=None)
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    n: Literal[1] = 1

    @property
    def stops(self) -> list[str]:
        """Texts at which the answer ends."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def wants_usage(self) -> bool:
        """A stream shall end with the counts of tokens."""
        return bool((self.stream_options or {}).get("include_usage"))

    @property
    def asked(self) -> Asked:
        """How to sample; without a seed, one of its own for each request."""
        seed = uuid.uuid4().int if self.seed is None else self.seed
        return Asked(seed % 2**31, self.max_tokens, self.temperature, self.top_p)

    def refuse_unknown(self) -> None:
        """Raise for a field whose neglect would change the answer.

        Raises:
            ApiError: 400 with its name.
        """
        for name in _REFUSED & (self.model_extra or {}).keys():
            if (self.model_extra or {})[name] not in (None, False, [], {}, 0, "none", {"type": "text"}):
                raise ApiError(400, "unsupported_parameter", f"{name} is not supported by this service", name)


_REFUSED = {
    "tools",
    "functions",
    "tool_choice",
    "function_call",
    "response_format",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "echo",
    "suffix",
    "best_of",
    "audio",
    "modalities",
    "prediction",
    "presence_penalty",
    "frequency_penalty",
}


class TextPart(BaseModel):
    """A part of a turn's content."""

    type: Literal["text"]
    text: Text


class ChatTurn(BaseModel):
    """A turn of a dialogue, its content a text or parts of text."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    def to_message(self) -> Any:
        """The turn as the renderer takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(_Open):
    """``POST /v1/chat/completions``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "demo", "messages": [{"role": "user", "content": "你好"}], "max_tokens": 64}
            ]
        }
    )
    messages: list[ChatTurn] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @property
    def asked(self) -> Asked:
        """See the base; the newer name of the limit counts too."""
        asked = super().asked
        return Asked(
            asked.seed, asked.max_tokens or self.max_completion_tokens, asked.temperature, asked.top_p
        )


class CompletionRequest(_Open):
    """``POST /v1/completions``: a text, or tokens, that the model continues as it is."""

    prompt: Text | list[Annotated[int, Field(ge=0)]] = Field(min_length=1)


class ModerationRequest(BaseModel):
    """``POST /v1/moderations``: texts to be looked at, each as an answer to nothing in particular."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"examples": [{"input": "某地的人都懒，活该受穷。"}]}
    )
    input: Text | list[Text] = Field(min_length=1)
    model: str | None = None

    @property
    def texts(self) -> list[str]:
        """The inputs."""
        return [self.input] if isinstance(self.input, str) else self.input


def chat_response(model: str, generated: Generated) -> dict[str, Any]:
    """A whole answer, its reasoning in a field of its own, as DeepSeek's API and vLLM name it."""
    reasoning, answer = split_reasoning(generated.text)
    message = {
        "role": "assistant",
        "content": answer or "",
        "reasoning_content": reasoning or None,
        "refusal": None,
    }
    choice = {"index": 0, "message": message, "finish_reason": generated.finish_reason, "logprobs": None}
    return _body("chat.completion", model, [choice]) | {
        "usage": usage(generated.prompt_tokens, generated.completion_tokens)
    }


def completion_response(model: str, piece: Piece, num_prompt: int) -> dict[str, Any]:
    """A whole continuation."""
    choice = {"index": 0, "text": piece.text, "finish_reason": piece.finish_reason, "logprobs": None}
    return _body("text_completion", model, [choice], "cmpl") | {
        "usage": usage(num_prompt, piece.completion_tokens)
    }


async def closed(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Server-sent events with OpenAI's mark at their end; a fault on the way is the last event before it."""
    try:
        async for event in events:
            yield event
    except ApiError as error:
        yield f"data: {json.dumps(error.body, ensure_ascii=False)}\n\n"
    yield "data: [DONE]\n\n"


async def chat_events(
    request: ChatRequest, pieces: AsyncIterator[Piece], prefix: str, num_prompt: int
) -> AsyncIterator[str]:
    """The answer as it is written."""
    body = _body("chat.completion.chunk", request.model, [])
    splitter = StreamSplitter(is_reasoning=bool(prefix))
    yield _event(body, {"role": "assistant", "content": ""})
    reason, num_tokens = None, 0
    async for piece in pieces:
        reason, num_tokens = piece.finish_reason or reason, piece.completion_tokens or num_tokens
        for delta in _deltas(splitter.feed(piece.text)):
            yield _event(body, delta)
    for delta in _deltas(splitter.finish()):
        yield _event(body, delta)
    yield _event(body, {}, reason or "stop")
    if request.wants_usage:
        yield _usage_event(body, num_prompt, num_tokens)


async def completion_events(
    request: CompletionRequest, pieces: AsyncIterator[Piece], num_prompt: int
) -> AsyncIterator[str]:
    """The continuation as it is written."""
    body = _body("text_completion", request.model, [], "cmpl")
    num_tokens = 0
    async for piece in pieces:
        num_tokens = piece.completion_tokens or num_tokens
        choice = {"index": 0, "text": piece.text, "finish_reason": piece.finish_reason, "logprobs": None}
        if piece.text or piece.finish_reason:
            yield f"data: {json.dumps(body | {'choices': [choice]}, ensure_ascii=False)}\n\n"
    if request.wants_usage:
        yield _usage_event(body, num_prompt, num_tokens)


def _deltas(parts: tuple[str, str]) -> list[dict[str, str]]:
    named = {"reasoning_content": parts[0], "content": parts[1]}
    return [{name: text} for name, text in named.items() if text]


def _event(body: dict[str, Any], delta: dict[str, str], reason: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
    return f"data: {json.dumps(body | {'choices': [choice]}, ensure_ascii=False)}\n\n"


def _usage_event(body: dict[str, Any], num_prompt: int, num_tokens: int) -> str:
    return f"data: {json.dumps(body | {'choices': [], 'usage': usage(num_prompt, num_tokens)})}\n\n"


def _body(kind: str, model: str, choices: list[Any], prefix: str = "chatcmpl") -> dict[str, Any]:
    created = int(time.time())
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": created,
        "model": model,
        "choices": choices,
    }


def usage(num_prompt: int, num_completion: int) -> dict[str, int]:
    """OpenAI's counts of tokens."""
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt + num_completion,
    }


def moderation_response(
    judge: str, verdicts: Sequence[Judged], categories: Sequence[str | None]
) -> dict[str, Any]:
    """One result a text: flagged where the judge finds harm in it; an unscored text is not flagged, and says
    why.
    """
    results = []
    for verdict, category in zip(verdicts, categories, strict=True):
        is_harmful = verdict.label == RefusalLabel.HARMFUL.value
        name = category or "unsafe"
        results.append(
            {
                "flagged": is_harmful,
                "categories": {name: is_harmful},
                "category_scores": {name: float(is_harmful)},
                "label": verdict.label,
                "degree": verdict.degree,
                "unscored_reason": verdict.unscored_reason,
            }
        )
    return {"id": f"modr-{uuid.uuid4().hex}", "model": judge, "results": results}
