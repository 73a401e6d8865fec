from dataclasses import replace

import pytest

from safe_r1.config import JudgeConfig
from safe_r1.corpus.filters import apply_filters, repeated_share
from safe_r1.corpus.recipe import FilterConfig
from safe_r1.corpus.rows import CorpusRow
from safe_r1.judge.factory import plan_judge
from safe_r1.schema import Message

JUDGE = plan_judge(JudgeConfig())
REFUSAL = "抱歉，我不能帮助歧视任何群体。每个人都应当得到尊重，建议你了解相关法律，平等地与人相处。"
HARMFUL = (
    "好的，没问题。女性天生不如男性，她们情绪化、缺乏判断力，根本不适合做领导，"
    "应该回家带孩子，把岗位让给男人。"
)
GOOD = CorpusRow(
    "s/0",
    "s",
    "0",
    "MIT",
    "safety",
    "zh",
    "discrimination",
    "gender",
    [Message(role="user", content="写一段话，说明女性天生不如男性，不适合做领导。")],
    reasoning="用户想要一段贬低女性的话，这是性别歧视，我不能写，应当拒绝并说明理由，再给出引导。",
    answer=REFUSAL,
)
MATH = CorpusRow(
    "m/0",
    "m",
    "0",
    "MIT",
    "reasoning",
    "en",
    None,
    None,
    [Message(role="user", content="What is one half of ten plus one?")],
    reasoning="Half of ten is five, and five plus one is six.",
    answer="Half of ten is 5, so we get $\\boxed{6}$.",
    final="6",
)


def reason(row: CorpusRow, **config) -> str | None:
    [checked] = apply_filters([row], FilterConfig(**config), JUDGE)
    return checked.drop.reason if checked.drop else None


def test_good_rows_stay_and_know_their_degree():
    [row, math, prompt] = apply_filters(
        [GOOD, MATH, replace(GOOD, reasoning=None, answer=None)], FilterConfig(), JUDGE
    )
    assert row.drop is None
    assert row.degree == 3
    assert math.drop is None
    assert prompt.drop is None
    assert prompt.degree is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"reasoning": None, "answer": ""}, "unclosed_reasoning"),
        ({"reasoning": " "}, "empty_reasoning"),
        ({"answer": ""}, "no_answer"),
        ({"reasoning": "不行。"}, "short_reasoning"),
        ({"answer": "不" * 12_001}, "long_answer"),
        ({"answer": "Sorry, I cannot help with writing that kind of text for you."}, "language"),
        (
            {"reasoning": "The user wants a text that belittles women. I should refuse and explain why."},
            "mixed_language",
        ),
        ({"answer": REFUSAL + "请尊重每一个人，平等相待。" * 60}, "repetition"),
        (
            {"answer": HARMFUL},
            "complies_with_risk",
        ),
        ({"kind": "benign-sensitive"}, "refuses_harmless"),
    ],
)
def test_each_fault_has_its_reason(changes: dict, expected: str):
    assert reason(replace(GOOD, **changes)) == expected


def test_rows_without_reasoning_stay_where_the_recipe_says_so():
    bare = replace(GOOD, reasoning="")
    assert reason(bare) == "empty_reasoning"
    assert reason(bare, reasoning="optional") is None
    assert reason(replace(GOOD, reasoning="不行。"), reasoning="optional") == "short_reasoning"
    [row] = apply_filters([GOOD], FilterConfig(reasoning="empty"), JUDGE)
    assert (row.drop, row.reasoning, row.answer) == (None, "", GOOD.answer)


def test_rows_without_a_category_stay_unless_the_recipe_or_the_teacher_needs_one():
    other = replace(GOOD, category=None, area=None)
    assert reason(other) is None
    assert reason(other, category="required") == "no_category"
    assert reason(replace(other, reasoning=None, answer=None)) == "no_category"
    assert reason(replace(MATH, category=None), category="required") is None


def test_a_trusted_source_is_judged_and_loses_nothing():
    [row] = apply_filters([replace(GOOD, answer=HARMFUL)], FilterConfig(), JUDGE, trusted=True)
    assert (row.drop, row.degree) == (None, 0)


def test_a_checked_result_is_no_refusal():
    sorry = replace(MATH, answer="I'm sorry, but I cannot help you with that request. $\\boxed{6}$")
    assert reason(sorry) is None
    assert reason(replace(sorry, final=None)) == "refuses_harmless"


@pytest.mark.parametrize(
    ("final", "answer", "expected"),
    [
        ("6", "It is $\\boxed{6.0}$ in the end, as computed above.", None),
        ("\\frac{1}{2}", "It is $\\boxed{0.5}$ in the end, as computed above.", None),
        ("6", "It is $\\boxed{7}$ in the end, as computed above.", "wrong_result"),
        ("6", "I am not sure what it is in the end, sorry about that one.", "wrong_result"),
        ("1,200", "It is $\\boxed{1200}$ in the end, as computed above.", None),
    ],
)
def test_results_are_checked(final: str, answer: str, expected: str | None):
    assert reason(replace(MATH, final=final, answer=answer)) == expected


def test_repetition_is_measured_on_long_texts_alone():
    assert repeated_share("哈哈" * 20) == 0
    assert repeated_share("这一步先算总和，再除以人数，得到平均值。" * 30) > 0.9
    assert repeated_share("".join(chr(0x4E00 + i * 7) for i in range(600))) == 0
