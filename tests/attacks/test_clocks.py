"""Clocks that are set forward or back while something runs: durations, deadlines and windows hold."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from safe_r1.campaign import run as campaign_run
from safe_r1.campaign.graph import make_steps
from safe_r1.campaign.run import Campaign
from safe_r1.runs import RunFolder
from safe_r1.serve import batches, keys
from safe_r1.serve.config import LimitConfig
from safe_r1.serve.errors import ApiError
from safe_r1.serve.keys import ApiKey, RateLimits
from tests.unit.campaign.test_recipe import small
from tests.unit.campaign.test_run import SEVEN, Cluster, statuses
from tests.unit.serve.batch_files import make_batch
from tests.unit.serve.test_batches import LocalRunner

HOUR = 3600.0
JUMPS = [-400 * 24 * HOUR, -2 * HOUR, 2 * HOUR, 400 * 24 * HOUR]


class Machine:
    """The clocks of a machine: one that can be set, and one that cannot."""

    def __init__(self, wall: float = 1.7e9):
        self.wall = wall
        self.steady = 5000.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def use(monkeypatch: pytest.MonkeyPatch, machine: Machine, *modules: Any) -> None:
    for module in modules:
        monkeypatch.setattr(module, "time", machine)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    use(monkeypatch, made, batches, keys, campaign_run)
    return made


@pytest.mark.parametrize("jump", JUMPS)
def test_a_batch_ends_by_the_time_that_passed(tmp_path: Path, machine: Machine, jump: float):
    store, batch_id = make_batch(tmp_path, "1", "2", "3")
    # The store writes its times by the real clock.
    machine.wall = float(store.info(batch_id)["created_at"])

    def set_clock(name: str) -> None:
        machine.wall += jump if name == "1" else 0

    assert LocalRunner(str(tmp_path), on_row=set_clock).run(batch_id) == "completed"
    assert store.batch("a", batch_id)["request_counts"]["completed"] == 3


@pytest.mark.parametrize("jump", [0, *JUMPS])
def test_a_batch_that_takes_too_long_expires(tmp_path: Path, machine: Machine, jump: float):
    store, batch_id = make_batch(tmp_path, "1", "2", "3")
    machine.wall = float(store.info(batch_id)["created_at"])

    def wait(name: str) -> None:
        machine.wall += jump
        machine.pass_(13 * HOUR)

    assert LocalRunner(str(tmp_path), on_row=wait).run(batch_id) == "expired"
    assert store.batch("a", batch_id)["request_counts"]["completed"] == 2


@pytest.mark.parametrize("jump", JUMPS)
def test_a_key_waits_a_minute_at_most(monkeypatch: pytest.MonkeyPatch, machine: Machine, jump: float):
    import limits.aio.storage.memory

    use(monkeypatch, machine, limits.aio.storage.memory)
    key = ApiKey(key="a-secret-of-some-length", requests_per_minute=3)

    async def run() -> None:
        counted = RateLimits(LimitConfig())

        async def use_up() -> None:
            for _ in range(3):
                await counted.charge("a", key, "requests")
            with pytest.raises(ApiError) as caught:
                await counted.charge("a", key, "requests")
            assert caught.value.status == 429
            assert caught.value.retry_after_s is not None
            assert 1 <= caught.value.retry_after_s <= 60

        await use_up()
        machine.wall += jump
        machine.pass_(61)
        await use_up()
        # A clock that is adjusted gradually changes nothing.
        machine.wall -= 0.2
        with pytest.raises(ApiError):
            await counted.charge("a", key, "requests")

    asyncio.run(run())


def make(folder: Path, cluster: Cluster) -> Campaign:
    recipe = small(max_attempts=3, retry_minutes=2.0, budget_gpu_hours=500.0)
    return Campaign(recipe, make_steps(recipe, "/out"), RunFolder(UPath(folder)), cluster)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_campaign_counts_the_hours_that_passed(tmp_path: Path, machine: Machine, jump: float):
    cluster = Cluster()
    one = make(tmp_path, cluster)
    one.tick()
    step = f"evaluate/{SEVEN}"
    cluster.end(step, "failed", 3, "a machine was lost")
    one.tick()
    assert "again after" in one.states[step].reason
    machine.wall += jump
    one.tick()
    # Neither earlier nor later than two minutes.
    assert statuses(one)[step] == "waiting"
    machine.pass_(119)
    one.tick()
    assert statuses(one)[step] == "waiting"
    machine.pass_(2)
    one.tick()
    assert statuses(one)[step] in ("starting", "running")
    # No budget is spent by a clock.
    assert "failed" not in statuses(one).values()


@pytest.mark.parametrize("jump", JUMPS)
def test_a_campaign_that_starts_again_after_the_clock_was_set_goes_on(
    tmp_path: Path, machine: Machine, jump: float
):
    cluster = Cluster()
    one = make(tmp_path, cluster)
    one.tick()
    step = f"evaluate/{SEVEN}"
    cluster.end(step, "failed", 3, "a machine was lost")
    one.tick()
    machine.wall += jump
    again = make(tmp_path, cluster)
    again.tick()
    machine.pass_(121)
    again.tick()
    assert statuses(again)[step] in ("starting", "running")
