import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_r1.errors import StorageError
from safe_r1.inference.shard_buffer import ShardBuffer

LONG_S = 600.0


@given(st.lists(st.lists(st.integers(0, 3 * 2**18), max_size=5), max_size=12))
def test_each_row_is_written_once_and_in_order(adds: list[list[int]]):
    shards: list[list[int]] = []
    with ShardBuffer[int](lambda rows: shards.append(list(rows)), max_mib=1, max_age_s=LONG_S) as buffer:
        for sizes in adds:
            buffer.add(sizes, sum(sizes))
    assert [row for shard in shards for row in shard] == [size for sizes in adds for size in sizes]
    # Every shard but the last has reached its size, and none could have been cut earlier.
    assert all(sum(shard) >= 2**20 for shard in shards[:-1])
    assert all(shards)


def test_without_waiting_every_add_is_a_shard():
    shards: list[list[int]] = []
    with ShardBuffer[int](lambda rows: shards.append(list(rows)), max_mib=8, max_age_s=0) as buffer:
        buffer.add([1, 2], 10)
        buffer.add([], 0)
        buffer.add([3], 5)
    assert shards == [[1, 2], [3]]


def test_a_row_is_written_when_its_time_has_come_though_no_other_finishes():
    written = threading.Event()
    with ShardBuffer[int](lambda _: written.set(), max_mib=8, max_age_s=0.2) as buffer:
        buffer.add([1], 10)
        assert written.wait(30)


def test_rows_are_kept_where_the_job_ends_with_an_error():
    shards: list[list[int]] = []

    def interrupted() -> None:
        with ShardBuffer[int](lambda rows: shards.append(list(rows)), 8, LONG_S) as buffer:
            buffer.add([1], 10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert shards == [[1]]


def test_a_storage_that_comes_back_gets_rows_in_time_again():
    failures = iter([StorageError("no room"), StorageError("no room")])
    shards: list[list[int]] = []
    written = threading.Event()

    def write(rows: Sequence[int]) -> None:
        if error := next(failures, None):
            raise error
        shards.append(list(rows))
        written.set()

    with ShardBuffer[int](write, max_mib=8, max_age_s=0.1) as buffer:
        buffer.add([1], 10)
        assert written.wait(30)
        assert shards == [[1]]


def test_a_write_that_failed_in_the_thread_is_tried_again_by_the_job():
    shards: list[list[int]] = []
    has_failed = threading.Event()

    def write(rows: Sequence[int]) -> None:
        if threading.current_thread() is not threading.main_thread():
            has_failed.set()
            raise StorageError("no room")
        shards.append(list(rows))

    with ShardBuffer[int](write, max_mib=8, max_age_s=0.1) as buffer:
        buffer.add([1], 10)
        assert has_failed.wait(30)
        time.sleep(0.2)
        buffer.add([2], 10)
        assert shards == [[1, 2]]
