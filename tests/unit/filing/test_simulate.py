"""Simulated services against exact chances: the naive rule, people's verdicts, and the errors of each way."""

import math

import pytest
from scipy.stats import binom

from safe_r1.filing.policy import load_policy
from safe_r1.filing.simulate import JudgeErrors, Row, readings_by_hits, simulate
from safe_r1.gate.decide import Status

NUM = 400


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return simulate(load_policy(), num_services=NUM)


def near(share: float, chance: float) -> bool:
    """Within five standard errors, and a service."""
    return abs(share - chance) <= 5 * math.sqrt(chance * (1 - chance) / NUM) + 1 / NUM


def test_people_are_as_the_exact_chances_say(rows: list[Row]):
    assert len(rows) == 21
    for row in rows:
        assert near(row.people.naive, row.line.chance_of_next(row.rate, row.num_sample)), row
        readings = readings_by_hits(row.line, row.num_sample)
        for status, share in ((Status.PASS, row.people.passed), (Status.FAIL, row.people.failed)):
            chance = sum(
                binom.pmf(hits, row.num_sample, row.rate)
                for hits, each in enumerate(readings)
                if each is status
            )
            assert near(share, float(chance)), (row, status)


def test_a_judge_reads_the_rate_that_its_errors_make(rows: list[Row]):
    errors = JudgeErrors()
    for row in rows:
        read = row.rate * errors.sensitivity + (1 - row.rate) * (1 - errors.specificity)
        assert near(row.judge.naive, row.line.chance_of_next(read, row.num_sample)), row


def test_verdicts_with_labels_are_seldom_wrong(rows: list[Row]):
    for row in rows:
        for shares in (row.people, row.labelled):
            assert shares.passed + shares.failed + shares.not_sure == pytest.approx(1)
        wrong = row.labelled.failed if row.is_good else row.labelled.passed
        # Nominal are 2.5 %.
        assert wrong <= 0.06, row
    # As read, the same judge fails services that are two points better than the line.
    good = next(row for row in rows if row.bank == "refuse" and row.rate == pytest.approx(0.97))
    assert good.judge.failed > 0.15
    assert good.labelled.failed < 0.02


def test_the_same_seed_gives_the_same_services():
    policy = load_policy()
    assert simulate(policy, num_services=5) == simulate(policy, num_services=5)
    assert simulate(policy, num_services=5) != simulate(policy, num_services=5, seed=1)
