"""Routes that generate: OpenAI's chat completions, responses and completions."""

import functools
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from safe_r1.serve import openai_api, responses_api
from safe_r1.serve.access import AuthorizedService, charge_choices
from safe_r1.serve.answers import Answer, count_reasoning, read_answer
from safe_r1.serve.base import ChatReply, Chunk, TextModel
from safe_r1.serve.chat_request import ChatRequest, CompletionRequest
from safe_r1.serve.errors import ApiError
from safe_r1.serve.offload import offload
from safe_r1.serve.request_queue import time_limit
from safe_r1.serve.responses_request import ResponsesRequest
from safe_r1.serve.service import Service

_Element = TypeVar("_Element")


def add_generation_routes(app: FastAPI) -> None:
    """Add the routes to an app."""

    @app.post("/v1/chat/completions", tags=["openai"])
    async def chat(body: ChatRequest, request: Request, service: AuthorizedService) -> Response:
        """Generate the next turn of a dialogue, with the reasoning in ``reasoning_content``."""
        body.reject_unsupported()
        reply = await _chat(service, request, body)
        count_tokens = service.token_counter(body.model)
        if body.stream:
            return stream_events(openai_api.chat_events(body, reply, count_tokens))
        answers, num_tokens = await _read_answers(service, request, body, reply)
        thoughts = [answer.reasoning for answer in answers]
        num_reasoning = await count_reasoning(thoughts, num_tokens, count_tokens)
        usage = openai_api.usage_body(reply.num_prompt, num_tokens, num_reasoning)
        return JSONResponse(openai_api.chat_response(body.model, answers, usage))

    @app.post("/v1/responses", tags=["openai"])
    async def respond(body: ResponsesRequest, request: Request, service: AuthorizedService) -> Response:
        """Generate the next turn of a dialogue in OpenAI's newer form; nothing is stored."""
        body.reject_unsupported()
        asked = body.to_chat().model_copy(update={"stream": body.stream})
        reply = await _chat(service, request, asked)
        count_tokens = service.token_counter(body.model)
        response = responses_api.ResponseBody(body, asked.params)
        if body.stream:
            events = responses_api.response_events(response, reply, count_tokens)
            return StreamingResponse(events, media_type="text/event-stream")
        [answer], num_tokens = await _read_answers(service, request, asked, reply)
        num_reasoning = await count_reasoning([answer.reasoning], num_tokens, count_tokens)
        usage = responses_api.usage_body(reply.num_prompt, num_tokens, num_reasoning)
        output = responses_api.output_items(answer)
        return JSONResponse(response.ended(output, answer.finish_reason, usage))

    @app.post("/v1/completions", tags=["openai"])
    async def complete(body: CompletionRequest, request: Request, service: AuthorizedService) -> Response:
        """Continue a text without a chat template."""
        body.reject_unsupported()
        await charge_choices(request, service, body.num_choices)
        served = service.model(body.model)
        if not isinstance(served, TextModel):
            message = f"{body.model} answers dialogues alone, it continues no texts: use /v1/chat/completions"
            raise ApiError(400, "unsupported_model", message, "model")
        tokens = await served.tokenize(body.prompt)
        num_prompt = len(tokens)
        chunks = served.complete(tokens, body.params, body.stops, stream=bool(body.stream))
        timeout_s = service.config.answer_timeout_s
        if body.stream:
            counted = _count_tokens(service, body.model, num_prompt, chunks)
            started = await start(counted, timeout_s)
            return stream_events(openai_api.completion_events(body, started, num_prompt))
        whole, num_tokens = await _whole_chunks(chunks, timeout_s)
        _record_tokens(request, body.model, num_prompt, num_tokens)
        usage = openai_api.usage_body(num_prompt, num_tokens)
        return JSONResponse(openai_api.completion_response(body.model, whole, usage))


async def _chat(service: Service, request: Request, body: ChatRequest) -> ChatReply:
    """The reply to a chat; one that is streamed has begun.

    Raises:
        ApiError: Unknown model, prompt too long, unsupported settings; for a stream also overload or engine
            down.
    """
    # Each choice costs as much as a request.
    await charge_choices(request, service, body.num_choices)
    served = service.model(body.model)
    messages = [turn.to_message() for turn in body.messages]
    is_stream = bool(body.stream)
    reply = await served.chat(messages, body.params, body.stops, stream=is_stream, tools=body.tool_request)
    if not is_stream:
        return reply
    counted = _count_tokens(service, body.model, reply.num_prompt, reply.chunks)
    return replace(reply, chunks=await start(counted, service.config.answer_timeout_s))


async def _read_answers(
    service: Service, request: Request, body: ChatRequest, reply: ChatReply
) -> tuple[list[Answer], int]:
    """All choices of a reply that is not streamed, and the tokens of all of them."""
    chunks, num_tokens = await _whole_chunks(reply.chunks, service.config.answer_timeout_s)
    _record_tokens(request, body.model, reply.num_prompt, num_tokens)
    num_chars = sum(len(chunk.text) for chunk in chunks)
    return await offload(functools.partial(read_answer, reply), chunks, num_chars), num_tokens


def stream_events(events: AsyncIterator[str]) -> Response:
    """Server-sent events as a response that ends with ``[DONE]``."""
    return StreamingResponse(openai_api.with_done_event(events), media_type="text/event-stream")


async def start(elements: AsyncIterator[_Element], timeout_s: float | None = None) -> AsyncIterator[_Element]:
    """The same elements, after waiting for the first: an error before it still sets the HTTP status.

    Raises:
        ApiError: No element within ``timeout_s``, or an error before the first.
    """
    async with time_limit(timeout_s):
        first = await anext(elements, None)

    async def with_first() -> AsyncIterator[_Element]:
        if first is not None:
            yield first
        async for element in elements:
            yield element

    return with_first()


async def _whole_chunks(chunks: AsyncIterator[Chunk], timeout_s: float) -> tuple[list[Chunk], int]:
    """The choices of a completion that is not streamed, one chunk each, and the tokens of all of them.

    Raises:
        ApiError: 503, no chunk, or none within ``timeout_s``.
    """
    async with time_limit(timeout_s):
        found = sorted([chunk async for chunk in chunks], key=lambda chunk: chunk.index)
    if not found:
        raise ApiError(503, "engine_unavailable", "the engine ended without an answer")
    return found, max(chunk.completion_tokens for chunk in found)


async def _count_tokens(
    service: Service, model: str, num_prompt: int, chunks: AsyncIterator[Chunk]
) -> AsyncIterator[Chunk]:
    """The same chunks; their tokens are recorded when the stream ends, also if the client disconnects."""
    num_tokens = 0
    try:
        async for chunk in chunks:
            num_tokens = chunk.completion_tokens or num_tokens
            yield chunk
    finally:
        service.telemetry.tokens(model, num_prompt, num_tokens)


def _record_tokens(request: Request, model: str, num_prompt: int, num_completion: int) -> None:
    request.state.facts |= {"prompt_tokens": num_prompt, "completion_tokens": num_completion}
    request.app.state.service.telemetry.tokens(model, num_prompt, num_completion)
