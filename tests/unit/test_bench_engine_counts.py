"""The engine's counters, worked by hand on the lines that the probe writes."""

import json
from pathlib import Path

import pytest

from tests.bench.conditions import DifferentConditionsError, check_same
from tests.bench.engine_counts import EngineRecord, read_engine

_CONDITIONS = {"num_threads": 2, "cpus": [0, 1], "nice": 0, "environment": {}}
# Two slots and three rows. Both slots are filled at second 10; at 12 a row ends, and the second slot stays
# empty until 13, when the last row is admitted; at 15 one row runs; all have ended at 17.
_SCHEDULER = [
    ["loaded", 1.0],
    ["ready", 9.0, {"max_num_seqs": 2}],
    ["scheduled", 10.0, 2, 1, 2],
    ["updated", 12.0, 1, 2],
    ["scheduled", 13.0, 2, 0, 1],
    ["updated", 15.0, 1, 2],
    ["scheduled", 15.0, 1, 0, 0],
    ["updated", 17.0, 0, 1],
]
_WORKER = [
    ["loaded", 2.0],
    ["weights", 8.0],
    ["conditions", 10.0, _CONDITIONS],
    ["executing", 10.0, 4.0],
    ["executing", 13.0, 7.0],
    ["executing", 15.0, 9.5],
]


def test_counts_are_those_of_the_steps(tmp_path: Path) -> None:
    counts = _engine(tmp_path).count()
    assert counts.steps == 3
    assert counts.tokens == 5
    assert counts.engine_s == pytest.approx(7.0)
    assert counts.tokens_per_s == pytest.approx(5 / 7)
    # 2 rows for 2 s, 1 for 1 s, 2 for 2 s, 1 for 2 s.
    assert counts.mean_running == pytest.approx((4 + 1 + 4 + 2) / 7)
    assert counts.worker_cpu_s == pytest.approx(5.5)


def test_fill_is_taken_while_rows_are_left(tmp_path: Path) -> None:
    # Until second 13: 2 rows for 2 s and 1 row for 1 s, of 2 slots. The tail does not count.
    assert _engine(tmp_path).count().fill == pytest.approx(5 / 6)


def test_no_fill_where_the_first_step_admits_all(tmp_path: Path) -> None:
    assert _engine(tmp_path).count(until=12.0).fill is None


def test_a_window_counts_its_own_steps(tmp_path: Path) -> None:
    counts = _engine(tmp_path).count(since=13.0)
    assert (counts.steps, counts.tokens, counts.engine_s) == (2, 3, pytest.approx(4.0))
    with pytest.raises(ValueError, match="no step"):
        _engine(tmp_path).count(since=100.0)


def test_moments_of_the_start(tmp_path: Path) -> None:
    moments = _engine(tmp_path).moments
    assert moments == (1.0, 8.0, 9.0, 10.0, 12.0, 17.0)


def test_several_engines_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "7.jsonl", _SCHEDULER)
    _write(tmp_path / "8.jsonl", _SCHEDULER)
    with pytest.raises(ValueError, match="2 engines"):
        read_engine(tmp_path)


def test_sides_that_ran_differently_are_refused() -> None:
    ours = {"engine": {"max_num_seqs": 64}, "workers": {"worker 0": _CONDITIONS}}
    theirs = {"engine": {"max_num_seqs": 64}, "workers": {"worker 0": _CONDITIONS | {"num_threads": 1}}}
    assert check_same({"job": [ours, ours], "bare": [ours]}) == ours
    with pytest.raises(DifferentConditionsError, match=r"job and bare.*worker 0\.num_threads 2 against 1"):
        check_same({"job": [ours], "bare": [ours, theirs]})


def _engine(folder: Path) -> EngineRecord:
    _write(folder / "7.jsonl", _SCHEDULER)
    _write(folder / "8.jsonl", _WORKER)
    _write(folder / "9.jsonl", [["loaded", 3.0]])
    return read_engine(folder)


def _write(path: Path, lines: list[list[object]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
