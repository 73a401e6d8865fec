import json
import re
import tomllib
from collections import Counter
from dataclasses import replace
from importlib.resources import files

import pytest

from safe_r1.config import JudgeConfig
from safe_r1.corpus.filters import apply_filters
from safe_r1.corpus.recipe import FilterConfig
from safe_r1.corpus.rows import CorpusRow
from safe_r1.corpus.teachers import compose_response, is_request, teacher_messages
from safe_r1.judge.factory import plan_judge
from safe_r1.policies import PolicyCard, classify, load_cards
from safe_r1.schema import Message
from safe_r1.taxonomy import CATEGORIES, find_category

CARDS = load_cards()
JUDGE = plan_judge(JudgeConfig())
LISTS = ("observations", "checks", "decisions", "refusals", "stances", "reasons", "guidance", "offers")
SEEDS = [
    json.loads(line)
    for line in files("safe_r1.corpus")
    .joinpath("data", "seeds", "risky_prompts.jsonl")
    .read_text("utf-8")
    .splitlines()
]


def row(category: str, prompt: str = "请帮我写一段这样的内容，发到群里。", number: int = 0) -> CorpusRow:
    return CorpusRow(
        f"s/{number}",
        "s",
        "0",
        "MIT",
        "safety",
        "zh",
        CATEGORIES[category].area,
        category,
        [Message(role="user", content=prompt)],
    )


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.category)
def test_a_card_is_whole(card: PolicyCard):
    path = files("safe_r1").joinpath("data", "policies", f"{card.category}.toml")
    assert set(tomllib.loads(path.read_text("utf-8"))) == set(PolicyCard.__dataclass_fields__)
    found = find_category(card.name)
    assert found is not None
    assert found.key == card.category
    assert len(card.signs) >= 20
    for name in LISTS:
        sentences = getattr(card, name)
        assert len(sentences) >= 8
        assert len({sentence.text for sentence in sentences}) == len(sentences)
        for sentence in sentences:
            assert sentence.text.endswith("。"), sentence
            assert not re.search(r"[,?!;:()｜]", sentence.text), sentence
    assert card.law
    assert card.standard in card.policy


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.category)
@pytest.mark.parametrize("asks", [True, False], ids=["request", "opinion"])
def test_a_card_has_sentences_for_a_prompt_it_has_no_words_for(card: PolicyCard, asks: bool):
    fitting = {name: [s for s in getattr(card, name) if s.fits("？", asks)] for name in LISTS}
    assert min(map(len, fitting.values())) >= 2
    assert len(fitting["refusals" if asks else "stances"]) >= 3
    assert sum(s.for_request is asks for s in fitting["decisions"]) >= 3
    assert any(s.for_request is None for s in card.decisions)


def test_there_is_a_card_for_every_category():
    assert list(CARDS) == list(CATEGORIES)


def test_the_template_teacher_repeats_itself_exactly_and_varies_by_candidate_and_row():
    first = compose_response(row("gender"), 0, 0)
    assert first == compose_response(row("gender"), 0, 0)
    texts = {
        compose_response(row("gender", number=number), candidate, 0)
        for number in range(20)
        for candidate in range(3)
    }
    assert len(texts) == 60


def test_a_request_is_refused_and_an_opinion_answered_with_a_stance():
    card = CARDS["gender"]
    refused = compose_response(row("gender", "帮我写一条只招男性的招聘广告"), 0, 0)
    stance = compose_response(row("gender", "女人就该待在家里，对吧？"), 0, 0)
    assert refused is not None
    assert stance is not None
    assert refused.answer.startswith(tuple(sentence.text for sentence in card.refusals))
    assert stance.answer.startswith(tuple(sentence.text for sentence in card.stances))
    assert "女人就该待在家里" in stance.reasoning


def test_a_request_is_told_from_an_opinion():
    assert [seed["id"] for seed in SEEDS if is_request(seed["prompt"]) != (seed["form"] == "request")] == []


@pytest.mark.parametrize("number", range(6))
def test_guidance_speaks_of_the_prompt(number: int):
    for seed in SEEDS[number::6]:
        response = compose_response(row(seed["category"], seed["prompt"], number), 0, 0)
        assert response is not None
        related = [s.text for s in CARDS[seed["category"]].guidance if s.relevance(seed["prompt"])]
        assert any(text in response.answer for text in related), seed["id"]


def test_a_sentence_stands_only_where_its_marks_say():
    texts = {
        compose_response(row("unreliable", "你保证这只股票下个月翻倍。", number), 0, 0)
        for number in range(40)
    }
    answers = "".join(response.answer for response in texts if response)
    assert "股票" in answers
    assert not re.search("彩票|开庭|高烧", answers)


def test_the_template_teacher_leaves_alone_what_it_has_no_words_for():
    assert compose_response(replace(row("gender"), language="en"), 0, 0) is None
    assert compose_response(replace(row("gender"), kind="benign-sensitive"), 0, 0) is None
    assert compose_response(replace(row("gender"), category=None), 0, 0) is None


def test_what_the_template_teacher_writes_passes_the_filters():
    rows = []
    for number, category in enumerate(CATEGORIES):
        for candidate, prompt in enumerate(
            ("帮我写一段这样的内容，发到群里。", "这样做没什么不对的，你同意吗？")
        ):
            response = compose_response(row(category, prompt, number), candidate, 0)
            assert response is not None
            rows.append(
                replace(row(category, prompt, number), reasoning=response.reasoning, answer=response.answer)
            )
    reasons = Counter(
        checked.drop.reason for checked in apply_filters(rows, FilterConfig(), JUDGE) if checked.drop
    )
    assert reasons.total() <= 0.1 * len(rows), reasons


def test_signs_place_a_loaded_question_alone():
    assert classify("为什么女司机开车就是不如男人？") == "gender"
    # A topic's word is not a risk: to refuse these would teach over-refusal.
    assert classify("女司机上路要注意什么？") is None
    assert classify("大数据的开放与隐私如何权衡？") is None
    assert classify("城里人每天生活都会产生大量废水，应该排去哪里？") is None


def test_a_teacher_model_reads_the_card_and_the_dialogue():
    [message] = teacher_messages(row("privacy", "帮我查一下邻居的行踪"))
    assert CARDS["privacy"].standard in message["content"]
    assert "用户：帮我查一下邻居的行踪" in message["content"]
    assert "<think>" in message["content"]


def test_a_teacher_model_reads_a_prompt_without_a_category_as_it_is():
    prompt = replace(row("privacy", "一加一等于几？"), kind="reasoning", area=None, category=None)
    assert teacher_messages(prompt) == prompt.messages
