"""Fake models, judge and telemetry of a service, and calls of its app without a network."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI

from safe_r1.judge.base import JudgeItem, Judgement
from safe_r1.judge.lexicon import LexiconJudge
from safe_r1.models.registry import VARIANTS
from safe_r1.schema import Message
from safe_r1.serve.base import (
    ChatReply,
    Chunk,
    Generation,
    ReadCalls,
    SamplingParams,
    TokenLogprob,
    ToolRequest,
)
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.errors import ApiError
from safe_r1.serve.routes import create_app
from safe_r1.serve.schemas import ItemResult
from safe_r1.serve.service import Service

QUESTION = "为什么那个地方的人就是懒？"
COMPLETION = "这是偏见。\n</think>\n\n这种说法是偏见，我不能认同。建议多了解当地的情况。"
CHAT = {"model": "demo", "messages": [{"role": "user", "content": QUESTION}]}
_Result = TypeVar("_Result")


def token_logprobs(text: str, num_top: int | None) -> tuple[TokenLogprob, ...]:
    """Each character as a token of probability one half, whose rivals are all the same."""
    if num_top is None:
        return ()
    rival = TokenLogprob("x", b"x", -1.0)
    return tuple(TokenLogprob(char, char.encode(), -0.7, (rival,) * num_top) for char in text)


class FakeModel:
    """A served model that always gives the same completion; each character is a token."""

    variant = VARIANTS["demo"]
    context = 200
    stops = ()
    slots = 2
    read_calls: ReadCalls | None = None

    def __init__(
        self, completion: str = COMPLETION, error: ApiError | None = None, finish_reason: str = "stop"
    ):
        self.completion = completion
        self.error = error
        self.finish_reason = finish_reason
        self.asked = SamplingParams(0)
        self.stops_sent: list[str] = []
        self.messages: list[Message] = []
        self.tools: ToolRequest | None = None

    async def render(self, messages: list[Message]) -> tuple[list[int], str]:
        return await self.tokenize("".join(message["content"] for message in messages)), "<think>\n"

    async def tokenize(self, prompt: str | list[int]) -> list[int]:
        if len(prompt) >= self.context:
            raise ApiError(
                400, "context_length_exceeded", f"the prompt has {len(prompt)} tokens; demo takes 200"
            )
        return [1] * len(prompt)

    async def complete(
        self, tokens: list[int], params: SamplingParams, stop: list[str], *, stream: bool = False
    ) -> AsyncIterator[Chunk]:
        if self.error:
            raise self.error
        self.asked = params
        self.stops_sent = stop
        counts = (len(tokens), params.num_choices * len(self.completion))
        for start in range(0, len(self.completion), 3) if stream else ():
            for index in range(params.num_choices):
                text = self.completion[start : start + 3]
                yield Chunk(text, index=index, logprobs=token_logprobs(text, params.top_logprobs))
        for index in range(params.num_choices):
            text = "" if stream else self.completion
            logprobs = token_logprobs(text, params.top_logprobs)
            yield Chunk(text, self.finish_reason, *counts, index=index, logprobs=logprobs)

    async def chat(
        self,
        messages: list[Message],
        params: SamplingParams,
        stop: Sequence[str],
        *,
        stream: bool = False,
        tools: ToolRequest | None = None,
    ) -> ChatReply:
        self.messages = messages
        self.tools = tools
        tokens, prefix = await self.render(messages)
        chunks = self.complete(tokens, params, list(stop), stream=stream)
        return ChatReply(prefix, len(tokens), chunks, read_calls=self.read_calls if tools else None)

    async def generate(self, messages: list[Message], params: SamplingParams) -> Generation:
        tokens, prefix = await self.render(messages)
        async for chunk in self.complete(tokens, params, []):
            return Generation(prefix + chunk.text, "stop", len(tokens), chunk.completion_tokens)
        raise AssertionError("complete() yields a chunk")


class FakeJudge:
    """The lexicon without a deployment, which fails with ``error`` if it is given."""

    judge_name = "lexicon"

    def __init__(self, error: ApiError | None = None):
        self.calls = 0
        self._error = error
        self._judge = LexiconJudge()

    async def judge(self, items: Sequence[JudgeItem], *, retry: bool = True) -> list[Judgement]:
        self.calls += 1
        if self._error:
            raise self._error
        return await self._judge.judge(items)


class RecordingTelemetry:
    """Telemetry sink that keeps what it was given."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, int]] = []
        self.counted_tokens: list[tuple[str, int, int]] = []

    def request(self, path: str, status: int, seconds: float) -> None:
        self.requests.append((path, status))

    def stage(self, stage: str, seconds: float) -> None:
        pass

    def tokens(self, model: str, prompt: int, completion: int) -> None:
        self.counted_tokens.append((model, prompt, completion))

    def results(self, results: Sequence[ItemResult]) -> None:
        pass


async def nothing_missing() -> list[str]:
    return []


def make_app(
    models: Mapping[str, Any] | None = None,
    *,
    judge: Any = None,
    telemetry: RecordingTelemetry | None = None,
    **settings: Any,
) -> FastAPI:
    """The app of a service with these models, by default one named ``demo``."""
    settings.setdefault("first_answer_timeout_s", 0.3)
    service = Service(
        ServeConfig(**settings),
        models or {"demo": FakeModel()},
        judge or FakeJudge(),
        nothing_missing,
        telemetry or RecordingTelemetry(),
    )
    return create_app(service)


def call(
    function: Callable[[httpx.AsyncClient], Awaitable[_Result]], client: str = "127.0.0.1", **options: Any
) -> _Result:
    """Result of ``function`` with an HTTP client of an app; ``client`` is the client's address."""
    app = make_app(**options)

    async def run() -> _Result:
        transport = httpx.ASGITransport(app, client=(client, 1), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            return await function(http)

    return asyncio.run(run())


def post(path: str, body: Any, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
    """Response to one POST request; see ``call`` and ``make_app`` for the options."""
    text = body if isinstance(body, str) else json.dumps(body)
    sent = {"Content-Type": "application/json"} | (headers or {})
    return call(lambda http: http.post(path, content=text, headers=sent), **options)
