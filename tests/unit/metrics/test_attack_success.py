"""Attack success against direct counts."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_r1.metrics.attack_success import Outcomes, any_of, compare_with_plain
from safe_r1.metrics.outcomes import Outcome
from safe_r1.metrics.rate_fold import unweighted

HIT, MISS, MISSING = Outcome.HIT, Outcome.MISS, Outcome.MISSING
outcomes = st.dictionaries(st.integers(0, 12).map(str), st.sampled_from(list(Outcome)), min_size=1)


def rows(found: dict[str, Outcome]) -> Outcomes:
    def row(question: str) -> Any:
        sample = SimpleNamespace(area="a", category="a/c", task="refusal", metadata={})
        return SimpleNamespace(question_id=question, sample=sample)

    return {(question, 0): (row(question), each) for question, each in found.items()}


@given(outcomes, outcomes)
def test_the_difference_is_that_of_the_paired_questions(
    plain: dict[str, Outcome], attacked: dict[str, Outcome]
):
    both = plain.keys() & attacked.keys()
    known = [each for each in both if MISSING not in (plain[each], attacked[each])]
    found = compare_with_plain(rows(plain), rows(attacked), unweighted)
    if not known:
        assert found is None
        return
    assert found is not None
    change = [(attacked[each] is HIT) - (plain[each] is HIT) for each in known]
    assert found.value == pytest.approx(sum(change) / len(known))
    assert (found.num_asked, found.num_missing) == (len(both), len(both) - len(known))
    # Over all ways in which the missing outcomes may be.
    low = sum((attacked[each] is HIT) - (plain[each] is not MISS) for each in both) / len(both)
    high = sum((attacked[each] is not MISS) - (plain[each] is HIT) for each in both) / len(both)
    assert (found.bound_low, found.bound_high) == (pytest.approx(low), pytest.approx(high))


@given(st.lists(outcomes, min_size=1, max_size=4))
def test_any_of_the_set_counts_a_question_once(attacks: list[dict[str, Outcome]]):
    found = any_of({str(number): rows(each) for number, each in enumerate(attacks)}, unweighted)
    questions = {
        question: [each[question] for each in attacks if question in each]
        for each in attacks
        for question in each
    }
    hits = sum(HIT in each for each in questions.values())
    missing = sum(HIT not in each and MISSING in each for each in questions.values())
    overall = [rate for rate in found if rate.scope == "overall"]
    if len(questions) == missing:
        assert not overall
        return
    [rate] = overall
    assert (rate.numerator, rate.denominator, rate.num_missing) == (hits, len(questions) - missing, missing)


def test_no_question_in_common():
    assert compare_with_plain(rows({"1": HIT}), rows({"2": HIT}), unweighted) is None
