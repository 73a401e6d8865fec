"""Success within k calls against a count from the definition."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safe_r1.metrics.attack_curve import Attempt, Search, success_curve
from safe_r1.metrics.intervals import clustered_interval, wilson_interval
from safe_r1.metrics.outcomes import Outcome

HIT, MISS, MISSING = Outcome.HIT, Outcome.MISS, Outcome.MISSING
attempts = st.builds(
    Attempt, st.integers(1, 4), st.integers(0, 500), st.sampled_from([HIT, MISS, MISS, MISSING, None])
)
searches = st.builds(
    Search, st.lists(attempts, max_size=9), st.booleans(), question=st.none(), weight=st.just(1.0)
)


def within(search: Search, k: int) -> tuple[Outcome, int, int, int]:
    """Outcome, calls of the target, all calls and tokens of the attempts that count within k calls."""
    counted: list[Attempt] = []
    for attempt in search.attempts:
        asked = sum(each.found is not None for each in counted)
        is_over = any(each.found is HIT for each in counted) or (asked == k)
        if not is_over:
            counted.append(attempt)
    found = [each.found for each in counted if each.found is not None]
    if HIT in found:
        outcome = HIT
    elif MISSING in found or (len(found) < k and not search.is_finished):
        outcome = MISSING
    else:
        outcome = MISS
    calls = sum(each.num_calls for each in counted)
    return outcome, len(found), calls, sum(each.num_tokens for each in counted)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(searches, max_size=8))
def test_every_point_is_a_count(found: list[Search]):
    curve = success_curve(found)
    reached = [
        next((n for n in range(1, 10) if within(each, n)[0] is HIT), within(each, 99)[1]) for each in found
    ]
    most = max(reached, default=0)
    assert [point.k for point in curve] == sorted({k for k in (1, 2, 4, 8) if k <= most} | {most} - {0})
    for point in curve:
        rows = [within(each, point.k) for each in found]
        outcomes = [row[0] for row in rows]
        hits = outcomes.count(HIT)
        known = hits + outcomes.count(MISS)
        assert (point.num_successes, point.num_samples) == (hits, known)
        assert point.num_missing == outcomes.count(MISSING)
        assert point.value == (pytest.approx(hits / known) if known else None)
        if known:
            assert (point.low, point.high) == wilson_interval(hits, known)
        assert point.bound_low == pytest.approx(hits / len(found))
        assert point.bound_high == pytest.approx(1 - outcomes.count(MISS) / len(found))
        assert point.mean_target_calls == pytest.approx(sum(row[1] for row in rows) / len(found))
        assert point.mean_calls == pytest.approx(sum(row[2] for row in rows) / len(found))
        assert point.mean_tokens == pytest.approx(sum(row[3] for row in rows) / len(found))
    assert all(a.bound_low <= b.bound_low for a, b in itertools.pairwise(curve))


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(st.tuples(st.lists(searches, min_size=1, max_size=3), st.integers(1, 4)), min_size=1, max_size=5)
)
def test_questions_are_weighted_and_their_repeats_are_clusters(given_: list[tuple[list[Search], int]]):
    found = [
        search._replace(question=f"q{number}", weight=float(weight))
        for number, (repeats, weight) in enumerate(given_)
        for search in repeats
    ]
    for point in success_curve(found):
        rows: dict[str, list[Outcome]] = {}
        for each in found:
            rows.setdefault(str(each.question), []).append(within(each, point.k)[0])
        hits = [outcomes.count(HIT) for outcomes in rows.values()]
        missing = [outcomes.count(MISSING) for outcomes in rows.values()]
        asked = [len(outcomes) for outcomes in rows.values()]
        weights = [weight for _, weight in given_]

        def share(top: list[int], of: list[int], weights: list[int] = weights) -> float:
            weighted = [sum(w * n for w, n in zip(weights, each, strict=True)) for each in (top, of)]
            return weighted[0] / weighted[1]

        known = [a - m for a, m in zip(asked, missing, strict=True)]
        assert point.bound_low == pytest.approx(share(hits, asked))
        assert point.bound_high == pytest.approx(
            share([h + m for h, m in zip(hits, missing, strict=True)], asked)
        )
        assert point.num_samples == sum(known)
        if not any(known):
            assert point.value is None
            continue
        assert point.value == pytest.approx(share(hits, known))
        kept = [each for each in zip(hits, known, weights, strict=True) if each[1]]
        low, high, _ = clustered_interval(*map(list, zip(*kept, strict=True)))
        assert (point.low, point.high) == pytest.approx((low, high))


def test_repeats_make_an_interval_no_narrower():
    ask = [Search([Attempt(1, 0, HIT if number % 2 else MISS)], question=number) for number in range(8)]
    [once] = success_curve(ask)
    [often] = success_curve(ask * 5)
    assert (once.value, often.value) == (0.5, 0.5)
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=0.1)
    [apart] = success_curve([each._replace(question=None) for each in ask * 5])
    assert apart.high is not None
    assert often.high is not None
    assert often.high - 0.5 > 1.5 * (apart.high - 0.5)


def test_nothing_asked_is_no_curve():
    assert success_curve([]) == []
    assert success_curve([Search([Attempt(1, 9, None)])]) == []
