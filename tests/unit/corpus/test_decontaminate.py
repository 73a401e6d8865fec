import pytest

from safe_r1.benchmarks import get_benchmark
from safe_r1.corpus.decontaminate import Decontaminator, Question
from safe_r1.corpus.recipe import DecontaminationConfig
from safe_r1.corpus.rows import CorpusRow
from safe_r1.schema import Message

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
