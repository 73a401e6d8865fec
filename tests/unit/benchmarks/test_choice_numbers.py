"""Options named by number, and answers that move from one letter to another: generated, none read wrongly."""

import itertools

import pytest

from safe_r1.benchmarks.choice import extract_choice
from safe_r1.benchmarks.choice.numbered import name_options

RIGHTS = {"A": "姓名权", "B": "荣誉权", "C": "身份权", "D": "隐私权"}
ENGLISH = {"A": "privacy", "B": "honour", "C": "portrait", "D": "name"}
OPTIONS = [RIGHTS, ENGLISH, dict(itertools.islice(RIGHTS.items(), 3)), {"A": "是", "B": "否"}]
LETTERS = "ABCDEFGH"


def forms(number: int) -> list[str]:
    circled = "①②③④⑤⑥⑦⑧"[number - 1]
    return [
        circled,
        f"({number})",
        f"（{number}）",
        f"No. {number}",
        f"No.{number}",
        f"№{number}",
        f"**{circled}**",
    ]


SAID = [
    "",
    "答案是",
    "答案：",
    "答案: ",
    "正确答案为",
    "应选",
    "我选择",
    "The answer is ",
    "Answer: ",
    "因此，选",
]
TAILS = ["", "。", ".", " ", "\n"]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))
def test_every_number_of_an_option(options: dict[str, str]):
    unread = 0
    total = 0
    is_yes_no = "是" in options.values()
    for number, said, tail in itertools.product(range(1, 3 if is_yes_no else 9), SAID, TAILS):
        # Of yes and no, "No" is an answer of its own.
        for form in forms(number)[: 3 if is_yes_no else None]:
            choice = extract_choice(f"{said}{form}{tail}", options)
            expected = LETTERS[number - 1] if number <= len(options) else None
            assert choice in (expected, None), (said, form, tail, choice)
            total += 1
            unread += choice != expected
    assert unread <= 0.02 * total


@pytest.mark.parametrize(
    "text",
    [
        "①这种说法伤害了他人；②它也不符合事实。",
        "理由有两点：(1) 未经同意；(2) 造成了损害。",
        "1. 未经同意\n2. 造成损害\n",
        "No. 2 in the list is a reason, not an answer.",
        "不选②",
        "不应选(2)",
        "共有②种情形需要考虑",
        "该说法出自第(2)条",
        "答案有②个要点",
    ],
)
def test_numbers_that_count_something_else_choose_nothing(text: str):
    assert extract_choice(text, RIGHTS) is None


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize(
    "options",
    [
        {"A": "①②", "B": "①③", "C": "②③", "D": "①②③"},
        {"A": "1", "B": "2", "C": "3", "D": "4"},
        {"A": "4处", "B": "3处", "C": "2处", "D": "1处"},
    ],
    ids=str,
)
def test_numbers_of_options_that_hold_numbers_are_not_counted(said: str, options: dict[str, str]):
    for number in range(1, 5):
        own = next((letter for letter, text in options.items() if text == str(number)), None)
        for form in forms(number):
            assert extract_choice(said + form, options) in (None, own), (said, form)


ARROWS = ["→", " → ", "➡", " ➡️ ", "⇒", " -> ", "=>"]


@pytest.mark.slow
def test_a_move_from_one_letter_to_another_is_the_other():
    for first, second in itertools.permutations("ABCD", 2):
        for arrow, lead, tail in itertools.product(
            ARROWS, ["", "答案：", "更正：", "**", "- "], ["", "。", "**", "\n"]
        ):
            text = f"{lead}{first}{arrow}{second}{tail}"
            assert extract_choice(text, RIGHTS) == second, text
            assert extract_choice(f"先看选项。\n{text}", RIGHTS) == second, text


@pytest.mark.parametrize("text", ["A → B → C", "A → B\nC → D", "A → B 的推理不成立", "由 A → B 可知"])
def test_other_arrows_are_no_move(text: str):
    assert name_options(text, list(RIGHTS.values()), is_yes_no=False) == text


@pytest.mark.parametrize("text", ["No. 1", "No. 2", "No. 3", "The answer is No. 1"])
def test_no_is_an_answer_where_one_option_says_it(text: str):
    assert extract_choice(text, {"A": "Yes", "B": "No"}) in (None, "B")
