"""Responses of ``POST /v1/responses``, whole and as a stream of events.

The model's thoughts are an item of type ``reasoning``, its answer one of type ``message``, each call of a
tool one of type ``function_call``.
"""

import itertools
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence

from safe_r1.serve.answers import (
    Answer,
    CountTokens,
    Delta,
    chat_logprobs,
    count_reasoning,
    read_deltas,
    to_json,
)
from safe_r1.serve.base import ChatReply, SamplingParams, TokenLogprob, ToolCall
from safe_r1.serve.errors import ApiError
from safe_r1.serve.responses_request import ResponsesRequest

Json = dict[str, object]
_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponseBody:
    """The response object of one request, at any time."""

    def __init__(self, request: ResponsesRequest, params: SamplingParams):
        self._fixed: Json = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": request.model,
            "instructions": request.instructions,
            "metadata": request.metadata or {},
            "background": False,
            "store": False,
            "previous_response_id": None,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": None,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_logprobs": request.top_logprobs or 0,
            "frequency_penalty": request.frequency_penalty or 0.0,
            "presence_penalty": request.presence_penalty or 0.0,
            "reasoning": {"effort": None, "summary": None},
            "text": {"format": _format(request)},
            "tool_choice": _choice(request),
            "tools": [
                {**tool.model_dump(include={"type", "name", "description", "parameters"}), "strict": False}
                for tool in request.tools or ()
            ],
            "truncation": "disabled",
            "service_tier": "default",
            "user": None,
        }

    def at(
        self,
        status: str,
        output: Sequence[Json] = (),
        finish_reason: str | None = None,
        usage: Json | None = None,
        error: Json | None = None,
    ) -> Json:
        """The response with its status and what there is of its output."""
        reason = _REASONS.get(finish_reason or "")
        return self._fixed | {
            "status": status,
            "error": error,
            "incomplete_details": {"reason": reason} if reason else None,
            "output": list(output),
            "usage": usage,
        }

    def ended(self, output: Sequence[Json], finish_reason: str, usage: Json) -> Json:
        """The response when the model has ended."""
        return self.at(end_status(finish_reason), output, finish_reason, usage)


def end_status(finish_reason: str) -> str:
    """Status of a response that has ended."""
    return "incomplete" if finish_reason in _REASONS else "completed"


def _format(request: ResponsesRequest) -> Json:
    wanted = request.text.format if request.text else None
    if wanted is None or wanted.type != "json_schema":
        return {"type": wanted.type if wanted else "text"}
    return {"type": "json_schema", "name": wanted.name, "schema": wanted.schema_, "strict": True}


def _choice(request: ResponsesRequest) -> object:
    choice = request.tool_choice or "auto"
    return choice if isinstance(choice, str) else choice.model_dump()


def usage_body(num_prompt: int, num_tokens: int, num_reasoning: int | None) -> Json:
    """Token counts; OpenAI's form has no place for unknown ones, which are 0."""
    return {
        "input_tokens": num_prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": num_tokens,
        "output_tokens_details": {"reasoning_tokens": num_reasoning or 0},
        "total_tokens": num_prompt + num_tokens,
    }


def output_items(answer: Answer) -> list[Json]:
    """The items of a whole answer."""
    items: list[Json] = []
    is_cut = end_status(answer.finish_reason) == "incomplete"
    status = "incomplete" if is_cut else "completed"
    if answer.reasoning:
        # Thoughts that an answer follows are whole.
        thought = status if not answer.text and not answer.calls else "completed"
        items.append(_reasoning_item(_item_id("rs"), answer.reasoning, thought))
    if answer.text or not (answer.calls or answer.reasoning):
        items.append(_message_item(_item_id("msg"), [_text_part(answer.text, answer.logprobs)], status))
    items += [_call_item(_item_id("fc"), call, "completed") for call in answer.calls]
    return items


def _item_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _reasoning_item(item_id: str, text: str, status: str) -> Json:
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {
        "id": item_id,
        "type": "reasoning",
        "summary": [],
        "content": content,
        "encrypted_content": None,
        "status": status,
    }


def _message_item(item_id: str, content: list[Json], status: str) -> Json:
    return {"id": item_id, "type": "message", "role": "assistant", "content": content, "status": status}


def _text_part(text: str, logprobs: Sequence[TokenLogprob] = ()) -> Json:
    return {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": chat_logprobs(logprobs) if logprobs else [],
    }


def _call_item(item_id: str, call: ToolCall, status: str, arguments: str | None = None) -> Json:
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments if arguments is None else arguments,
        "status": status,
    }


