"""What fails in a worker reaches the driver as the error that it is."""

import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import ray.data
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

from safe_r1.errors import ClusterLostError, JudgeError
from safe_r1.evaluation import workers
from safe_r1.evaluation.workers import Workers

Batch = Mapping[str, Any]


class Here:
    """A dataset whose stage runs in this process, on pickled copies as in a worker."""

    def __init__(self, rows: list[Batch]) -> None:
        self.rows = rows
        self.apply: Callable[[Batch], Batch] = dict

    def map_batches(self, apply: Callable[[Batch], Batch], **_: object) -> "Here":
        self.apply = pickle.loads(pickle.dumps(apply))
        return self

    def iter_batches(self, **_: object) -> Iterator[Batch]:
        for row in self.rows:
            yield self.apply({name: np.asarray([value], object) for name, value in row.items()})


@pytest.fixture(autouse=True)
def _in_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_ROWS_HERE", 0)
    monkeypatch.setattr(ray.data, "from_items", lambda rows, **_: Here(rows))


def halved(number: int) -> int:
    if number < 0:
        raise JudgeError("judge 'x': the key is wrong")
    return number // 2


def test_every_result_comes_with_its_place():
    assert dict(Workers(2).map(halved, [4, 8, 2], 3)) == {0: 2, 1: 4, 2: 1}


def test_an_error_of_the_function_keeps_its_kind_and_message():
    with pytest.raises(JudgeError, match=r"^judge 'x': the key is wrong$") as caught:
        list(Workers(2).map(halved, [4, -1], 2))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("cause", [WorkerCrashedError(), OutOfMemoryError("no memory")])
def test_workers_that_keep_dying_are_no_fault_of_the_users(monkeypatch: pytest.MonkeyPatch, cause: Exception):
    def lost(_: Here, **__: object) -> Iterator[Batch]:
        raise cause

    monkeypatch.setattr(Here, "iter_batches", lost)
    with pytest.raises(ClusterLostError, match="the same command does the rest") as caught:
        list(Workers(2).map(halved, [4], 1))
    assert caught.value.exit_code == 3


def test_a_fault_of_the_code_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    def failed(_: Here, **__: object) -> Iterator[Batch]:
        raise RayTaskError("f", "Traceback", ZeroDivisionError())

    monkeypatch.setattr(Here, "iter_batches", failed)
    with pytest.raises(RayTaskError):
        list(Workers(2).map(halved, [4], 1))
