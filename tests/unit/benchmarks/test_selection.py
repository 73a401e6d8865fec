from collections import Counter

import pytest

from safe_r1.benchmarks import get_benchmark
from safe_r1.benchmarks.selection import select


@pytest.fixture(scope="module")
def samples():
    return get_benchmark("chisafetybench-sample").load()


def test_a_limit_is_met_exactly_and_in_order(samples):
    order = [sample.sample_id for sample in samples]
    for limit in (1, 7, 60, len(samples)):
        chosen = [sample.sample_id for sample in select(samples, limit, 0, False)]
        assert len(chosen) == limit
        assert chosen == sorted(chosen, key=order.index)


def test_strata_keep_their_shares(samples):
    chosen = select(samples, 59, 0, False)
    for task, number in Counter(sample.task for sample in samples).items():
        assert abs(sum(sample.task == task for sample in chosen) - number * 59 / len(samples)) <= 6
    assert len({sample.category for sample in chosen}) >= 25


def test_a_small_limit_holds_some_of_each_group(samples):
    def groups(limit: int) -> Counter[tuple[str, str]]:
        return Counter(
            (s.task, s.metadata.get("has_history", "false")) for s in select(samples, limit, 0, False)
        )

    assert len(groups(3)) == 3
    assert groups(8) == {("mcq", "false"): 5, ("refusal", "false"): 2, ("refusal", "true"): 1}


def test_the_draw_follows_its_seed(samples):
    assert select(samples, 20, 1, False) == select(samples, 20, 1, False)
    assert select(samples, 20, 1, False) != select(samples, 20, 2, False)


def test_swapped_forms_come_on_top(samples):
    chosen = select(samples, 30, 0, True)
    swapped = [sample for sample in chosen if "swap_of" in sample.metadata]
    assert len(chosen) == 30 + len(swapped)
    assert len(swapped) == sum(sample.task == "mcq" for sample in chosen) / 2
