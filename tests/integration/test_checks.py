"""Results and programs checked in Ray's workers: right, wrong, and what would hang or fill the memory."""

import pytest

from safe_r1.benchmarks.base import Score
from safe_r1.benchmarks.livecodebench import LIVECODEBENCH_SAMPLE
from safe_r1.benchmarks.math500 import MATH_500, Math500
from safe_r1.evaluation.checks import Check, run_checks
from safe_r1.resources import connect, disconnect
from safe_r1.schema import Message, Sample
from tests.attacks.programs import ATTACKS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster():
    connect()
    yield
    disconnect()


def problem(result: str) -> Sample:
    return Sample(
        "math-500/math/1",
        "math-500",
        "math",
        "a",
        "a",
        [Message(role="user", content="?")],
        metadata={"answer": result},
    )


def scores(todo: list[Check], num_workers: int = 2) -> list[Score]:
    found: dict[int, Score] = {}

    def done(place: int, score: Score) -> None:
        assert place not in found
        found[place] = score

    assert sum(run_checks(todo, num_workers, done)) == len(todo)
    return [found[place] for place in range(len(todo))]


def test_each_answer_gets_its_own_score():
    todo = [
        Check(MATH_500, problem(str(place)), 0, rf"\boxed{{{place if place % 3 else place + 1}}}")
        for place in range(30)
    ]
    assert [score.is_correct for score in scores(todo)] == [bool(place % 3) for place in range(30)]


class Impatient(Math500):
    score_limit_s = 20.0


def test_an_answer_that_never_ends_is_wrong_and_takes_no_other_down():
    todo = [Check(Impatient(), problem("1"), 0, r"\boxed{1}")] * 3
    todo.insert(1, Check(Impatient(), problem("1"), 0, r"\boxed{9^{9^{9^{9}}}}"))
    found = scores(todo)
    assert [score.is_correct for score in found] == [True, False, True, True]


def test_programs_of_a_model_are_contained():
    sample = next(sample for sample in LIVECODEBENCH_SAMPLE.load() if "func_name" not in sample.metadata)
    name, attack = next(iter(ATTACKS.items()))
    found = scores(
        [
            Check(LIVECODEBENCH_SAMPLE, sample, 0, f"```python\n{attack}\n```"),
            Check(LIVECODEBENCH_SAMPLE, sample, 0, "I cannot."),
            Check(LIVECODEBENCH_SAMPLE, sample, 0, "```python\nprint(1)\n```"),
        ]
    )
    assert not any(score.is_correct for score in found), name
    assert "no code" in found[1].explanation
