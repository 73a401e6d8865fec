import threading
from collections.abc import Iterator

import pytest

from safe_r1.errors import DataError
from safe_r1.train.batches import Batch, collate
from safe_r1.train.packed import DUMMY_SEQUENCE
from safe_r1.train.read_ahead import ReadAhead


class Reader:
    """Makes a batch whose number of tokens is the step, and records which steps were begun."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.threads: set[int] = set()
        self.reached_step_1 = threading.Event()
        self.broken: int | None = None

    def __call__(self, step: int) -> list[Batch]:
        self.begun.append(step)
        self.threads.add(threading.get_ident())
        if step == 1:
            self.reached_step_1.set()
        if step == self.broken:
            raise DataError(f"step {step} cannot be read")
        batch = collate([DUMMY_SEQUENCE], "cpu", varlen=False)
        return [Batch(batch.input_ids, batch.position_ids, batch.labels, batch.label_positions, step)]


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def batches(reader: Reader) -> Iterator[ReadAhead]:
    made = ReadAhead(reader, 5, "cpu")
    yield made
    made.close()


def steps(batches: ReadAhead, start: int, end: int) -> list[int]:
    return [batches.read(step)[0].num_tokens for step in range(start, end)]


@pytest.mark.parametrize("start", [0, 3])
def test_every_step_gets_its_own_batches_each_read_once(reader: Reader, batches: ReadAhead, start: int):
    assert steps(batches, start, 5) == list(range(start, 5))
    batches.close()
    assert reader.begun == list(range(start, 5))
    assert threading.get_ident() not in reader.threads


def test_the_next_step_is_read_while_this_one_is_trained(reader: Reader, batches: ReadAhead):
    assert steps(batches, 0, 1) == [0]
    assert reader.reached_step_1.wait(10)
    batches.close()
    assert reader.begun == [0, 1]


def test_an_error_is_raised_by_the_step_that_has_it(reader: Reader, batches: ReadAhead):
    reader.broken = 2
    assert steps(batches, 0, 2) == [0, 1]
    with pytest.raises(DataError, match="step 2 cannot be read"):
        batches.read(2)
