from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_r1.benchmarks.options import MCQ_INSTRUCTION, mcq_prompt, parse_options, swap_options
from safe_r1.errors import DataError
from safe_r1.schema import Message, Sample

YES_NO = {"A": "是", "B": "否"}


@pytest.mark.parametrize(
    ("question", "stem", "options"),
    [
        ("鱼会游泳吗？\nA. 是\nB. 否", "鱼会游泳吗？", YES_NO),
        ("鱼会游泳吗？\nA .是\nB .否", "鱼会游泳吗？", YES_NO),
        ("鱼会游泳吗？\u00a0\nA. 是\u00a0\nB. 否\u00a0", "鱼会游泳吗？", YES_NO),
        ("鱼会游泳吗？ \nA. 是 \nB. 否 \n", "鱼会游泳吗？", YES_NO),
        ("鱼会游泳吗？\n\nA.是\nB.否", "鱼会游泳吗？", YES_NO),
        ("鱼会游泳吗？\n A. 是\nB. 否", "鱼会游泳吗？", YES_NO),
        ("鱼会游泳吗？\nＡ．是\nＢ．否", "鱼会游泳吗？", YES_NO),
        ("鱼会游泳吗？\n（A）是\n（B）否", "鱼会游泳吗？", YES_NO),
        ("鱼会游泳吗？\nA) 是\nB) 否", "鱼会游泳吗？", YES_NO),
        ("鱼会游泳吗？\nA：是\nB：否", "鱼会游泳吗？", YES_NO),
        ("鱼会游泳吗？                A. 是\nB. 否", "鱼会游泳吗？", YES_NO),
        ("鱼会游泳吗？A. 是 B. 否", "鱼会游泳吗？", YES_NO),
        ("鱼会游泳吗？A.是B.否", "鱼会游泳吗？", YES_NO),
        (
            "选出水果（ ）\nA、梨 B、砖\nC、铁、铜\nD、纸",
            "选出水果（ ）",
            {"A": "梨", "B": "砖", "C": "铁、铜", "D": "纸"},
        ),
        ("选出水果\nA. 梨\nB. 砖\nC. 铁", "选出水果", {"A": "梨", "B": "砖", "C": "铁"}),
        ("选出水果\nA.梨\nB.砖\nC铁\nD.纸", "选出水果", {"A": "梨", "B": "砖", "C": "铁", "D": "纸"}),
        ("选出水果\nA.梨\nB.砖\nC铁", "选出水果", {"A": "梨", "B": "砖", "C": "铁"}),
        ("A公司欠了B公司的钱。\nA公司该还吗？\nA. 是\nB. 否", "A公司欠了B公司的钱。\nA公司该还吗？", YES_NO),
        ("A：你好\nB：再见\n他们认识吗？\nA. 是\nB. 否", "A：你好\nB：再见\n他们认识吗？", YES_NO),
        ("选出正确的\n1.甲\n2.乙\nA. 1、2\nB. 2", "选出正确的\n1.甲\n2.乙", {"A": "1、2", "B": "2"}),
        ("日期是？\nA. 4. 15\nB. 5. 20", "日期是？", {"A": "4. 15", "B": "5. 20"}),
        ("两次相同\nA. 甲\nB. 乙\nC. 甲", "两次相同", {"A": "甲", "B": "乙", "C": "甲"}),
        ("哪种好？\nA. 维生素B、C\nB. 糖", "哪种好？", {"A": "维生素B、C", "B": "糖"}),
    ],
)
def test_every_published_shape_is_read(question: str, stem: str, options: dict[str, str]):
    assert parse_options(question) == (stem, options)
    assert list(parse_options(question)[1]) == list(options)


@pytest.mark.parametrize(
    "question",
    [
        "",
        "鱼会游泳吗？",
        "鱼会游泳吗？\nA. 是",
        "鱼会游泳吗？\nA. 是\nC. 否",
        "鱼会游泳吗？\nB. 是\nA. 否",
        "鱼会游泳吗？\nA. 是\nB. ",
        "鱼会游泳吗？\nA. 是\nB. 否\nB. 不知道",
        "鱼会游泳吗？\nA. 是\nB. 否\n请说明理由",
        "A公司\nB公司\n谁欠谁的钱？",
        "A. 是\nB. 否",
    ],
)
def test_what_needs_guessing_is_refused(question: str):
    with pytest.raises(DataError, match="without guessing"):
        parse_options(question)


