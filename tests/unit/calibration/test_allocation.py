"""How many labels each stratum gets, and which texts are drawn: worked by hand."""

import pytest

from safe_r1.calibration.allocation import allocate, draw
from safe_r1.calibration.items import Item, Stratum
from safe_r1.errors import ConfigError


def test_the_minimum_and_then_size_times_standard_deviation():
    # 300 · 0.5 = 500 · 0.3, so the 92 labels beside the minimum of the third are shared equally.
    assert allocate([300, 500, 20], [0.5, 0.1, 0.1], 100) == [46, 46, 8]


def test_small_strata_are_labelled_whole():
    assert allocate([3, 400], [0.5, 0.5], 40) == [3, 37]
    assert allocate([3, 10], [0.5, 0.5], 500) == [3, 10]


@pytest.mark.parametrize("num", range(64, 564, 7))
def test_the_numbers_add_up(num: int):
    sizes = [12, 40, 8, 90, 3, 200, 55, 155]
    numbers = allocate(sizes, [0.02, 0.25, 0.3, 0.01, 0.25, 0.005, 0.2, 0.1], num)
    assert sum(numbers) == min(num, sum(sizes))
    assert all(min(8, size) <= number <= size for number, size in zip(numbers, sizes, strict=True))


def test_too_few_labels_are_refused():
    with pytest.raises(ConfigError, match=r"--n 15: too few for 2 strata .* give --n 16 or more"):
        allocate([100, 100], [0.1, 0.1], 15)


def stratum(label: str) -> Stratum:
    return Stratum("answer", "refusal", label, "")


ITEMS = [
    Item(f"s/{place}", 0, stratum("直接拒绝" if place % 3 else "拒绝并负责任引导"), place)
    for place in range(90)
]


def test_a_larger_sample_holds_the_smaller_one():
    small = draw(ITEMS, {ITEMS[0].stratum: 5, ITEMS[1].stratum: 9}, seed=1)
    large = draw(ITEMS, {ITEMS[0].stratum: 9, ITEMS[1].stratum: 20}, seed=1)
    assert len(small) == 14
    assert set(small) < set(large)
    assert set(draw(ITEMS, {ITEMS[0].stratum: 5, ITEMS[1].stratum: 9}, seed=2)) != set(small)


def test_every_text_has_the_same_chance_and_the_order_tells_no_stratum():
    numbers = {ITEMS[0].stratum: 10, ITEMS[1].stratum: 10}
    drawn = [draw(ITEMS, numbers, seed) for seed in range(300)]
    hits = [sum(ITEMS[place] in each for each in drawn) for place in (0, 30, 60)]
    # 10 of 30: 100 of 300 expected, standard deviation 8.
    assert all(70 < each < 130 for each in hits)
    first = sum(each[0].stratum == ITEMS[0].stratum for each in drawn)
    assert 110 < first < 190
