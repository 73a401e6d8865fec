"""Completions as what their readers see: thoughts, answer, calls of tools, log probabilities."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from safe_r1.serve.base import ChatReply, Chunk, ReadCalls, TokenLogprob, ToolCall
from safe_r1.serve.stream import StreamSplitter, split_shown


@dataclass(frozen=True)
class Delta:
    """What a streamed choice has gained.

    Attributes:
        index: The choice.
        logprobs: Of new tokens of the answer; the text that belongs to them may be held back until later.
        thought_logprobs: Of new tokens of the thoughts and of the tags around them.
        finish_reason: Set in the last delta of the choice.
        num_tokens: Tokens of all choices; 0 where not known yet.
    """

    index: int = 0
    reasoning: str = ""
    answer: str = ""
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    thought_logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    num_tokens: int = 0


@dataclass(frozen=True)
class Answer:
    """A whole choice.

    Attributes:
        text: Without thoughts and calls of tools.
        logprobs: Of the tokens of the answer.
        thought_logprobs: Of all tokens before.
    """

    index: int
    reasoning: str
    text: str
    finish_reason: str
    calls: Sequence[ToolCall] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    thought_logprobs: tuple[TokenLogprob, ...] = ()


def read_answer(reply: ChatReply, chunk: Chunk) -> Answer:
    """A whole completion, in the form of its reader."""
    completion = reply.prefix + chunk.text
    finish_reason = chunk.finish_reason or "stop"
    calls: list[ToolCall] = []
    if reply.read_calls is None:
        reasoning, found = split_shown(completion, reply.own_tags)
        text = rest = found or ""
    else:
        splitter = StreamSplitter(reply.own_tags)
        parts = (splitter.feed(completion), splitter.finish())
        reasoning, rest = ("".join(texts).strip() for texts in zip(*parts, strict=True))
        text, calls = reply.read_calls(rest)
        finish_reason = "tool_calls" if calls and finish_reason == "stop" else finish_reason
    thoughts, own = _split_logprobs(chunk.logprobs, rest, is_thought=bool(reasoning and not rest))
    return Answer(chunk.index, reasoning, text.strip(), finish_reason, calls, own, thoughts)


def _split_logprobs(
    logprobs: tuple[TokenLogprob, ...], answer: str, *, is_thought: bool
) -> tuple[tuple[TokenLogprob, ...], tuple[TokenLogprob, ...]]:
    """Those of the thoughts, and those of the answer.

    Args:
        logprobs: Of some tokens.
        answer: The answer among their text.
        is_thought: What the tokens are where the text does not tell.
    """
    data = [each.data for each in logprobs]
    begin = b"".join(data).rfind(answer.encode()) if answer else -1
    if begin < 0:
        return (logprobs, ()) if is_thought else ((), logprobs)
    number = 0
    while number < len(data) and begin >= len(data[number]):
        begin -= len(data[number])
        number += 1
    return logprobs[:number], logprobs[number:]


@dataclass
class _Choice:
    """A streamed choice so far; with tools its answer is held back, since any text may become a call."""

    splitter: StreamSplitter
    read_calls: ReadCalls | None
    held: str = ""
    is_thinking: bool = False

    def feed(self, chunk: Chunk) -> Delta:
        """What a chunk adds."""
        reasoning, answer = self.splitter.feed(chunk.text)
        if chunk.finish_reason:
            last_reasoning, last_answer = self.splitter.finish()
            reasoning += last_reasoning
            answer += last_answer
        self.is_thinking = not answer and (self.is_thinking or bool(reasoning))
        thoughts, own = _split_logprobs(chunk.logprobs, answer, is_thought=self.is_thinking)
        delta = Delta(
            chunk.index,
            reasoning,
            answer,
            logprobs=own,
            thought_logprobs=thoughts,
            finish_reason=chunk.finish_reason,
            num_tokens=chunk.completion_tokens,
        )
        return delta if self.read_calls is None else self._hold(delta, self.read_calls)

    def _hold(self, delta: Delta, read_calls: ReadCalls) -> Delta:
        self.held += delta.answer
        if delta.finish_reason is None:
            return replace(delta, answer="")
        answer, calls = read_calls(self.held)
        is_call = calls and delta.finish_reason == "stop"
        return replace(
            delta,
            answer=answer.strip(),
            calls=tuple(calls),
            finish_reason="tool_calls" if is_call else delta.finish_reason,
        )


async def read_deltas(reply: ChatReply, num_choices: int = 1) -> AsyncIterator[Delta]:
    """What each chunk of a reply adds to its choices; the first ones have what the prompt's prefix gives."""
    choices = [_Choice(StreamSplitter(reply.own_tags), reply.read_calls) for _ in range(num_choices)]
    for choice in choices:
        # The text of a prefix is tags alone.
        choice.splitter.feed(reply.prefix)
        choice.is_thinking = bool(reply.prefix)
    finished: set[int] = set()
    async for chunk in reply.chunks:
        if chunk.finish_reason:
            finished.add(chunk.index)
        yield choices[chunk.index].feed(chunk)
    for index in sorted(set(range(num_choices)) - finished):
        yield choices[index].feed(Chunk("", "stop", index=index))


CountTokens = Callable[[str], Awaitable[int]]
"""Number of tokens of a text that the model wrote."""


async def count_reasoning(
    texts: Sequence[str], num_tokens: int, count_tokens: CountTokens | None
) -> int | None:
    """Tokens of thoughts, counted in their text; None where the tokenizer is not here.

    Args:
        texts: The thoughts of each choice.
        num_tokens: Tokens of the whole completion.
        count_tokens: Counts with the model's tokenizer.
    """
    if count_tokens is None:
        return None
    found = [await count_tokens(text) for text in texts if text]
    return min(sum(found), num_tokens)


def chat_logprobs(logprobs: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Log probabilities in the form of OpenAI's chat and responses."""
    return [
        _token(each) | {"top_logprobs": [_token(candidate) for candidate in each.top]} for each in logprobs
    ]


def _token(logprob: TokenLogprob) -> dict[str, Any]:
    return {"token": logprob.token, "logprob": logprob.logprob, "bytes": list(logprob.data)}


def completion_logprobs(logprobs: Sequence[TokenLogprob], offset: int = 0) -> dict[str, Any]:
    """Log probabilities in the form of OpenAI's completions.

    Args:
        logprobs: Of the tokens.
        offset: Characters of the completion before them.
    """
    offsets: list[int] = []
    for each in logprobs:
        offsets.append(offset)
        offset += len(each.token)
    return {
        "text_offset": offsets,
        "token_logprobs": [each.logprob for each in logprobs],
        "tokens": [each.token for each in logprobs],
        "top_logprobs": [
            {candidate.token: candidate.logprob for candidate in (each, *each.top)} for each in logprobs
        ],
    }


def call_body(call: ToolCall) -> dict[str, object]:
    """A call of a tool in the form of OpenAI's chat."""
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def to_json(body: Mapping[str, object]) -> str:
    """Compact JSON that keeps Chinese text readable."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
