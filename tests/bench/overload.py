"""Third part of ``make bench-serve``: more requests than a model can answer, and killed processes."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from safe_r1.schema import Message
from tests.serving import Service

_ADMITTED = (200, 503)
_REFUSED = 429
_TIMEOUT_S = 900.0
# Processes to kill, each at this share of the time.
_KILLS = {"replica": 0.25, "engine": 0.5}


@dataclass(frozen=True)
class Load:
    """Requests that are sent.

    Attributes:
        messages: Dialogues, drawn at random.
        rate: Chat requests per second, at random times.
        seconds: Duration.
        max_tokens: Longest answer in tokens.
        kills: Processes that are killed on the way: replica, engine.
    """

    messages: Sequence[list[Message]]
    rate: float
    seconds: float
    max_tokens: int
    kills: Sequence[str] = tuple(_KILLS)


async def overload(service: Service, load: Load) -> dict[str, object]:
    """Open loop: requests are sent at their times, whether or not earlier ones are answered.

    Returns:
        Statuses and response times, the results of the evaluations, and memory in GiB.
    """
    dice = random.Random(0)
    calls: list[asyncio.Task[tuple[int, float]]] = []
    kills: list[str] = []
    memory: list[float] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=service.url, timeout=_TIMEOUT_S, limits=limits) as http:
        body = {"model": service.model, "max_tokens": load.max_tokens}
        started = time.monotonic()
        evaluating = asyncio.create_task(_evaluations(http, body, load, started + load.seconds))
        killing = asyncio.create_task(_kill(service, load, kills))
        watching = asyncio.create_task(_watch(service, memory))
        while time.monotonic() < started + load.seconds:
            calls.append(asyncio.create_task(_chat(http, body | {"messages": dice.choice(load.messages)})))
            await asyncio.sleep(dice.expovariate(load.rate))
        answers = await asyncio.wait_for(asyncio.gather(*calls), _TIMEOUT_S)
        evaluations = await asyncio.wait_for(evaluating, _TIMEOUT_S)
        await killing
        watching.cancel()
    statuses = Counter(status for status, _ in answers)
    return {
        "offered_per_s": round(load.rate, 2),
        "seconds": load.seconds,
        "num_requests": len(answers),
        "statuses": {str(status): number for status, number in sorted(statuses.items())},
        "killed": kills,
        "answered_s": _percentiles([seconds for status, seconds in answers if status == 200]),
        "turned_away_s": _percentiles([seconds for status, seconds in answers if status != 200]),
        "evaluations": dict(Counter(evaluations)),
        "memory_gib": _percentiles(memory),
        "memory_gib_first_last_minute": [_mean(memory[:60]), _mean(memory[-60:])],
    }


async def _chat(http: httpx.AsyncClient, body: Mapping[str, object]) -> tuple[int, float]:
    started = time.monotonic()
    response = await http.post("/v1/chat/completions", json=body)
    return response.status_code, time.monotonic() - started


async def _evaluations(
    http: httpx.AsyncClient, body: Mapping[str, object], load: Load, end: float
) -> list[str]:
    """One evaluation after the other; each result is ``whole``, ``refused``, or the fault that it had."""
    found = []
    items = [{"id": str(index), "messages": messages} for index, messages in enumerate(load.messages[:16])]
    while time.monotonic() < end:
        response = await http.post("/v1/safety/evaluate", json={**body, "items": items})
        if response.status_code not in _ADMITTED:
            found.append("refused" if response.status_code == _REFUSED else f"status {response.status_code}")
            await asyncio.sleep(1)
            continue
        results = response.json()["items"]
        is_once = [item["id"] for item in results] == [item["id"] for item in items]
        num_lost = sum(item["outcomes"][0]["error"] is not None for item in results)
        found.append("whole" if is_once and not num_lost else f"{num_lost} items lost")
    return found


async def _kill(service: Service, load: Load, kills: list[str]) -> None:
    """Kill the processes at their times, or as soon after as there is one."""
    started = time.monotonic()
    for name in load.kills:
        find = {"replica": service.replica, "engine": service.engine}[name]
        await asyncio.sleep(max(0.0, started + _KILLS[name] * load.seconds - time.monotonic()))
        while (process := await asyncio.to_thread(find)) is None:
            await asyncio.sleep(1)
        process.kill()
        kills.append(f"{name} after {time.monotonic() - started:.0f} s")


async def _watch(service: Service, memory: list[float]) -> None:
    """Memory of the service in GiB, once a second."""
    while True:
        memory.append(await asyncio.to_thread(service.memory_gib))
        await asyncio.sleep(1)


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{share}": round(float(np.percentile(values, share)), 3) for share in (50, 99)}


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 2)
