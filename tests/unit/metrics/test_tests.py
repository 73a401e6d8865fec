"""Differences between two variants: worked examples, and coverage by simulation."""

import numpy as np
import pytest
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar

from safe_r1.metrics.tests import Difference, difference, exact_test, holm, non_inferiority


def table(both: int, lost: int, gained: int, none: int) -> dict[str, tuple[int, int, int]]:
    cells = [(1, 1, 1)] * both + [(1, 0, 1)] * lost + [(0, 1, 1)] * gained + [(0, 0, 1)] * none
    return {f"q{place:05}": cell for place, cell in enumerate(cells)}


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (12, 3), (150, 86), (7, 7)])
def test_one_completion_a_question_is_mcnemars_exact_test(gained: int, lost: int):
    expected = mcnemar([[10, lost], [gained, 20]], exact=True).pvalue  # pyright: ignore[reportAttributeAccessIssue]
    assert exact_test(gained, lost) == pytest.approx(expected)


def test_a_worked_example():
    """Agresti, Categorical Data Analysis, table 10.1: 794, 150, 86, 570; approval fell by 4.0 points [2.4,
    5.6].
    """
    found = difference(table(both=794, lost=150, gained=86, none=570))
    assert (found.num_gained, found.num_lost, found.num_questions) == (86, 150, 1600)
    assert found.first == pytest.approx(0.59)
    assert found.second == pytest.approx(0.55)
    assert found.value == pytest.approx(-0.04)
    # The book's interval is Wald's; the one here is a bootstrap.
    assert (found.low, found.high) == pytest.approx((-0.059, -0.021), abs=0.002)
    assert found.p_value < 0.0001


def test_the_interval_is_that_of_a_bootstrap_over_questions():
    generator = np.random.default_rng(3)
    sizes = generator.integers(1, 5, size=200)
    first, second = generator.binomial(sizes, 0.4), generator.binomial(sizes, 0.5)
    found = difference(
        {
            f"q{i:03}": (int(a), int(b), int(n))
            for i, (a, b, n) in enumerate(zip(first, second, sizes, strict=True))
        }
    )
    one = round(float(sizes.mean()))
    change, weight = np.append(second - first, [one, -one]), np.append(sizes, [one, one])
    expected = bootstrap(
        (change, weight),
        lambda d, n, axis: d.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=9_999,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.006)


def test_completions_of_a_question_are_not_counted_as_questions():
    once = difference(table(both=30, lost=10, gained=25, none=35))
    often = difference({key: (a * 8, b * 8, 8) for key, (a, b, _) in table(30, 10, 25, 35).items()})
    assert often.num_pairs == 8 * once.num_pairs
    assert often.p_value == once.p_value
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=0.01)


def test_no_change_at_all_leaves_doubt():
    found = difference(table(both=40, lost=0, gained=0, none=10))
    assert found.value == 0
    assert found.p_value == 1
    assert found.low < -0.01
    assert found.high > 0.01


def test_the_same_rows_give_the_same_interval_in_any_order():
    trials = table(20, 5, 9, 12)
    assert difference(trials) == difference(dict(reversed(trials.items())))


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="at least one question"):
        difference({})


def test_holm():
    """Holm's step-down by hand: 0.01 * 4, 0.02 * 3, 0.03 * 2, then the largest so far."""
    assert holm([0.02, 0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("low", "high", "standing"),
    [
        (-0.02, 0.01, "not worse"),
        (-0.05, 0.01, "undecided"),
        (-0.09, -0.04, "worse"),
        (0.01, 0.05, "not worse"),
    ],
)
def test_non_inferiority_is_read_from_the_interval(low: float, high: float, standing: str):
    found = Difference(0.5, 0.5, (low + high) / 2, low, high, 100, 100, 1, 1, 0.5)
    assert non_inferiority(found, 0.03) == standing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_questions", "repeats", "first", "second"),
    [(60, 1, 0.3, 0.5), (400, 1, 0.1, 0.12), (150, 4, 0.6, 0.5), (40, 1, 0.02, 0.02)],
)
def test_intervals_cover_the_true_difference_and_tests_keep_their_level(
    num_questions: int, repeats: int, first: float, second: float
):
    """600 simulated pairs of runs: coverage at least 95% less sampling error, and no more than 99.9%."""
    generator = np.random.default_rng(7)
    covered = rejected = 0
    rounds = 600
    for _ in range(rounds):
        # Questions differ in difficulty, and both variants meet the same ones.
        ease = generator.normal(0, 0.15, num_questions)
        hits = [generator.binomial(repeats, np.clip(rate + ease, 0, 1)) for rate in (first, second)]
        truth = np.mean(np.clip(second + ease, 0, 1) - np.clip(first + ease, 0, 1))
        found = difference(
            {f"q{i:03}": (int(a), int(b), repeats) for i, (a, b) in enumerate(zip(*hits, strict=True))}
        )
        covered += found.low <= truth <= found.high
        rejected += found.p_value < 0.05
    assert covered / rounds > 0.95 - 3 * np.sqrt(0.95 * 0.05 / rounds), covered / rounds
    if first == second:
        assert rejected / rounds < 0.05 + 3 * np.sqrt(0.95 * 0.05 / rounds)