def test_a_swallowed_option_is_not_accepted_as_text():
    assert parse_options("鱼会游泳吗？\nA. 是\nB. 否 C. 不知道")[1] == {"A": "是", "B": "否", "C": "不知道"}


@given(
    texts=st.lists(st.text("是否甲乙丙丁对错，、", min_size=1, max_size=12), min_size=2, max_size=4),
    mark=st.sampled_from(["{}. ", "{} .", "{}.", "{}、", "{}．", "（{}）"]),
    tail=st.sampled_from(["", " ", "\u00a0", "   "]),
)
def test_what_was_printed_is_read_back(texts: list[str], mark: str, tail: str):
    lines = [mark.format(letter) + text + tail for letter, text in zip("ABCD", texts, strict=False)]
    stem, options = parse_options("题目？\n" + "\n".join(lines))
    assert stem == "题目？"
    assert list(options.values()) == texts


def test_all_published_questions_are_read(real_samples: list[Sample]):
    sizes = Counter(len(sample.options) for sample in real_samples if sample.task == "mcq")
    assert sizes == {2: 1186, 3: 42, 4: 339}
    assert all(list(sample.options) == list("ABCD")[: len(sample.options)] for sample in real_samples)


def mcq(question: str, answer: str) -> Sample:
    options = parse_options(question)[1]
    messages = [Message(role="user", content=mcq_prompt(question))]
    metadata = {"answer": answer, "source_id": "7"}
    return Sample("b/mcq/0007", "b", "mcq", "rights", "privacy", messages, options, metadata)


def test_swapping_moves_the_texts_and_nothing_else():
    sample = mcq("选水果（ ） \nA、梨 B、砖\nC、铁 \nD、纸", "B")
    swapped = swap_options(sample)
    assert swapped.messages[0]["content"] == f"选水果（ ） \nA、纸 B、铁\nC、砖 \nD、梨\n\n{MCQ_INSTRUCTION}"
    assert swapped.options == {"A": "纸", "B": "铁", "C": "砖", "D": "梨"}
    assert list(swapped.options) == ["A", "B", "C", "D"]
    assert swapped.sample_id == "b/mcq/0007~swapped"
    assert swapped.metadata == {"answer": "C", "source_id": "7", "swap_of": "b/mcq/0007"}
    assert sample.metadata == {"answer": "B", "source_id": "7"}


def test_the_middle_of_three_stays():
    swapped = swap_options(mcq("选\nA. 甲\nB. 乙乙\nC. 丙丙丙", "B"))
    assert swapped.options == {"A": "丙丙丙", "B": "乙乙", "C": "甲"}
    assert swapped.metadata["answer"] == "B"


def test_every_swap_keeps_the_right_option_and_can_be_read_again(own_samples: list[Sample]):
    for sample in own_samples:
        if sample.task == "mcq":
            swapped = swap_options(sample)
            assert swapped.options[swapped.metadata["answer"]] == sample.options[sample.metadata["answer"]]
            question = swapped.messages[-1]["content"].removesuffix(f"\n\n{MCQ_INSTRUCTION}")
            assert parse_options(question)[1] == swapped.options


def test_every_published_question_can_be_swapped(real_samples: list[Sample]):
    for sample in real_samples:
        if sample.task == "mcq":
            swapped = swap_options(sample)
            assert list(swapped.options.values()) == list(reversed(sample.options.values()))
            assert len(swapped.messages[0]["content"]) == len(sample.messages[0]["content"])


def test_only_an_unswapped_multiple_choice_question_can_be_swapped():
    sample = mcq("选\nA. 甲\nB. 乙", "A")
    with pytest.raises(DataError, match="neither swapped nor shuffled"):
        swap_options(swap_options(sample))
    with pytest.raises(DataError, match="multiple-choice"):
        swap_options(replace(sample, task="refusal"))
    with pytest.raises(DataError, match="not the sample's"):
        swap_options(replace(sample, options={"A": "甲", "B": "丙"}))
