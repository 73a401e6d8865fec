"""An engine that starts before its rows are known; its stream is played here, without Ray's processes."""

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.exceptions import ActorDiedError

from safe_r1.config import EngineConfig
from safe_r1.errors import EngineLostError
from safe_r1.inference import early_engine
from safe_r1.inference.batch import EngineSpec
from safe_r1.inference.early_engine import AtGate, EarlyEngine
from safe_r1.inference.requests import EngineResult, Request, RequestBatch, Sampling, in_batches
from safe_r1.models.registry import VARIANTS
from tests.unit.inference.test_canary import block

BATCHES = in_batches([Request(str(number), [], 8, 0) for number in range(5)], num_rows=2)


class World:
    """The gate and the stream; what the stream gives is ``blocks``, once the gate is open."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.batches: list[RequestBatch] = []
        self.released: list[object] = []
        self.items: list[dict[str, int]] = []
        self.start: Callable[[], None] = lambda: None
        self.open = SimpleNamespace(remote=self._open)

    def _open(self, pickled: list[bytes]) -> None:
        self.batches = [pickle.loads(each) for each in pickled]
        self.is_open.set()

    def blocks(self, **_: object) -> Iterator[pa.Table]:
        self.start()
        self.is_open.wait(10)
        for batch in self.batches:
            for request in batch.read():
                yield block(int(request.key), "")

    def stream(self, items: Any, spec: EngineSpec, groups: list[Any], stage: object) -> SimpleNamespace:
        self.items = items
        groups.append("group")
        return SimpleNamespace(iter_batches=self.blocks)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(ray, "remote", lambda **_: lambda actor: SimpleNamespace(remote=lambda: made))
    monkeypatch.setattr(early_engine, "configure_data", lambda timeout_s: None)
    monkeypatch.setattr(early_engine, "make_stream", made.stream)
    monkeypatch.setattr(early_engine, "release", made.released.extend)
    monkeypatch.setattr("safe_r1.inference.batch.release", made.released.extend)
    return made


def engine(replicas: int = 1) -> EarlyEngine:
    config = EngineConfig(replicas=replicas)
    return EarlyEngine(EngineSpec(VARIANTS["demo"], config, "cpu", Sampling(0.0, 1.0)))


def test_it_starts_at_once_and_waits_for_its_rows(world: World):
    started = threading.Event()
    world.start = started.set
    early = engine(replicas=3)
    assert started.wait(5)
    assert world.items == [{"share": 0}, {"share": 1}, {"share": 2}]
    written: list[EngineResult] = []
    counts = list(early.generate(BATCHES, lambda result: result, written.extend))
    assert sum(each.rows for each in counts) == 5
    assert sorted(row["key"] for row in written) == ["0", "1", "2", "3", "4"]
    early.discard()
    assert world.released == ["group"]


def test_an_engine_that_died_is_told_when_its_rows_are_asked_for(world: World):
    def die() -> None:
        raise ActorDiedError()

    world.start = die
    early = engine()
    with pytest.raises(EngineLostError, match="could not start or died"):
        list(early.generate(BATCHES, lambda result: result, lambda rows: None))
    assert world.released == ["group"]


def test_one_without_rows_ends(world: World):
    early = engine()
    began = time.monotonic()
    early.discard()
    assert time.monotonic() - began < 5
    assert (world.batches, world.released) == ([], ["group"])
    assert not any(thread.name == "early-engine" for thread in threading.enumerate())


def test_each_task_takes_its_share_of_the_batches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "get", lambda batches: batches)
    gate = SimpleNamespace(batches=SimpleNamespace(remote=lambda: [b"0", b"1", b"2", b"3", b"4"]))
    seen: list[list[bytes]] = []

    def render(rows: Any) -> Iterator[pa.Table]:
        seen.append(list(rows["batch"]))
        yield pa.table({})

    stage = AtGate(render, gate, 2)
    assert len(list(stage({"share": [0, 1]}))) == 2
    assert seen == [[b"0", b"2", b"4"], [b"1", b"3"]]
