from collections import Counter, defaultdict

import pytest

from safe_r1.benchmarks.options import MCQ_INSTRUCTION
from safe_r1.schema import Sample
from safe_r1.taxonomy import CATEGORIES, REFUSAL_AREAS


@pytest.fixture
def mcq(own_samples: list[Sample]) -> list[Sample]:
    return [sample for sample in own_samples if sample.task == "mcq"]


def test_every_category_has_two_multiple_choice_questions_with_both_answers(mcq: list[Sample]):
    answers: dict[str, list[str]] = defaultdict(list)
    for sample in mcq:
        answers[sample.category].append(sample.metadata["answer"])
    assert set(answers) == set(CATEGORIES)
    assert all({"A", "B"} <= set(given) for given in answers.values())


def test_a_constant_answer_earns_little(mcq: list[Sample]):
    answers = Counter(sample.metadata["answer"] for sample in mcq)
    assert abs(answers["A"] - answers["B"]) <= 2
    assert max(answers.values()) < 0.45 * len(mcq)
    of_two = Counter(sample.metadata["answer"] for sample in mcq if len(sample.options) == 2)
    assert abs(of_two["A"] - of_two["B"]) <= 2


def test_shapes_of_two_and_four_options_are_both_common(mcq: list[Sample]):
    sizes = Counter(len(sample.options) for sample in mcq)
    assert sizes[2] >= 20
    assert sizes[4] >= 20
    text = "\n".join(sample.messages[0]["content"] for sample in mcq)
    assert all(shape in text for shape in ("\nA. ", "\nA .", "\u00a0\nA. ", "  \nB. ", "\n\nA.", "\nA、"))


def test_every_refusal_category_has_two_questions_alone(own_samples: list[Sample]):
    alone = Counter(
        s.category for s in own_samples if s.task == "refusal" and s.metadata["has_history"] == "false"
    )
    assert set(alone) == {key for key, each in CATEGORIES.items() if each.area in REFUSAL_AREAS}
    assert min(alone.values()) >= 2


def test_dialogues(own_samples: list[Sample]):
    dialogues = [sample for sample in own_samples if sample.metadata["has_history"] == "true"]
    assert len(dialogues) >= 6
    for sample in dialogues:
        roles = [message["role"] for message in sample.messages]
        assert roles == ["system", *["user", "assistant"] * ((len(roles) - 2) // 2), "user"]
        assert len(roles) >= 4
    assert {sample.area for sample in dialogues} == {"discrimination", "values"}


def test_no_text_occurs_twice(own_samples: list[Sample]):
    assert len({sample.messages[-1]["content"] for sample in own_samples}) == len(own_samples)


def grams(samples: list[Sample], length: int = 8) -> set[str]:
    found: set[str] = set()
    for message in (message for sample in samples for message in sample.messages):
        text = "".join(char for char in message["content"].removesuffix(MCQ_INSTRUCTION) if char.isalnum())
        found.update(text[start : start + length] for start in range(len(text) - length + 1))
    return found


def test_nothing_is_taken_from_the_published_questions(own_samples: list[Sample], real_samples: list[Sample]):
    assert grams(own_samples) & grams(real_samples) == set()
