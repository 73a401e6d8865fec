"""Closed loops of chat requests against a server of OpenAI's API, and what its clients see."""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import aiohttp
import numpy as np

from safe_r1.schema import Message

_TIMEOUT_S = 600


@dataclass(frozen=True)
class ChatLoad:
    """Requests of one measurement.

    Attributes:
        dialogues: What is asked, in turns; each caller begins elsewhere.
        max_tokens: Longest answer.
        temperature: Sampling temperature.
        top_p: Nucleus of sampling.
        seconds: How long new requests are sent; what is under way then is waited for, and counted.
    """

    dialogues: Sequence[list[Message]]
    max_tokens: int = 32
    temperature: float = 0.6
    top_p: float = 0.95
    seconds: float = 20.0


@dataclass
class Seen:
    """What the clients saw.

    Attributes:
        tokens: Output tokens of all answers, by the server's own count.
        answers: Number of answers.
        seconds: From the first request to the last answer.
        whole_s: Seconds of each answer.
        first_s: Seconds to the first text of each streamed answer.
        between_s: Seconds between the texts of streamed answers.
    """

    tokens: int = 0
    answers: int = 0
    seconds: float = 0.0
    whole_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    between_s: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Tokens a second, and times in milliseconds."""
        found = {"tokens_per_s": round(self.tokens / self.seconds, 1), "answers": float(self.answers)}
        for name, times in (("whole", self.whole_s), ("first", self.first_s), ("between", self.between_s)):
            for share in (50, 95) if times else ():
                found[f"{name}_ms_p{share}"] = round(1000 * float(np.percentile(times, share)), 1)
        return found


async def run_load(url: str, model: str, load: ChatLoad, in_flight: int, *, stream: bool) -> Seen:
    """Keep a number of requests in flight: each caller sends its next when its last is answered."""
    seen = Seen()
    connector = aiohttp.TCPConnector(limit=in_flight)
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        started = time.perf_counter()
        seeds = itertools.count()

        async def call(first: int) -> None:
            order = itertools.cycle([*load.dialogues[first:], *load.dialogues[:first]])
            while time.perf_counter() < started + load.seconds:
                body = {
                    "model": model,
                    "messages": next(order),
                    "max_tokens": load.max_tokens,
                    "temperature": load.temperature,
                    "top_p": load.top_p,
                    "seed": next(seeds),
                }
                await (_stream(session, body, seen) if stream else _whole(session, body, seen))

        step = max(1, len(load.dialogues) // in_flight)
        await asyncio.gather(*(call(number * step % len(load.dialogues)) for number in range(in_flight)))
        seen.seconds = time.perf_counter() - started
    return seen


async def _whole(session: aiohttp.ClientSession, body: dict[str, object], seen: Seen) -> None:
    started = time.perf_counter()
    async with session.post("/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        reply = await response.json()
    seen.whole_s.append(time.perf_counter() - started)
    seen.tokens += reply["usage"]["completion_tokens"]
    seen.answers += 1


async def _stream(session: aiohttp.ClientSession, body: dict[str, object], seen: Seen) -> None:
    body = body | {"stream": True, "stream_options": {"include_usage": True}}
    started = time.perf_counter()
    last = None
    async with session.post("/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            for event in _events(line):
                if event.get("error"):
                    raise RuntimeError(f"an error on the way: {event['error']}")
                if usage := event.get("usage"):
                    seen.tokens += usage["completion_tokens"]
                if any(_has_text(choice["delta"]) for choice in event["choices"]):
                    now = time.perf_counter()
                    if last is None:
                        seen.first_s.append(now - started)
                    else:
                        seen.between_s.append(now - last)
                    last = now
    seen.whole_s.append(time.perf_counter() - started)
    seen.answers += 1


def _events(line: bytes) -> Iterator[dict]:
    if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
        yield json.loads(line[6:])


def _has_text(delta: dict[str, str | None]) -> bool:
    return any(delta.get(name) for name in ("content", "reasoning_content", "reasoning"))
