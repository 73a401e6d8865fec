"""Response formats of OpenAI's chat and completion routes, whole and streamed."""

import time
import uuid
from collections.abc import AsyncIterator, Sequence

from safe_r1.serve.answers import (
    Answer,
    CountTokens,
    Delta,
    call_body,
    chat_logprobs,
    completion_logprobs,
    count_reasoning,
    read_deltas,
    to_json,
)
from safe_r1.serve.base import ChatReply, Chunk
from safe_r1.serve.chat_request import ChatRequest, CompletionRequest
from safe_r1.serve.errors import ApiError

Json = dict[str, object]
"""A JSON object of a response."""


def chat_response(model: str, answers: Sequence[Answer], usage: Json) -> Json:
    """Whole answers, with the reasoning in ``reasoning_content`` as in the API of DeepSeek, and in
    ``reasoning`` as in that of vLLM.
    """
    choices = [_chat_choice(answer) for answer in answers]
    return _body("chat.completion", model, choices) | {"usage": usage}


def _chat_choice(answer: Answer) -> Json:
    message: Json = {
        "role": "assistant",
        "content": answer.text if answer.text or not answer.calls else None,
        "reasoning_content": answer.reasoning or None,
        "reasoning": answer.reasoning or None,
        "refusal": None,
    }
    if answer.calls:
        message["tool_calls"] = [call_body(call) for call in answer.calls]
    return {
        "index": answer.index,
        "message": message,
        "finish_reason": answer.finish_reason,
        "logprobs": _logprobs(answer),
    }


def _logprobs(part: Answer | Delta) -> Json | None:
    """Log probabilities, those of the thoughts by themselves, as in the API of DeepSeek."""
    if not part.logprobs and not part.thought_logprobs:
        return None
    found: Json = {"content": chat_logprobs(part.logprobs), "refusal": None}
    if part.thought_logprobs:
        found["reasoning_content"] = chat_logprobs(part.thought_logprobs)
    return found


def completion_response(model: str, chunks: Sequence[Chunk], usage: Json) -> Json:
    """Whole continuations."""
    body = _body("text_completion", model, [_text_choice(chunk) for chunk in chunks], "cmpl")
    return body | {"usage": usage}


async def with_done_event(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Server-sent events followed by OpenAI's ``[DONE]``; an error on the way becomes the event before it."""
    try:
        async for event in events:
            yield event
    except ApiError as error:
        yield _event({**error.body})
    yield "data: [DONE]\n\n"


async def chat_events(
    request: ChatRequest, reply: ChatReply, count_tokens: CountTokens | None
) -> AsyncIterator[str]:
    """Server-sent events of a streamed answer."""
    body = _body("chat.completion.chunk", request.model, [])
    for index in range(request.num_choices):
        yield _delta_event(body, index, {"role": "assistant", "content": ""})
    num_tokens = 0
    thoughts = [""] * request.num_choices
    async for delta in read_deltas(reply, request.num_choices):
        num_tokens = max(num_tokens, delta.num_tokens)
        thoughts[delta.index] += delta.reasoning
        for event in _delta_events(body, delta):
            yield event
    if request.wants_usage:
        num_reasoning = await count_reasoning(thoughts, num_tokens, count_tokens)
        yield _usage_event(body, usage_body(reply.num_prompt, num_tokens, num_reasoning))


def _delta_events(body: Json, delta: Delta) -> list[str]:
    """The events of one delta; its log probabilities go with the first of them."""
    parts: list[Json] = []
    if delta.reasoning:
        parts.append({"reasoning_content": delta.reasoning, "reasoning": delta.reasoning})
    if delta.answer:
        parts.append({"content": delta.answer})
    if delta.calls:
        calls = [{"index": place} | call_body(call) for place, call in enumerate(delta.calls)]
        parts.append({"tool_calls": calls})
    logprobs = _logprobs(delta)
    if logprobs and not parts:
        parts.append({"content": ""})
    events = [
        _delta_event(body, delta.index, part, logprobs=logprobs if number == 0 else None)
        for number, part in enumerate(parts)
    ]
    if delta.finish_reason:
        events.append(_delta_event(body, delta.index, {}, delta.finish_reason))
    return events


async def completion_events(
    request: CompletionRequest, chunks: AsyncIterator[Chunk], num_prompt: int
) -> AsyncIterator[str]:
    """Server-sent events of a streamed continuation."""
    body = _body("text_completion", request.model, [], "cmpl")
    num_tokens = 0
    offsets = [0] * request.num_choices
    async for chunk in chunks:
        num_tokens = max(num_tokens, chunk.completion_tokens)
        if chunk.text or chunk.finish_reason or chunk.logprobs:
            yield _event(body | {"choices": [_text_choice(chunk, offsets[chunk.index])]})
        offsets[chunk.index] += sum(len(each.token) for each in chunk.logprobs)
    if request.wants_usage:
        yield _usage_event(body, usage_body(num_prompt, num_tokens))


def _text_choice(chunk: Chunk, offset: int = 0) -> Json:
    logprobs = completion_logprobs(chunk.logprobs, offset) if chunk.logprobs else None
    return {
        "index": chunk.index,
        "text": chunk.text,
        "finish_reason": chunk.finish_reason,
        "logprobs": logprobs,
    }


def _event(body: Json) -> str:
    return f"data: {to_json(body)}\n\n"


def _delta_event(
    body: Json, index: int, delta: Json, finish_reason: str | None = None, logprobs: Json | None = None
) -> str:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}
    return _event(body | {"choices": [choice]})


def _usage_event(body: Json, usage: Json) -> str:
    return _event(body | {"choices": [], "usage": usage})


def _body(kind: str, model: str, choices: list[Json], prefix: str = "chatcmpl") -> Json:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": choices,
    }


def usage_body(num_prompt: int, num_completion: int, num_reasoning: int | None = None) -> Json:
    """Token counts; those of thoughts where there may be any."""
    counts: Json = {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt + num_completion,
    }
    details: Json = {"completion_tokens_details": {"reasoning_tokens": num_reasoning}}
    return counts if num_reasoning is None else counts | details
