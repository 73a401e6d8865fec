import pytest

from tests.bench.measure import Timings, compare, steady_tokens_per_s


def test_steady_speed_leaves_out_start_and_tail() -> None:
    # Row i finishes at second 100 + i with 10 tokens; the first two and the last two of 20 rows lie 1,000 s
    # away.
    middle = [(100.0 + i, 10) for i in range(2, 18)]
    edges = [(-900.0, 10), (-899.0, 10), (1100.0, 10), (1101.0, 10)]
    assert steady_tokens_per_s([*edges, *middle]) == pytest.approx(10.0)


def test_rows_of_one_shard_count_together() -> None:
    # Shards of 4 rows every 2 seconds, 5 tokens a row: 10 tokens/s.
    finishes = [(2.0 * shard, 5) for shard in range(10) for _ in range(4)]
    assert steady_tokens_per_s(finishes) == pytest.approx(10.0)


@pytest.mark.parametrize("finishes", [[(float(i), 1) for i in range(19)], [(1.0, 5)] * 50])
def test_too_little_to_measure_is_refused(finishes: list[tuple[float, int]]) -> None:
    with pytest.raises(ValueError, match="too close together"):
        steady_tokens_per_s(finishes)


def test_ratios_are_taken_pair_by_pair() -> None:
    ours = [Timings(wall, 100, speed, {}) for wall, speed in ((10.0, 50.0), (30.0, 40.0), (12.0, 45.0))]
    theirs = [Timings(wall, 100, speed, {}) for wall, speed in ((20.0, 50.0), (30.0, 50.0), (10.0, 50.0))]
    result = compare(ours, theirs, "bare")
    # Wall: 0.5, 1.0, 1.2. Speed: 1.0, 0.8, 0.9.
    assert result["ratio_wall"] == pytest.approx(1.0)
    assert result["ratio_steady"] == pytest.approx(0.9)
    assert result["job"]["median_wall_s"] == 12.0
    assert result["bare"]["median_steady_tokens_per_s"] == 50.0


def test_no_ratio_of_speeds_that_one_side_does_not_have() -> None:
    result = compare([Timings(1.0, 1, 5.0, {})], [Timings(2.0, 1, None, {})], "harness")
    assert result["ratio_steady"] is None
    assert result["harness"]["median_steady_tokens_per_s"] is None
