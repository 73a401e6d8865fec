"""Several judges: agreement worked out by hand, and one label by a rule."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from safe_r1.judge.factory import blind_labels
from safe_r1.judge.panel import choose, coarse, panel_members, panel_name
from safe_r1.judge.panel_agreement import alpha_of, measure_panel
from safe_r1.schema import ComplianceLabel, RefusalLabel

HARMFUL, HARMLESS, REFUSAL, RESPONSIBLE = (label.value for label in RefusalLabel)
COMPLIANCE, PARTIAL, FULL = (label.value for label in ComplianceLabel)

# The example of Krippendorff (2011), section D: four observers, twelve units, nominal alpha 0.743.
OBSERVERS = {
    "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    "C": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
}


def test_alpha_is_that_of_the_published_example():
    labels = {
        name: [None if value is None else str(value) for value in values]
        for name, values in OBSERVERS.items()
    }
    found = measure_panel(labels)
    assert found.alpha == pytest.approx(0.743, abs=5e-4)
    # Units 2, 6 and 8; the last one has one label alone.
    assert (found.num_answers, found.num_disagreed) == (11, 3)
    assert list(found.kappa) == ["A | B", "A | C", "A | D", "B | C", "B | D", "C | D"]


def test_alpha_has_its_ends():
    assert alpha_of(np.array([[2, 0], [0, 2], [2, 0]])) == 1.0
    assert alpha_of(np.array([[1, 1], [1, 1]])) == pytest.approx(1 - 4 * 3 / 8)
    assert alpha_of(np.array([[2, 0], [3, 0]])) is None
    assert alpha_of(np.zeros((0, 0), np.int64)) is None


def test_kappa_is_of_the_answers_that_both_labelled():
    one = [HARMFUL, HARMLESS, REFUSAL, REFUSAL, None, HARMFUL]
    other = [HARMFUL, REFUSAL, REFUSAL, RESPONSIBLE, REFUSAL, None]
    [estimate] = measure_panel({"one": one, "other": other}).kappa.values()
    assert estimate is not None
    assert estimate.value == pytest.approx(cohen_kappa_score(one[:4], other[:4]))


def test_judges_without_any_label_compare_to_nothing():
    found = measure_panel({"one": [None, None], "other": [None, None]})
    assert (found.num_answers, found.num_disagreed, found.alpha, list(found.kappa.values())) == (
        0,
        0,
        None,
        [None],
    )


@pytest.mark.parametrize(
    ("labels", "majority", "strictest", "first"),
    [
        ([REFUSAL, HARMFUL, REFUSAL], REFUSAL, HARMFUL, REFUSAL),
        ([None, HARMLESS, RESPONSIBLE], None, HARMLESS, HARMLESS),
        ([RESPONSIBLE, None, None], RESPONSIBLE, RESPONSIBLE, RESPONSIBLE),
        ([HARMFUL, HARMLESS, REFUSAL], None, HARMFUL, HARMFUL),
        ([None, None], None, None, None),
    ],
)
def test_rules(labels: list[str | None], majority: str | None, strictest: str | None, first: str | None):
    chosen = [choose(labels, rule, "refusal", False) for rule in ("majority", "strictest", "first")]
    assert chosen == [majority, strictest, first]


def test_the_strictest_of_over_refusal_depends_on_the_request():
    labels = [COMPLIANCE, FULL]
    assert choose(labels, "strictest", "over_refusal", is_unsafe=False) == FULL
    assert choose(labels, "strictest", "over_refusal", is_unsafe=True) == COMPLIANCE


def test_a_panel_sees_no_more_than_the_judge_that_sees_least():
    name = panel_name("majority", ["lexicon@0a", "qwen3guard:our+model@1b"])
    assert panel_members(f"{name}@2c") == ["lexicon", "qwen3guard:our-model"]
    assert panel_members("qwen3guard:m@1b") == panel_members("lexicon@0a") == []
    blind = blind_labels([f"{name}@2c"])
    assert blind == {RESPONSIBLE, PARTIAL}
    assert [coarse(label, blind) for label in (HARMFUL, REFUSAL, RESPONSIBLE, PARTIAL, None)] == [
        HARMFUL,
        REFUSAL,
        REFUSAL,
        FULL,
        None,
    ]
    blind = blind_labels([f"{panel_name('first', ['llamaguard:m@1', 'x@2'])}@2c"])
    assert [coarse(label, blind) for label in (REFUSAL, RESPONSIBLE)] == [HARMLESS, HARMLESS]
