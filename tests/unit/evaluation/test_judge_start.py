"""When the engine of a judge model starts: beside the evaluated model's last rows where there is room."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from safe_r1.config import EngineConfig, JudgeConfig
from safe_r1.evaluation import judge_start
from safe_r1.evaluation.judge_start import JudgeStart
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.target import Target
from safe_r1.inference.batch import EngineSpec
from safe_r1.inference.placement import EnginePlace
from safe_r1.inference.requests import BatchCounts
from safe_r1.models.registry import VARIANTS
from safe_r1.resources import Cluster

ONE_ROW = BatchCounts(1, 0, 5)


@dataclass
class Engine:
    """Stands for the engine that is started."""

    spec: EngineSpec
    discarded: int = 0

    def discard(self) -> None:
        self.discarded += 1


@dataclass
class World:
    """What the decision depends on."""

    free_gib: float = 16.0
    has_room: bool = True
    now: float = 1000.0
    asked: list[tuple[int, int]] = field(default_factory=list)

    def room(self, place: EnginePlace) -> bool:
        self.asked.append((len(place.bundles), place.num_stages))
        return self.has_room


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(judge_start, "EarlyEngine", Engine)
    monkeypatch.setattr(judge_start, "has_room", made.room)
    monkeypatch.setattr(judge_start, "free_memory_gib", lambda: made.free_gib)
    monkeypatch.setattr(judge_start, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def start(
    model: str | None = "demo",
    rows_at_once: int = 4,
    memory_gib: float = 2.0,
    gpus: float = 0.0,
    starts_early: bool = True,
    **engine: Any,
) -> JudgeStart:
    config = JudgeConfig(kind="llm", engine=EngineConfig.model_validate({"max_model_len": 2048, **engine}))
    judge = SimpleNamespace(model=VARIANTS[model] if model else None, config=config)
    plan = SimpleNamespace(judge=judge, config=SimpleNamespace(judge_starts_early=starts_early))
    target = SimpleNamespace(rows_at_once=rows_at_once, memory_gib=memory_gib)
    cluster = Cluster(gpu_total=gpus, cpu_total=8, memory_gib=16.0, node_gpus=gpus)
    return JudgeStart(cast(EvaluationPlan, plan), cast(Target, target), cluster)


def rows_before_start(judge: JudgeStart, num_rows: int) -> int | None:
    """How many rows were finished when the engine was started; None: it was not."""
    for number, counts in enumerate(judge.watch(iter([ONE_ROW] * num_rows), num_rows), start=1):
        assert counts is ONE_ROW
        if judge.engine is not None:
            return number
    return None


def test_it_starts_when_no_row_waits_any_more(world: World):
    assert rows_before_start(start(rows_at_once=4), 10) == 6
    # All of few rows are under way at once: as soon as the evaluated engine has shown that it runs.
    assert rows_before_start(start(rows_at_once=64), 10) == 1
    # After the last row there is nothing to use the time of.
    assert rows_before_start(start(rows_at_once=64), 1) is None
    assert rows_before_start(start(rows_at_once=0), 10) is None


def test_it_starts_once(world: World):
    judge = start()
    assert sum(counts.rows for counts in judge.watch(iter([ONE_ROW] * 10), 10)) == 10
    assert world.asked == [(1, 1)]
    judge.discard()
    assert cast(Any, judge.engine).discarded == 1


def test_only_a_judge_on_an_engine_starts(world: World):
    assert rows_before_start(start(model=None), 10) is None
    assert rows_before_start(start(starts_early=False), 10) is None
    assert not world.asked


def test_both_engines_need_their_memory(world: World, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "safe_r1.startup")
    # The evaluated engine has reserved what it has not filled: 16 - 15 GiB are left, however many are free.
    assert rows_before_start(start(memory_gib=15.0), 10) is None
    assert rows_before_start(start(memory_gib=11.0), 10) == 6
    world.free_gib = 0.5
    assert rows_before_start(start(memory_gib=0.0), 10) is None
    first, second, third = (record.getMessage() for record in caplog.records)
    assert first.startswith("judge: its engine starts after the last completions, as it needs up to ")
    assert first.endswith(" GiB of memory, and 1.0 are free")
    assert second == "judge: its engine starts now, beside the last 4 completions"
    assert third.endswith(" and 0.5 are free")


def test_the_key_value_cache_takes_what_is_left_beside_the_evaluated_engine(world: World):
    judge = start(memory_gib=9.0)
    assert rows_before_start(judge, 10) == 6
    spec = cast(Any, judge.engine).spec
    alone = start(memory_gib=0.0)
    rows_before_start(alone, 10)
    assert 1 <= spec.engine.cpu_kv_cache_gib <= cast(Any, alone.engine).spec.engine.cpu_kv_cache_gib
    assert (spec.device, spec.sampling.temperature) == ("cpu", 0.0)


def test_a_cluster_without_free_gpus_is_asked_again_later(world: World, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "safe_r1.startup")
    world.has_room = False
    # On GPUs the memory of this machine does not matter.
    world.free_gib = 0.0
    judge = start("r1-distill-llama-70b", rows_at_once=8, gpus=4.0, gpu_memory_gib=79.0)

    def rows() -> Iterator[BatchCounts]:
        for number in range(8):
            world.now += 12.0
            # An engine of several replicas has given one of them back.
            world.has_room = number >= 4
            yield ONE_ROW

    places = [number for number, _ in enumerate(judge.watch(rows(), 9)) if judge.engine is not None]
    assert places[0] == 6
    # At once, and then every half minute.
    assert world.asked == [(4, 1)] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "judge: its engine starts after the last completions, as the cluster has no free GPUs for it",
        "judge: its engine starts now, beside the last 2 completions",
    ]
