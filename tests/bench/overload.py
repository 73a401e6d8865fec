"""The third part of ``make bench-serve``: more requests than a model can answer, while its processes are
killed.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from tests.serving import Service

_LET_IN, _REFUSED = (200, 503), 429
_PATIENCE_S = 900.0


@dataclass(frozen=True)
class Load:
    """What is sent.

    Attributes:
        messages: Dialogues, drawn at random.
        rate: Chat requests a second, at random times.
        seconds: For how long.
        max_tokens: Longest answer.
    """

    messages: Sequence[list[Any]]
    rate: float
    seconds: float
    max_tokens: int


async def overload(service: Service, load: Load) -> dict[str, Any]:
    """Open loop: requests come at their times, whatever became of those before. What came back, and how fast."""
    dice, calls, kills, memory = random.Random(0), [], [], []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=service.url, timeout=_PATIENCE_S, limits=limits) as http:
        body = {"model": service.model, "max_tokens": load.max_tokens}
        started = time.monotonic()
        evaluating = asyncio.create_task(_evaluations(http, body, load, started + load.seconds))
        killing = asyncio.create_task(_kill(service, load.seconds, kills))
        watching = asyncio.create_task(_watch(service, memory))
        while time.monotonic() < started + load.seconds:
            calls.append(asyncio.create_task(_chat(http, body | {"messages": dice.choice(load.messages)})))
            await asyncio.sleep(dice.expovariate(load.rate))
        answers = await asyncio.wait_for(asyncio.gather(*calls), _PATIENCE_S)
        evaluations = await asyncio.wait_for(evaluating, _PATIENCE_S)
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


async def _chat(http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[int, float]:
    started = time.monotonic()
    response = await http.post("/v1/chat/completions", json=body)
    return response.status_code, time.monotonic() - started


async def _evaluations(http: httpx.AsyncClient, body: dict[str, Any], load: Load, end: float) -> list[str]:
    """One evaluation after the other; each is whole, refused as one, or what went wrong with it."""
    found = []
    while time.monotonic() < end:
        items = [
            {"id": str(place), "messages": messages} for place, messages in enumerate(load.messages[:16])
        ]
        response = await http.post("/v1/safety/evaluate", json=body | {"items": items})
        if response.status_code not in _LET_IN:
            found.append("refused" if response.status_code == _REFUSED else f"status {response.status_code}")
            await asyncio.sleep(1)
            continue
        results = response.json()["items"]
        is_once = [item["id"] for item in results] == [item["id"] for item in items]
        num_lost = sum(item["outcomes"][0]["error"] is not None for item in results)
        found.append("whole" if is_once and not num_lost else f"{num_lost} items lost")
    return found


async def _kill(service: Service, seconds: float, kills: list[str]) -> None:
    """A replica of the model after a quarter of the time, an engine's process after the half or as soon as
    one is back.
    """
    started = time.monotonic()
    for name, find, share in (("replica", service.replica, 0.25), ("engine", service.engine, 0.5)):
        await asyncio.sleep(max(0.0, started + share * seconds - time.monotonic()))
        while (process := await asyncio.to_thread(find)) is None:
            await asyncio.sleep(1)
        process.kill()
        kills.append(f"{name} after {time.monotonic() - started:.0f} s")


async def _watch(service: Service, memory: list[float]) -> None:
    """Resident memory of the service, in GiB, once a second."""
    while True:
        memory.append(await asyncio.to_thread(service.memory_gib))
        await asyncio.sleep(1)


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return (
        {f"p{share}": round(float(np.percentile(values, share)), 3) for share in (50, 99)} if values else {}
    )


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 2)
