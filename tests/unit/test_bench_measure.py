from typing import Any

import pytest

from tests.bench.engine_counts import EngineCounts, EngineRecord, Moments
from tests.bench.measure import Timings, compare, measure
from tests.bench.processes import Finished, Watched


def _timings(wall_s: float, tokens_per_s: float, first_token_s: float, worker_cpu_s: float = 10.0) -> Timings:
    counts: dict[str, Any] = {"engine_s": 1.0, "steps": 1, "mean_running": 1.0, "fill": None}
    engine = EngineCounts(
        **counts, tokens=100, tokens_per_s=tokens_per_s, worker_cpu_s=worker_cpu_s, max_num_seqs=4
    )
    return Timings(wall_s, engine, {"first_token": first_token_s}, {}, {}, {})


def test_ratios_are_taken_pair_by_pair() -> None:
    ours = [_timings(10.0, 50.0, 8.0, 10.0), _timings(30.0, 40.0, 9.0, 20.0), _timings(12.0, 45.0, 20.0, 5.0)]
    theirs = [_timings(20.0, 50.0, 5.0), _timings(30.0, 50.0, 5.0), _timings(10.0, 50.0, 5.0)]
    result = compare(ours, theirs, "bare")
    # Wall: 0.5, 1.0, 1.2. Speed: 1.0, 0.8, 0.9. Tokens per CPU second: 1.0, 0.5, 2.0. First token: 3, 4, 15.
    assert result["ratio_wall"] == pytest.approx(1.0)
    assert result["ratio_engine"] == pytest.approx(0.9)
    assert result["ratio_worker_cpu"] == pytest.approx(1.0)
    assert result["later_first_token_s"] == pytest.approx(4.0)
    assert result["job"]["median_wall_s"] == 12.0
    assert result["bare"]["median_engine_tokens_per_s"] == 50.0
    assert result["job"]["median_fill"] is None


def test_timeline_and_cpu_time_by_kind_of_process() -> None:
    # The job is 1, its Ray 2; an actor 3 owns the engine 4, whose worker is 5. The clock of processes is half
    # a second ahead.
    processes = {
        1: Watched(0, "python", 100.5, [(101.0, 1.0), (112.0, 3.0), (130.0, 9.0)]),
        2: Watched(1, "raylet", 102.5, [(112.0, 2.0)]),
        3: Watched(2, "ray::MapWorker(MapBatches)", 104.5, [(112.0, 5.0)]),
        4: Watched(3, "VLLM::EngineCore", 106.5, [(112.0, 4.0), (130.0, 6.0)]),
        5: Watched(4, "VLLM::Worker", 107.5, [(130.0, 20.0)]),
    }
    moments = Moments(105.0, 108.0, 109.0, 111.0, 112.0, 125.0)
    lines = [["scheduled", 111.0, 1, 0, 1], ["updated", 112.0, 1, 1], ["updated", 125.0, 0, 1]]
    engine = EngineRecord(4, frozenset({5}), moments, {"engine": {"max_num_seqs": 2}}, lines, [])
    timings = measure(Finished(1, 100.0, 30.0, processes), engine)
    assert timings.timeline_s == {
        "raylet_process": 2.0,
        "engine_owner_process": 4.0,
        "vllm_imported": 5.0,
        "engine_process": 6.0,
        "weights_loaded": 8.0,
        "engine_ready": 9.0,
        "first_step": 11.0,
        "first_token": 12.0,
        "last_token": 25.0,
        "end": 30.0,
    }
    assert timings.start_cpu_s == {"side": 3.0, "raylet": 2.0, "engine_owner": 5.0, "engine": 4.0}
    assert timings.cpu_s == {"side": 9.0, "raylet": 2.0, "engine_owner": 5.0, "engine": 26.0}
