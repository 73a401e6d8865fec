"""Request and response formats of OpenAI's chat and completion routes.

The models answer one dialogue at a time, so tools, images and several choices are rejected by name instead of
being ignored.
"""

import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from safe_r1.models.reasoning import split_reasoning
from safe_r1.models.thinking import ThinkingTags
from safe_r1.schema import Message
from safe_r1.serve.base import Chunk, Generation, SamplingParams
from safe_r1.serve.errors import ApiError
from safe_r1.serve.schemas import Text
from safe_r1.serve.stream import StreamSplitter

Json = dict[str, object]
"""A JSON object of a response."""


class _SamplingRequest(BaseModel):
    """Fields of both generation routes.

    Unknown fields are accepted, since OpenAI's clients send some without effect here, such as ``user``; those
    that would change the answer are rejected by ``reject_unsupported``.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Text | list[Text] | None = Field(default=None)
    stream: bool = False
    stream_options: dict[str, object] | None = None
    n: Literal[1] = 1

    @property
    def stops(self) -> list[str]:
        """Stop strings."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool((self.stream_options or {}).get("include_usage"))

    @property
    def token_limit(self) -> int | None:
        """Maximum number of tokens to generate."""
        return self.max_tokens

    @property
    def params(self) -> SamplingParams:
        """Sampling parameters; a request without a seed gets a random one."""
        # 31 bits, like the seeds of an evaluation's rows.
        seed = uuid.uuid4().int if self.seed is None else self.seed
        return SamplingParams(seed % 2**31, self.token_limit, self.temperature, self.top_p)

    def reject_unsupported(self) -> None:
        """Reject a field that would change the answer if it were supported.

        Raises:
            ApiError: 400 with the field's name.
        """
        extra = self.model_extra or {}
        for name in _UNSUPPORTED & extra.keys():
            if extra[name] not in _NEUTRAL_VALUES:
                raise ApiError(400, "unsupported_parameter", f"{name} is not supported by this service", name)


_UNSUPPORTED = {
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
# Values that ask for the default behaviour, which clients send without being asked to.
_NEUTRAL_VALUES = (None, False, [], {}, 0, "none", {"type": "text"})


class TextPart(BaseModel):
    """A text part of a turn's content."""

    type: Literal["text"]
    text: Text


class ChatTurn(BaseModel):
    """A turn of a dialogue; its content is a text or a list of text parts."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    def to_message(self) -> Message:
        """The turn as the prompt renderer expects it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        # OpenAI renamed the role; no chat template knows the new name.
        return Message(role="system" if self.role == "developer" else self.role, content=text)


class ChatRequest(_SamplingRequest):
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
    def token_limit(self) -> int | None:
        """Maximum number of tokens to generate, under either of its two names."""
        return self.max_tokens or self.max_completion_tokens


class CompletionRequest(_SamplingRequest):
    """``POST /v1/completions``: a text, or token ids, that the model continues without a chat template."""

    prompt: Text | list[Annotated[int, Field(ge=0)]] = Field(min_length=1)


def chat_response(model: str, generation: Generation) -> Json:
    """A whole answer, with the reasoning in ``reasoning_content`` as in the APIs of DeepSeek and vLLM."""
    reasoning, answer = split_reasoning(generation.text, generation.own_tags)
    message = {
        "role": "assistant",
        "content": answer or "",
        "reasoning_content": reasoning or None,
        "refusal": None,
    }
    choice = {"index": 0, "message": message, "finish_reason": generation.finish_reason, "logprobs": None}
    body = _body("chat.completion", model, [choice])
    return body | {"usage": _usage(generation.prompt_tokens, generation.completion_tokens)}


def completion_response(model: str, chunk: Chunk, num_prompt: int) -> Json:
    """A whole continuation."""
    body = _body("text_completion", model, [_text_choice(chunk)], "cmpl")
    return body | {"usage": _usage(num_prompt, chunk.completion_tokens)}


async def with_done_event(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Server-sent events followed by OpenAI's ``[DONE]``; an error on the way becomes the event before it."""
    try:
        async for event in events:
            yield event
    except ApiError as error:
        yield _event(error.body)
    yield "data: [DONE]\n\n"


async def chat_events(
    request: ChatRequest,
    chunks: AsyncIterator[Chunk],
    prefix: str,
    num_prompt: int,
    own_tags: ThinkingTags | None = None,
) -> AsyncIterator[str]:
    """Server-sent events of a streamed answer.

    Args:
        request: The request.
        chunks: The completion.
        prefix: Reasoning prefix of the prompt; if there is one, the completion begins with reasoning.
        num_prompt: Tokens of the prompt.
        own_tags: Tags of the model's thoughts where they are of no known form.
    """
    body = _body("chat.completion.chunk", request.model, [])
    splitter = StreamSplitter(own_tags)
    yield _delta_event(body, {"role": "assistant", "content": ""})
    for delta in _deltas(splitter.feed(prefix)):
        yield _delta_event(body, delta)
    finish_reason = None
    num_tokens = 0
    async for chunk in chunks:
        finish_reason = chunk.finish_reason or finish_reason
        num_tokens = chunk.completion_tokens or num_tokens
        for delta in _deltas(splitter.feed(chunk.text)):
            yield _delta_event(body, delta)
    for delta in _deltas(splitter.finish()):
        yield _delta_event(body, delta)
    yield _delta_event(body, {}, finish_reason or "stop")
    if request.wants_usage:
        yield _usage_event(body, num_prompt, num_tokens)


async def completion_events(
    request: CompletionRequest, chunks: AsyncIterator[Chunk], num_prompt: int
) -> AsyncIterator[str]:
    """Server-sent events of a streamed continuation."""
    body = _body("text_completion", request.model, [], "cmpl")
    num_tokens = 0
    async for chunk in chunks:
        num_tokens = chunk.completion_tokens or num_tokens
        if chunk.text or chunk.finish_reason:
            yield _event(body | {"choices": [_text_choice(chunk)]})
    if request.wants_usage:
        yield _usage_event(body, num_prompt, num_tokens)


def _text_choice(chunk: Chunk) -> Json:
    return {"index": 0, "text": chunk.text, "finish_reason": chunk.finish_reason, "logprobs": None}


def _deltas(parts: tuple[str, str]) -> list[dict[str, str]]:
    reasoning, answer = parts
    named = {"reasoning_content": reasoning, "content": answer}
    return [{name: text} for name, text in named.items() if text]


def _event(body: Mapping[str, object]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _delta_event(body: Json, delta: dict[str, str], finish_reason: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return _event(body | {"choices": [choice]})


def _usage_event(body: Json, num_prompt: int, num_tokens: int) -> str:
    return _event(body | {"choices": [], "usage": _usage(num_prompt, num_tokens)})


def _body(kind: str, model: str, choices: list[Json], prefix: str = "chatcmpl") -> Json:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": choices,
    }


def _usage(num_prompt: int, num_completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt + num_completion,
    }
