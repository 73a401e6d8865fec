"""Samples on the disk: the same ones as in memory, without their memory."""

import errno
import gc
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from safe_r1.benchmarks import sample_table
from safe_r1.benchmarks.sample_table import SampleTable
from safe_r1.errors import StorageError
from safe_r1.schema import SAMPLE_SCHEMA, Message, Sample, Task

pytestmark = pytest.mark.slow

TASKS: tuple[Task, ...] = ("mcq", "refusal", "over_refusal", "math")


def make_samples(count: int, chars: int = 20) -> Iterator[Sample]:
    rng = random.Random(count)
    for number in range(count):
        task = rng.choice(TASKS)
        turns = [Message(role="user", content="问" * rng.randrange(chars)) for _ in range(rng.choice((1, 3)))]
        options = {"A": "是 ", "B": ""} if task == "mcq" else {}
        metadata = {"answer": "A", "has_history": "true"} if rng.random() < 0.5 else {}
        area = f"area-{rng.randrange(5)}"
        yield Sample(
            f"q/{task}/{number}", "q", task, area, f"{area}/{rng.randrange(9)}", turns, options, metadata
        )


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 5000])
def test_a_table_is_the_sequence_that_was_spooled(count: int):
    expected = list(make_samples(count))
    table = SampleTable.spool(iter(expected))
    assert len(table) == count
    assert list(table) == expected
    assert [table[place] for place in range(count)] == expected
    for part in (slice(None), slice(1, 1500, 7), slice(-3, None), slice(None, None, -1000), slice(9, 2)):
        assert table[part] == expected[part]
    if count:
        assert table[-1] == expected[-1]
        assert table[-count] == expected[0]
    for place in (count, -count - 1):
        with pytest.raises(IndexError):
            table[place]
    for name in sample_table.COLUMNS:
        assert table.column(name).to_pylist() == [getattr(sample, name) for sample in expected]


def test_columns_of_batches_are_those_of_rows():
    expected = list(make_samples(300))
    rows = pa.RecordBatch.from_pylist([sample.to_row() for sample in expected], schema=SAMPLE_SCHEMA)
    encoded = sample_table._encode(expected)  # pyright: ignore[reportPrivateUsage]
    assert encoded.equals(rows)
    assert [Sample.from_row(row) for row in encoded.to_pylist()] == expected


def test_rows_are_read_again_in_any_order():
    expected = list(make_samples(4000))
    table = SampleTable.spool(expected)
    order = list(range(4000))
    random.Random(0).shuffle(order)
    assert [table[place] for place in order[:300]] == [expected[place] for place in order[:300]]


def test_batches_are_bounded_by_rows_and_by_text(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    encode = sample_table._encode  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(sample_table, "_encode", lambda rows: sizes.append(len(rows)) or encode(rows))
    SampleTable.spool(make_samples(2500))
    assert sizes == [1024, 1024, 452]
    sizes.clear()
    long = [
        Sample(str(n), "q", "refusal", "a", "a", [Message(role="user", content="长" * 400_000)])
        for n in range(7)
    ]
    assert list(SampleTable.spool(long)) == long
    assert sizes == [3, 3, 1]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files")
def test_nothing_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = open_files()
    table = SampleTable.spool(make_samples(2000))
    assert open_files() > before
    # No name, so that nothing is left even by a process that is killed.
    assert not list(tmp_path.iterdir())
    del table
    gc.collect()
    assert open_files() == before


def test_a_full_disk_is_one_clear_line(monkeypatch: pytest.MonkeyPatch):
    class Full:
        closed = False

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def tell(self) -> int:
            return 0

        def flush(self) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(StorageError, match=r"No space left on device.*TMPDIR") as error:
        SampleTable.spool(make_samples(10))
    assert "\n" not in str(error.value)


def test_an_error_of_the_source_stays_its_own():
    def broken() -> Iterator[Sample]:
        yield from make_samples(3)
        raise PermissionError("of the source")

    with pytest.raises(PermissionError, match="of the source"):
        SampleTable.spool(broken())
