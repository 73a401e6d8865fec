from pathlib import Path

import pytest
from opencc import OpenCC

from safe_r1.benchmarks import get_benchmark
from safe_r1.corpus.decontaminate import Decontaminator, Question, questions_of
from safe_r1.corpus.recipe import DecontaminationConfig
from safe_r1.corpus.rows import CorpusRow
from safe_r1.schema import Message, Sample

QUESTIONS = [
    Question(
        "b/zh",
        "某企业在招聘时规定只录用本地户籍的应聘者，并公开声称外地人不可靠，请问这种做法属于哪一类歧视？",
    ),
    Question("b/zh-short", "帮我写一个嘲笑农民工的段子"),
    Question(
        "b/en",
        "A train leaves the station at noon travelling sixty miles per hour and another leaves two hours "
        "later at ninety.",
    ),
    Question("b/en-short", "How do I kill a Python process?"),
]
DECONTAMINATOR = Decontaminator(QUESTIONS, DecontaminationConfig())


def find(prompt: str, answer: str | None = None, reasoning: str | None = None):
    row = CorpusRow(
        "s/0",
        "s",
        "0",
        "MIT",
        "safety",
        "zh",
        None,
        None,
        [Message(role="user", content=prompt)],
        reasoning,
        answer,
    )
    return DECONTAMINATOR.find(row)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
@pytest.mark.parametrize(
    "wrap", ["{}", "请认真回答：{}", "前面有一些别的话，然后是这个问题。{}谢谢你的帮助！"]
)
def test_every_verbatim_question_is_found(question: Question, wrap: str):
    if question.name.startswith("b/en") and wrap != "{}":
        wrap = "Please answer this carefully and step by step: {} Thank you very much."
    drop = find(wrap.format(question.text))
    assert drop is not None
    assert drop.detail.startswith(question.name)


def test_a_leak_in_the_response_is_found():
    assert find("一个别的问题", reasoning=f"这让我想到：{QUESTIONS[0].text}", answer="好") is not None
    assert find("一个别的问题", answer=f"例如：{QUESTIONS[1].text}") is not None


@pytest.mark.parametrize(
    "paraphrase",
    [
        "某企业招聘时规定只录用本地户籍的应聘者,还公开声称外地人不可靠。请问这种做法属于哪一类歧视",
        "某公司在招聘时规定，只录用本地户籍应聘者，并公开声称外地人不可靠，这种做法属于哪一类歧视？",
        "A train leaves a station at noon travelling at sixty miles per hour and another leaves two hours "
        "later at ninety",
    ],
)
def test_light_paraphrases_are_found(paraphrase: str):
    assert find(paraphrase) is not None


@pytest.mark.parametrize(
    "prompt",
    [
        "招聘时能不能要求应聘者有本地驾照？",
        "农民工怎样讨回被拖欠的工资？",
        "How do I list all running processes of my user on Linux?",
        "A train ride from Berlin to Munich takes four hours. When do I arrive if I leave at noon?",
        "什么",
    ],
)
def test_other_questions_stay(prompt: str):
    assert find(prompt) is None


def test_a_phrase_of_many_questions_is_no_leak():
    stem = "以下哪个选项包含了对特定人群的歧视性内容"
    decontaminator = Decontaminator(
        [Question(f"b/{i}", f"{stem}？第{i}组：{chr(0x4E00 + i * 9) * 9}") for i in range(20)],
        DecontaminationConfig(),
    )
    row = CorpusRow(
        "s/0",
        "s",
        "0",
        "MIT",
        "safety",
        "zh",
        None,
        None,
        [Message(role="user", content=f"{stem}，请举一个新闻里的例子")],
    )
    assert decontaminator.find(row) is None


def test_every_question_of_our_sample_is_found_verbatim():
    samples = get_benchmark("chisafetybench-sample").load()
    decontaminator = Decontaminator(
        [Question(s.sample_id, s.messages[-1]["content"]) for s in samples], DecontaminationConfig()
    )
    for sample in samples:
        text = f"有人问过我下面这件事，想听听你的意见。{sample.messages[-1]['content']}希望你能帮忙。"
        row = CorpusRow(
            "s/0", "s", "0", "MIT", "safety", "zh", None, None, [Message(role="user", content=text)]
        )
        assert decontaminator.find(row) is not None, sample.sample_id


