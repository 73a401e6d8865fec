"""Weights of a selection of questions, and how often their intervals hold the whole benchmark's rate."""

from collections import Counter

import numpy as np
import pytest

from safe_r1.benchmarks.selection import select
from safe_r1.errors import IntegrityError
from safe_r1.metrics.intervals import clustered_interval, weighted_share
from safe_r1.metrics.strata import Population, Selection, stratum_of
from safe_r1.schema import Sample

# By category: (questions, chance of a hit). Small ones, which a selection draws from most, differ most.
CATEGORIES = {"a": (700, 0.9), "b": (250, 0.5), "c": (40, 0.2), "d": (10, 0.05)}


def question(category: str, number: int, *, history: bool = False, **metadata: str) -> Sample:
    metadata = {"has_history": str(history).lower(), **metadata}
    name = f"q/{category}/{history}/{number}"
    return Sample(name, "q", "refusal", "area", category, [{"role": "user", "content": "?"}], {}, metadata)


def benchmark() -> list[Sample]:
    plain = [question(name, number) for name, (size, _) in CATEGORIES.items() for number in range(size)]
    return plain + [question("a", number, history=True) for number in range(60)]


def test_weights_give_every_group_and_category_its_share():
    samples = benchmark()
    population = Population.of(samples)
    assert Population.from_json(population.to_json()) == population
    chosen = list(select(samples, 50, 0, swap=False))
    selection = Selection.of(chosen, population)
    assert (selection.num_questions, selection.num_population) == (50, 1060)
    total: Counter[tuple[str, bool]] = Counter()
    for sample in chosen:
        total[stratum_of(sample).group] += selection.weight(sample)  # pyright: ignore[reportArgumentType]
    assert total["refusal", False] == pytest.approx(1000)
    assert total["refusal", True] == pytest.approx(60)
    of_b = sum(selection.weight(each) for each in chosen if each.category == "b")
    met = {each.category for each in chosen if not stratum_of(each).has_history}
    assert of_b == pytest.approx(250 * 1000 / sum(CATEGORIES[name][0] for name in met))


def test_a_stratum_that_was_not_drawn_from_is_stood_for_by_its_group():
    samples = [question("a", 0), question("a", 1), question("b", 0), question("b", 1, history=True)]
    selection = Selection.of([samples[0], samples[3]], Population.of(samples))
    assert [selection.weight(samples[place]) for place in (0, 3)] == [3, 1]


def test_all_questions_have_weight_1_and_reversed_forms_that_of_their_original():
    samples = benchmark()
    reversed_form = question("a", 0, swap_of=samples[0].sample_id)
    selection = Selection.of([*samples, reversed_form], Population.of(samples))
    assert {selection.weight(sample) for sample in [*samples, reversed_form]} == {1.0}
    assert selection.num_questions == len(samples)


def test_a_population_of_other_questions_is_refused():
    with pytest.raises(IntegrityError, match=r"population.json.*refusal/False/z"):
        Selection.of([question("z", 0)], Population.of(benchmark()))


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("limit", [40, 120])
def test_coverage_of_the_weighted_interval_is_at_least_nominal(limit: int, repeats: int):
    """Questions of a category have chances around its own; 95% within sampling error, and unbiased."""
    rng = np.random.default_rng(20261129)
    samples = [question(name, number) for name, (size, _) in CATEGORIES.items() for number in range(size)]
    true = sum(size * chance for size, chance in CATEGORIES.values()) / len(samples)
    chosen = list(select(samples, limit, 0, swap=False))
    # One of each small category on top, as areas with quotas of their own have.
    chosen += [samples[place] for place in range(950, 1000, 5) if samples[place] not in chosen]
    selection = Selection.of(chosen, Population.of(samples))
    weights = [selection.weight(sample) for sample in chosen]
    means = np.asarray([CATEGORIES[sample.category][1] for sample in chosen])
    trials = np.full(len(chosen), repeats)
    method = clustered_interval(trials, trials, weights)[2]
    covered, values, naive = [], [], []
    for _ in range(1000):
        hits = rng.binomial(repeats, rng.beta(4 * means, 4 * (1 - means)))
        low, high, _ = clustered_interval(hits, trials, weights)
        covered.append(low <= true <= high)
        values.append(weighted_share(hits, trials, weights))
        naive.append(hits.sum() / trials.sum())
    assert method == ("wilson-weighted" if repeats == 1 else "wilson-cluster-weighted")
    assert np.mean(covered) >= 0.93
    assert np.mean(values) == pytest.approx(true, abs=0.012)
    assert abs(np.mean(naive) - true) > 0.02
