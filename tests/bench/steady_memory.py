"""Memory of a service under a steady load: what each of its processes takes, minute by minute."""

import asyncio
import contextlib
import itertools
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import numpy as np
import psutil

from tests.bench.service_load import ChatLoad, run_load
from tests.serving import Service

_SHORTEST_PAUSE_S = 0.5
_NUM_SAMPLES = 60
_JUDGED_ITEMS = 20


@dataclass
class MemoryCurve:
    """What was measured.

    Attributes:
        minutes: Of each sample, from the beginning of the load.
        mib: Kind of process to its proportional set size in each sample; 0 where there was none.
    """

    minutes: list[float] = field(default_factory=list)
    mib: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, minutes: float, by_kind: dict[str, float]) -> None:
        """One sample."""
        for kind in {*self.mib, *by_kind}:
            known = self.mib[kind]
            known += [0.0] * (len(self.minutes) - len(known))
            known.append(round(by_kind.get(kind, 0.0), 1))
        self.minutes.append(round(minutes, 2))

    def growth(self, since: float = 1 / 3) -> dict[str, float]:
        """MiB a minute of each kind and of all, by least squares, after a share of the time."""
        minutes = np.asarray(self.minutes)
        late = minutes >= since * minutes[-1]
        curves = {**self.mib, "all": np.sum(list(self.mib.values()), axis=0)}
        return {
            kind: round(float(np.polyfit(minutes[late], np.asarray(mib)[late], 1)[0]), 2)
            for kind, mib in curves.items()
        }


async def steady_memory(service: Service, load: ChatLoad, in_flight: int) -> dict[str, object]:
    """Chat requests, streamed and whole, beside judged answers that never repeat.

    Args:
        service: The service; its engine's key-value cache fills on the way.
        load: The chat requests, and the seconds.
        in_flight: Chat requests at once, of each form.

    Returns:
        ``curve`` and ``growth`` of ``MemoryCurve``, and the number of answers of each kind.
    """
    curve = MemoryCurve()
    sampling = asyncio.create_task(_sample(service, load.seconds, curve))
    streamed, whole, judged = await asyncio.gather(
        run_load(service.url, service.model, load, in_flight, stream=True),
        run_load(service.url, service.model, load, in_flight, stream=False),
        _judge(service.url, load.dialogues[0][-1]["content"], load.seconds),
    )
    await sampling
    return {
        "minutes": load.seconds / 60,
        "answers": streamed.answers + whole.answers,
        "judged": judged,
        "growth_mib_per_minute": curve.growth(),
        "curve": {"minutes": curve.minutes, "mib": dict(curve.mib)},
    }


async def _sample(service: Service, seconds: float, curve: MemoryCurve) -> None:
    started = time.monotonic()
    pause = max(_SHORTEST_PAUSE_S, seconds / _NUM_SAMPLES)
    while (passed := time.monotonic() - started) < seconds:
        curve.add(passed / 60, await asyncio.to_thread(_memory_by_kind, service.processes()))
        await asyncio.sleep(pause)


def _memory_by_kind(processes: Sequence[psutil.Process]) -> dict[str, float]:
    """MiB of each kind of process: what it has alone, and its share of what several have."""
    found: dict[str, float] = defaultdict(float)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found[_kind(process)] += process.memory_full_info().pss / 2**20
    return found


def _kind(process: psutil.Process) -> str:
    title = process.name() if process.name() in ("raylet", "gcs_server") else " ".join(process.cmdline())
    if "EngineCore" in title:
        return "engine"
    if replica := re.search(r"ServeReplica:\w+:(\w+)", title):
        return f"replica {replica[1]}"
    if actor := re.search(r"ray::([\w:]+)", title):
        return actor[1]
    return title.split()[0].rpartition("/")[2] if title else "other"


async def _judge(url: str, question: str, seconds: float) -> int:
    """Requests of some given answers, one after the other, none of which the service has seen."""
    num_judged = 0
    started = time.monotonic()
    async with aiohttp.ClientSession(url) as session:
        for number in itertools.count():
            if time.monotonic() > started + seconds:
                return num_judged
            items = [
                {"prompt": f"{question}（{new}）", "answer": f"我不能回答第 {new} 个问题。"}
                for new in range(number * _JUDGED_ITEMS, (number + 1) * _JUDGED_ITEMS)
            ]
            async with session.post("/v1/safety/evaluate", json={"items": items}) as response:
                response.raise_for_status()
                await response.read()
            num_judged += len(items)
    raise AssertionError("unreachable")