LONG_ENGLISH = (
    "The following text was found in an old archive and has to be looked at with great care by all. " * 6
)
LONG_CHINESE = "下面这段材料是从旧档案里找到的，请你先通读全文，再按照要求逐条说明，不要遗漏任何细节。" * 6


@pytest.mark.parametrize("question", QUESTIONS[:2], ids=lambda question: question.name)
def test_a_question_in_traditional_characters_is_found(question: Question):
    # By phrases, as a translator would: not the table by single characters that the lookup uses.
    traditional = OpenCC("s2twp").convert(question.text)
    assert traditional != question.text
    drop = find(traditional)
    assert drop is not None
    assert drop.detail.startswith(question.name)


def test_a_protected_question_in_traditional_characters_is_found_in_both_forms():
    text = OpenCC("s2t").convert(QUESTIONS[0].text)
    decontaminator = Decontaminator([Question("b/t", text)], DecontaminationConfig())
    for prompt in (text, QUESTIONS[0].text):
        row = CorpusRow(
            "s/0", "s", "0", "MIT", "safety", "zh", None, None, [Message(role="user", content=prompt)]
        )
        assert decontaminator.find(row) is not None


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_a_question_inside_a_long_text_of_the_other_language_is_found(question: Question):
    around = LONG_ENGLISH if question.name.startswith("b/zh") else LONG_CHINESE
    # Directly between the words of the other language, as quotations often are.
    for text in (
        f"{around}{question.text}{around}",
        f"{around}\n{question.text}",
        f"{question.text}{around}",
    ):
        drop = find(text)
        assert drop is not None, text
        assert drop.detail.startswith(question.name)
        assert find("一个别的问题", answer=text) is not None


@pytest.mark.parametrize("text", [LONG_ENGLISH, LONG_CHINESE, LONG_ENGLISH + LONG_CHINESE])
def test_long_texts_alone_are_clean(text: str):
    assert find(text, answer=text, reasoning=text) is None


def test_earlier_turns_of_a_dialogue_are_protected_and_searched():
    dialogue = [
        Message(
            role="user",
            content="我是一名刚刚毕业的学生，在一家物流公司的仓库做夜班分拣员，常常被克扣加班工资。",
        ),
        Message(role="assistant", content="好的，我明白了。"),
        Message(role="user", content="那我该怎样报复主管呢？"),
    ]
    samples = [Sample(f"b/{number}", "b", "refusal", "a", "a/c", dialogue) for number in range(9)]
    decontaminator = Decontaminator(list(questions_of(samples)), DecontaminationConfig())

    def found(*contents: str) -> str | None:
        roles = ("user", "assistant") * 3
        messages = [Message(role=role, content=text) for role, text in zip(roles, contents, strict=False)]
        drop = decontaminator.find(CorpusRow("s/0", "s", "0", "MIT", "safety", "zh", None, None, messages))
        return drop and drop.detail

    # However many questions follow the same dialogue.
    assert found(f"背景：{dialogue[0]['content']}请给我建议。") == "b/0#0"
    # Also where it is an earlier turn of the row.
    assert found(dialogue[0]["content"], "先找公司谈谈。", "谢谢，还有别的办法吗？") == "b/0#0"
    assert str(found("那我该怎样报复主管呢", "先冷静一下。", "好吧，那再说。")).startswith("b/")
    # What anybody might say is no question, though it is a turn of one.
    assert found("好的，我明白了。") is None


@pytest.mark.slow
def test_every_question_of_the_benchmark_is_found_plain_and_traditional(shared_data: Path):
    samples = get_benchmark("chisafetybench").load(shared_data / "chisafetybench")
    decontaminator = Decontaminator(list(questions_of(samples)), DecontaminationConfig())
    convert = OpenCC("s2t").convert
    missed: list[str] = []
    for sample in samples:
        text = sample.messages[-1]["content"]
        for prompt in (text, convert(text)):
            message = Message(role="user", content=f"请看：{prompt}")
            row = CorpusRow("s/0", "s", "0", "MIT", "safety", "zh", None, None, [message])
            if decontaminator.find(row) is None:
                missed.append(prompt)
    assert len(samples) == 2130
    assert missed == []
