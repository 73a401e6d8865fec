from typing import Any

import pytest

from tests.bench.engine_counts import EngineCounts
from tests.bench.measure import Timings, compare


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
