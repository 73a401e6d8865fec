"""Differences between two variants: worked examples, brute force, and coverage by simulation."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.contingency_tables import mcnemar

from safe_r1.metrics.tests import (
    ALPHA,
    PairedCounts,
    difference,
    holm,
    non_inferiority,
    sign_flip_test,
)

pytestmark = pytest.mark.slow

Trials = dict[str, PairedCounts]


def scored(first: int, second: int, pairs: int, weight: float = 1.0) -> PairedCounts:
    """A question all of whose completions have an outcome."""
    return PairedCounts(first, second, pairs, pairs, 0, second - first, second - first, weight)


def named(questions: Sequence[PairedCounts]) -> Trials:
    return {f"q{place:05}": counts for place, counts in enumerate(questions)}


def table(both: int, lost: int, gained: int, none: int) -> Trials:
    cells = [(1, 1)] * both + [(1, 0)] * lost + [(0, 1)] * gained + [(0, 0)] * none
    return named([scored(*cell, 1) for cell in cells])


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (12, 3), (150, 86), (7, 7), (400, 2)])
def test_one_completion_a_question_is_mcnemars_exact_test(gained: int, lost: int):
    expected = mcnemar([[10, lost], [gained, 20]], exact=True).pvalue  # pyright: ignore[reportAttributeAccessIssue]
    assert difference(table(10, lost, gained, 20)).p_value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_the_sign_flip_test_is_the_share_of_all_flips(seed: int):
    changes = np.random.default_rng(seed).integers(-4, 5, size=11)
    flips = np.array(list(product([1, -1], repeat=len(changes))))
    expected = np.mean(np.abs(flips @ changes) >= abs(changes.sum()))
    assert sign_flip_test(changes) == pytest.approx(expected, abs=1e-12)


def test_the_sign_flip_test_of_many_questions_is_exact_in_its_tail():
    changes = np.array([2] * 60 + [1] * 40 + [-1] * 3)
    assert sign_flip_test(changes) < 1e-9
    assert sign_flip_test(np.repeat([3, -3, 1], [20_000, 20_000, 1])) == pytest.approx(0.995, abs=0.01)


def test_p_value_and_interval_agree_for_every_table():
    """McNemar's test never rejects where the interval holds 0, so that p needs no correction there."""
    for changed in range(1, 40):
        for lost in range(changed // 2 + 1):
            is_rejected = min(1.0, 2 * binom.cdf(lost, changed, 0.5)) < ALPHA
            for unchanged in (0, 1, changed, 20 * changed):
                found = difference(table(0, lost, changed - lost, unchanged))
                assert (found.p_value < ALPHA) == is_rejected
                assert (found.low > 0 or found.high < 0) == is_rejected, (changed, lost, unchanged)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_p_value_interval_and_star_agree_for_several_completions_and_weights(is_weighted: bool):
    generator = np.random.default_rng(5)
    num_rejected = 0
    for _ in range(300):
        num, repeats = generator.integers(4, 60), generator.integers(1, 9)
        weights = generator.choice([1.0, 1.7, 4.2], num) if is_weighted else np.ones(num)
        hits = generator.binomial(repeats, generator.beta(0.5, 0.5, (2, num)))
        kept = generator.random(num) < generator.random()
        hits[1] = np.where(kept, hits[0], generator.binomial(repeats, generator.random(), num))
        questions = [
            scored(int(a), int(b), int(repeats), float(w)) for a, b, w in zip(*hits, weights, strict=True)
        ]
        found = difference(named(questions))
        is_rejected = found.p_value < ALPHA
        assert is_rejected == (found.low > 0 or found.high < 0) == (found.direction != 0)
        assert found.low <= found.value <= found.high
        num_rejected += is_rejected
    assert 30 < num_rejected < 270


def test_where_the_mean_and_the_majority_disagree_the_mean_decides():
    """Many questions rise by one of eight completions, few fall by all: the rate falls."""
    found = difference(named([scored(3, 4, 8)] * 60 + [scored(8, 0, 8)] * 12))
    assert (found.num_gained, found.num_lost) == (60, 12)
    assert found.value < 0
    assert (found.p_value < ALPHA) == (found.high < 0)
    assert found.direction <= 0


def test_a_worked_example():
    """Agresti, Categorical Data Analysis, table 10.1: 794, 150, 86, 570; approval fell by 4.0 points [2.4,
    5.6].
    """
    found = difference(table(both=794, lost=150, gained=86, none=570))
    assert (found.num_gained, found.num_lost, found.num_questions) == (86, 150, 1600)
    assert found.first == pytest.approx(0.59)
    assert found.second == pytest.approx(0.55)
    assert found.value == pytest.approx(-0.04)
    # The book's interval is Wald's, without the two added questions.
    assert (found.low, found.high) == pytest.approx((-0.059, -0.021), abs=0.001)
    assert found.p_value < 0.0001
    assert (found.bounds_low, found.bounds_high) == (found.low, found.high)


def test_weights_are_numbers_of_questions_in_the_rates_and_not_in_the_evidence():
    weighted = difference(named([scored(0, 1, 1, 3.0)] * 6 + [scored(1, 1, 1, 1.0)] * 30))
    assert weighted.value == pytest.approx(18 / 48)
    assert (weighted.first, weighted.second) == pytest.approx((30 / 48, 1.0))
    # Six questions rose and none fell: 2 of 64 flips.
    assert weighted.p_value == pytest.approx(2 / 64, abs=0.005)
    repeated = difference(table(both=30, lost=0, gained=18, none=0))
    assert weighted.high - weighted.low > repeated.high - repeated.low


def test_completions_of_a_question_are_not_counted_as_questions():
    once = difference(table(both=30, lost=10, gained=25, none=35))
    often = difference({key: scored(a * 8, b * 8, 8) for key, (a, b, *_) in table(30, 10, 25, 35).items()})
    assert often.num_pairs == 8 * once.num_pairs
    assert often.p_value == pytest.approx(once.p_value)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_no_change_at_all_leaves_doubt():
    found = difference(table(both=40, lost=0, gained=0, none=10))
    assert found.value == 0
    assert found.p_value == 1
    assert found.low < -0.01
    assert found.high > 0.01


def test_bounds_hold_whatever_the_missing_outcomes_are():
    """Forty pairs that all rise; thirty more have no outcome for the second variant, one for neither."""
    missing = [PairedCounts(0, 0, 0, 1, 1, -1, 0)] * 30 + [PairedCounts(0, 0, 0, 1, 1, -1, 1)]
    found = difference(named([scored(0, 1, 1)] * 40 + missing))
    assert found.value == 1
    assert (found.num_pairs, found.num_missing) == (40, 31)
    assert found.bound_low == pytest.approx((40 - 31) / 71)
    assert found.bound_high == pytest.approx(41 / 71)
    assert found.bounds_low < found.bound_low
    assert found.low > 0
    # Against the second variant 9 of 71: its interval holds 0, so that the pairs alone prove nothing.
    assert found.direction == 0


def test_the_same_rows_give_the_same_result_in_any_order():
    trials = {key: each._replace(weight=1 + len(key) % 3) for key, each in table(20, 5, 9, 12).items()}
    assert difference(trials) == difference(dict(reversed(trials.items())))


@pytest.mark.parametrize("trials", [{}, {"q": PairedCounts(0, 0, 0, 1, 1, -1, 1)}])
def test_nothing_to_compare_is_an_error(trials: Trials):
    with pytest.raises(ValueError, match="at least one question"):
        difference(trials)


def test_holm():
    """Holm's step-down by hand: 0.01 * 4, 0.02 * 3, 0.03 * 2, then the largest so far."""
    assert holm([0.02, 0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("cells", "standing"),
    [((900, 10, 10, 80), "not worse"), ((60, 12, 6, 22), "undecided"), ((300, 200, 10, 90), "worse")],
)
def test_non_inferiority_is_a_test_that_agrees_with_the_interval(
    cells: tuple[int, int, int, int], standing: str
):
    found = difference(table(*cells), margin=0.03)
    assert found.p_margin is not None
    assert non_inferiority(found, 0.03, found.p_margin) == standing
    assert (found.p_margin < ALPHA) == (found.low > -0.03 or found.high < -0.03)
    # A correction can only take a statement back.
    assert non_inferiority(found, 0.03, 0.06) == "undecided"


def test_missing_rows_leave_non_inferiority_open():
    unscored = [PairedCounts(0, 0, 0, 1, 1, -1, 1)] * 200
    found = difference(named([*table(900, 10, 10, 80).values(), *unscored]), margin=0.03)
    assert found.low > -0.03
    assert non_inferiority(found, 0.03, found.p_margin or 0.0) == "undecided"


@pytest.mark.slow
def test_sharper_answers_with_equal_means_are_no_difference():
    """Fine-tuning that only sharpens: a share of 0.75 in each question becomes 1 in three of four, 0 in one.

    A sign test over questions, of which far more rise than fall, rejects here nearly always.
    """
    generator = np.random.default_rng(11)
    rejected = 0
    rounds = 600
    for _ in range(rounds):
        before = generator.binomial(8, 0.75, 100)
        after = 8 * (generator.random(100) < 0.75)
        questions = [scored(int(a), int(b), 8) for a, b in zip(before, after, strict=True)]
        rejected += difference(named(questions)).p_value < ALPHA
    assert rejected / rounds < 0.05 + 3 * np.sqrt(0.05 * 0.95 / rounds), rejected / rounds


@pytest.mark.slow
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize(
    ("num_questions", "repeats", "first", "second"),
    [(60, 1, 0.3, 0.5), (400, 1, 0.1, 0.12), (150, 4, 0.6, 0.5), (40, 1, 0.02, 0.02)],
)
def test_intervals_cover_the_true_difference_and_tests_keep_their_level(
    num_questions: int, repeats: int, first: float, second: float, is_weighted: bool
):
    """400 simulated pairs of runs: coverage at least 95% less sampling error."""
    generator = np.random.default_rng(7)
    covered = rejected = 0
    rounds = 400
    weights = generator.choice([1.0, 2.5], num_questions) if is_weighted else np.ones(num_questions)
    for _ in range(rounds):
        # Questions differ in difficulty, and both variants meet the same ones.
        ease = generator.normal(0, 0.15, num_questions)
        rates = [np.clip(rate + ease, 0, 1) for rate in (first, second)]
        hits = [generator.binomial(repeats, rate) for rate in rates]
        truth = np.average(rates[1] - rates[0], weights=weights)
        questions = [
            scored(int(a), int(b), repeats, float(w)) for a, b, w in zip(*hits, weights, strict=True)
        ]
        found = difference(named(questions))
        covered += found.low <= truth <= found.high
        rejected += found.p_value < ALPHA
    assert covered / rounds > 0.95 - 3 * np.sqrt(0.95 * 0.05 / rounds), covered / rounds
    if first == second:
        assert rejected / rounds < 0.05 + 3 * np.sqrt(0.95 * 0.05 / rounds)
