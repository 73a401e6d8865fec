"""An engine that loses its node: which rows are asked again, and when it ends; the engine is played here."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pytest
from ray.exceptions import ActorDiedError

from safe_r1.errors import EngineLostError
from safe_r1.inference import recovery
from safe_r1.inference.placement import EnginePlace
from safe_r1.inference.recovery import EngineWatch, recovering
from safe_r1.inference.requests import Request, RequestBatch, in_batches
from tests.unit.inference.test_canary import block

BATCHES = in_batches([Request(str(number), [], 8, number) for number in range(6)], num_rows=2)


class World:
    """Streams that end after some rows: ``lives`` says after how many, None at their end."""

    def __init__(self, lives: Sequence[int | None], is_lost: bool = True, is_final: bool = False):
        self.lives = list(lives)
        self.is_lost = is_lost
        self.is_final = is_final
        self.asked: list[list[tuple[str, int]]] = []
        self.released: list[object] = []
        self.groups: list[object] = []

    def check(self, watch: EngineWatch) -> None:
        watch.is_lost = self.is_lost
        watch.is_final = self.is_final

    def start(self, batches: Sequence[RequestBatch]) -> Iterator[pa.Table]:
        requests = [request for batch in batches for request in batch.read()]
        assert len(requests) == sum(batch.num_rows for batch in batches)
        assert all(batch.num_rows for batch in batches)
        self.asked.append([(request.key, request.seed) for request in requests])
        self.groups.append(f"group {len(self.asked)}")
        life = self.lives.pop(0)
        for request in requests[:life]:
            yield block(int(request.key), "")
        if life is not None:
            raise ActorDiedError


@pytest.fixture(autouse=True)
def _nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "describe_nodes", lambda place: "no node with 2 free GPUs (nodes: none)")


def keys(world: World, monkeypatch: pytest.MonkeyPatch, max_restarts: int = 2) -> list[str]:
    monkeypatch.setattr(EngineWatch, "_check", lambda watch: world.check(watch))
    monkeypatch.setattr(recovery, "release", world.released.extend)
    place = EnginePlace([{"GPU": 1.0}] * 2, timeout_s=60)
    blocks = recovering("r1", world.start, BATCHES, world.groups, place, max_restarts)  # pyright: ignore[reportArgumentType]
    return [key for each in blocks for key in each.column(0).combine_chunks().field("key").to_pylist()]


def test_the_rows_that_are_left_are_asked_again_with_their_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([3, 0, None])
    assert keys(world, monkeypatch) == ["0", "1", "2", "3", "4", "5"]
    rest = [("3", 3), ("4", 4), ("5", 5)]
    assert world.asked == [[(str(number), number) for number in range(6)], rest, rest]
    assert world.released == ["group 1", "group 2"]
    assert world.groups == ["group 3"]


def test_a_loss_after_the_last_row_asks_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([6])
    assert len(keys(world, monkeypatch)) == 6
    assert len(world.asked) == 1


def test_nodes_that_are_lost_too_often_end_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineLostError, match=r"^r1: nodes of its engines were lost too often") as caught:
        keys(World([1, 1, 1]), monkeypatch)
    assert caught.value.exit_code == 3


def test_a_node_that_does_not_come_ends_the_job_with_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    said = r"no node with 2 free GPUs \(nodes: none\) for 60 s \(engine\.start_timeout_s\)"
    with pytest.raises(EngineLostError, match=said) as caught:
        keys(World([1], is_final=True), monkeypatch)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_an_engine_that_dies_on_its_node_is_no_lost_node(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([1], is_lost=False)
    with pytest.raises(ActorDiedError):
        keys(world, monkeypatch)
    assert len(world.asked) == 1
