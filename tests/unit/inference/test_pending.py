"""Rows that wait for an endpoint: each once, one batch in memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from safe_r1.inference.pending import Pending
from safe_r1.inference.requests import Request


@dataclass
class CountedBatch:
    """A batch that counts how often it is read."""

    names: str
    num_reads: int = 0

    @property
    def num_rows(self) -> int:
        return len(self.names)

    def read(self) -> Iterator[Request]:
        self.num_reads += 1
        return (Request(name, [], 1, 0) for name in self.names)


def test_rows_come_once_and_batches_are_read_when_they_are_needed():
    batches = [CountedBatch("abc"), CountedBatch("de"), CountedBatch("f")]
    pending = Pending(batches, {"b", "d", "e"})
    assert len(pending) == 3
    assert [batch.num_reads for batch in batches] == [0, 0, 0]
    first = pending.take()
    assert (first.key, len(pending)) == ("a", 2)
    pending.give_back(first)
    assert len(pending) == 3
    assert [pending.take().key for _ in range(2)] == ["a", "c"]
    assert [batch.num_reads for batch in batches] == [1, 0, 0]
    # The second batch has nothing to ask for.
    assert pending.take().key == "f"
    assert [batch.num_reads for batch in batches] == [1, 1, 1]
    assert not pending
    with pytest.raises(IndexError):
        pending.take()
