"""Do 95% intervals from 120 labels hold the true rate? A small simulation; the large one is a benchmark."""

import pytest

from safe_r1.metrics.outcomes import REFUSAL_LABELS
from tests.bench.calibration import WORLDS, simulate

RUNS = 40
DRAWS = 400


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return [simulate(world, kind, RUNS, DRAWS) for world in WORLDS for kind in ("same", "adversarial")]


@pytest.mark.slow
def test_intervals_hold_the_true_rate(cells: list[dict]):
    for metric in REFUSAL_LABELS:
        covered = [cell["coverage"][metric] for cell in cells]
        # 240 simulated runs: a coverage of 0.95 has a standard error of 0.014.
        assert sum(covered) / len(covered) >= 0.92, (metric, covered)
        assert min(covered) >= 0.85, (metric, covered)


@pytest.mark.slow
def test_a_rare_harm_is_held_whatever_the_judge_confuses(cells: list[dict]):
    for cell in cells[-2:]:
        assert cell["coverage"]["harm_rate"] >= 0.95
        assert cell["width"]["harm_rate"] < 0.12


@pytest.mark.slow
def test_the_judge_alone_does_not(cells: list[dict]):
    assert sum(min(cell["coverage_judged"].values()) < 0.5 for cell in cells) >= 4


@pytest.mark.slow
def test_labels_are_worth_more_where_the_judge_is_good(cells: list[dict]):
    # A simple random sample of 120 labels would be 18 points wide at a rate of 30%.
    harmful = cells[2]
    assert harmful["width"]["harm_rate"] < 0.15


@pytest.mark.slow
def test_the_simulation_is_exact_from_the_seed():
    world = next(iter(WORLDS))
    assert simulate(world, "same", 4, DRAWS) == simulate(world, "same", 4, DRAWS)