class _OpenText:
    """The item that is being streamed: thoughts, or an answer. Each has one part of content."""

    def __init__(self, output_index: int, is_reasoning: bool):
        self.is_reasoning = is_reasoning
        self._id = _item_id("rs" if is_reasoning else "msg")
        self._place: Json = {"item_id": self._id, "output_index": output_index, "content_index": 0}
        self._index: Json = {"output_index": output_index}
        self._name = "reasoning_text" if is_reasoning else "output_text"
        self.text = ""
        self._blank = ""
        self._logprobs: list[TokenLogprob] = []

    def begin(self) -> Iterator[tuple[str, Json]]:
        """Events of its beginning."""
        yield "response.output_item.added", self._index | {"item": self.item("in_progress", is_empty=True)}
        yield "response.content_part.added", self._place | {"part": self._part()}

    def add(self, text: str, logprobs: Sequence[TokenLogprob]) -> Iterator[tuple[str, Json]]:
        """The event of more text; blanks at its end are held back, since they may end the item."""
        text = self._blank + text
        self._blank = text[len(text.rstrip()) :]
        text = text.rstrip()
        if not text and not logprobs:
            return
        self.text += text
        event = self._place | {"delta": text}
        if not self.is_reasoning:
            self._logprobs += logprobs
            event |= {"logprobs": chat_logprobs(logprobs)}
        yield f"response.{self._name}.delta", event

    def end(self, status: str) -> Iterator[tuple[str, Json]]:
        """Events of its end."""
        event = self._place | {"text": self.text}
        if not self.is_reasoning:
            event |= {"logprobs": chat_logprobs(self._logprobs)}
        yield f"response.{self._name}.done", event
        yield "response.content_part.done", self._place | {"part": self._part()}
        yield "response.output_item.done", self._index | {"item": self.item(status)}

    def _part(self) -> Json:
        if self.is_reasoning:
            return {"type": "reasoning_text", "text": self.text}
        return _text_part(self.text, self._logprobs)

    def item(self, status: str, *, is_empty: bool = False) -> Json:
        """The item in the response's output."""
        if self.is_reasoning:
            return _reasoning_item(self._id, self.text, status)
        return _message_item(self._id, [] if is_empty else [self._part()], status)


class _Stream:
    """The output of a streamed response so far."""

    def __init__(self) -> None:
        self.output: list[Json] = []
        self.reasoning = ""
        self.finish_reason = "stop"
        self.num_tokens = 0
        self._open: _OpenText | None = None

    def feed(self, delta: Delta) -> Iterator[tuple[str, Json]]:
        """Events of a delta."""
        self.num_tokens = max(self.num_tokens, delta.num_tokens)
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.reasoning += delta.reasoning
        # The log probabilities of one delta cannot be told apart: they go where its text ends.
        for text, is_reasoning in ((delta.reasoning, True), (delta.answer, False)):
            if text or (delta.logprobs and not is_reasoning and self._open and not self._open.is_reasoning):
                yield from self._add(text, is_reasoning, () if is_reasoning else delta.logprobs)
        for call in delta.calls:
            yield from self._close("completed")
            yield from self._add_call(call)
        if delta.finish_reason:
            if not self.output and self._open is None:
                yield from self._add("", False, ())
            is_cut = end_status(delta.finish_reason) == "incomplete"
            yield from self._close("incomplete" if is_cut else "completed")

    def _add(
        self, text: str, is_reasoning: bool, logprobs: Sequence[TokenLogprob]
    ) -> Iterator[tuple[str, Json]]:
        if self._open and self._open.is_reasoning != is_reasoning:
            yield from self._close("completed")
        if self._open is None:
            self._open = _OpenText(len(self.output), is_reasoning)
            yield from self._open.begin()
        if text or logprobs:
            yield from self._open.add(text, logprobs)

    def _close(self, status: str) -> Iterator[tuple[str, Json]]:
        if self._open:
            yield from self._open.end(status)
            self.output.append(self._open.item(status))
            self._open = None

    def _add_call(self, call: ToolCall) -> Iterator[tuple[str, Json]]:
        index: Json = {"output_index": len(self.output)}
        item_id = _item_id("fc")
        place = index | {"item_id": item_id}
        item = _call_item(item_id, call, "completed")
        begun = _call_item(item_id, call, "in_progress", "")
        yield "response.output_item.added", index | {"item": begun}
        yield "response.function_call_arguments.delta", place | {"delta": call.arguments}
        done = place | {"name": call.name, "arguments": call.arguments}
        yield "response.function_call_arguments.done", done
        yield "response.output_item.done", index | {"item": item}
        self.output.append(item)


async def response_events(
    body: ResponseBody, reply: ChatReply, count_tokens: CountTokens | None
) -> AsyncIterator[str]:
    """Server-sent events of a streamed response; an error on the way ends it as ``response.failed``."""
    numbers = itertools.count()
    stream = _Stream()

    def event(kind: str, content: Json) -> str:
        data = {"type": kind, "sequence_number": next(numbers)} | content
        return f"event: {kind}\ndata: {to_json(data)}\n\n"

    for kind in ("created", "in_progress"):
        yield event(f"response.{kind}", {"response": body.at("in_progress")})
    try:
        async for delta in read_deltas(reply):
            for kind, content in stream.feed(delta):
                yield event(kind, content)
    except ApiError as error:
        failure: Json = {"code": "server_error", "message": error.message}
        yield event("response.failed", {"response": body.at("failed", stream.output, error=failure)})
        return
    num_reasoning = await count_reasoning([stream.reasoning], stream.num_tokens, count_tokens)
    usage = usage_body(reply.num_prompt, stream.num_tokens, num_reasoning)
    ended = body.ended(stream.output, stream.finish_reason, usage)
    yield event(f"response.{ended['status']}", {"response": ended})
