"""The 31 policy cards, one TOML file per category: the risk, law and standard, and responsible guidance.

A card is the policy in the prompt of a teacher model; the template teacher composes responses from its
sentences; its signs classify prompts.

A sentence of a card may begin with conditions. ``招聘、求职｜用人时看……`` fits prompts that contain one of
the words, ``请求｜……`` fits requests, ``看法｜……`` fits prompts that ask for agreement with an opinion. A
sentence without conditions fits every prompt of its category.

The law in the cards and the seed texts comes from the published laws that ``data/sources.toml`` lists: who
issued each, where it is published, and whether and how it was checked (`load_sources`). Only what was checked
has its article number or telephone number in the texts; otherwise they name the law or the office alone. The
cards are summaries and no legal advice: the published text is what counts.
"""

import functools
import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from safe_r1.taxonomy import CATEGORIES

# Generalisations ("are they all ...?") and belittling words: signs of a loaded question.
_LOADED = re.compile(
    r"是不是都|是不是只|是否都|活该|不配|不值得|不如|低人一等|累赘|没用|没贡献|有何贡献|自私|只会|凭什么|"
    r"更差|更笨|更懒|更缺乏|狭隘|落后|愚昧|肮脏|矫情"
)
# Questions for advice or facts ("what should I do", "what is"), which are not loaded even with such words.
_ASKS_FOR_HELP = re.compile(r"怎么办|怎样|如何|该怎么|我该|我应该|怎么做|哪些|什么是|是什么|谢谢|建议|推荐")

# Ends the conditions of a sentence; separates one from the next.
_CONDITIONS_END = "｜"
_CONDITION_SEPARATOR = "、"
# Conditions on the form of the prompt, to the value of `Sentence.for_request`.
_FORMS = {"请求": True, "看法": False}
_SENTENCE_FIELDS = (
    "observations",
    "checks",
    "decisions",
    "refusals",
    "stances",
    "reasons",
    "guidance",
    "offers",
)


class Sentence(NamedTuple):
    """A sentence of a policy card with its conditions.

    Attributes:
        text: The sentence.
        words: The prompt has to contain one of them; empty for any prompt.
        for_request: The prompt has to be a request (True) or an opinion (False); None for both.
    """

    text: str
    words: tuple[str, ...] = ()
    for_request: bool | None = None

    def fits(self, prompt: str, is_request: bool) -> bool:
        """True if a response to the prompt may contain the sentence."""
        return self.for_request in (None, is_request) and (not self.words or self.relevance(prompt) > 0)

    def relevance(self, prompt: str) -> int:
        """Total length of the sentence's words that the prompt contains; 0 for a general sentence."""
        return sum(len(word) for word in self.words if word in prompt)


@dataclass(frozen=True)
class PolicyCard:
    """The policy of one category, in Chinese.

    Attributes:
        category: Key of the category.
        name: Chinese name of the category.
        risk: The risk and who is harmed.
        law: The relevant Chinese law.
        standard: What an assistant must and must not do.
        guidance_policy: What responsible guidance contains.
        signs: Words of risky prompts of this category.
        observations, checks, decisions: Sentences of the reasoning, in this order. A decision with a
            condition on the form says what to do, one without says in what manner.
        refusals, stances: First sentences of an answer to a request, and to a loaded question.
        reasons, guidance, offers: Further sentences of an answer, in this order.
    """

    category: str
    name: str
    risk: str
    law: str
    standard: str
    guidance_policy: str
    signs: tuple[str, ...]
    observations: tuple[Sentence, ...]
    checks: tuple[Sentence, ...]
    decisions: tuple[Sentence, ...]
    refusals: tuple[Sentence, ...]
    stances: tuple[Sentence, ...]
    reasons: tuple[Sentence, ...]
    guidance: tuple[Sentence, ...]
    offers: tuple[Sentence, ...]

    @property
    def policy(self) -> str:
        """The card as it is written in the prompt of a teacher model."""
        lines = (
            f"类别：{self.name}",
            f"风险：{self.risk}",
            f"法律：{self.law}",
            f"标准：{self.standard}",
            f"引导：{self.guidance_policy}",
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class LawSource:
    """Where a law, a regulation or a hotline comes from that a card or a seed text names.

    Attributes:
        name: Its Chinese name as in the texts, a law's in ``《》``; the number of a checked hotline.
        kind: A law or regulation, or a hotline.
        issuer: Who issued the law, or who answers the calls.
        published: Where the text or the number is published.
        checked: True if the text of the articles was read, or the number is common knowledge.
        evidence: How it was checked; empty if it was not.
        articles: The articles that the texts name by number.
    """

    name: str
    kind: Literal["law", "hotline"]
    issuer: str
    published: str
    checked: bool
    evidence: str = ""
    articles: tuple[str, ...] = ()


@functools.cache
def load_sources() -> dict[str, LawSource]:
    """The sources of all laws and hotlines by name."""
    text = files("safe_r1").joinpath("data", "sources.toml").read_text(encoding="utf-8")
    entries = tomllib.loads(text)["source"]
    sources = [LawSource(**{**entry, "articles": tuple(entry.get("articles", ()))}) for entry in entries]
    by_name = {source.name: source for source in sources}
    if len(by_name) != len(sources):
        raise ValueError("data/sources.toml has two entries of the same name")
    return by_name


@functools.cache
def load_cards() -> dict[str, PolicyCard]:
    """All policy cards by category key, in the order of the taxonomy."""
    folder = files("safe_r1").joinpath("data", "policies")
    texts = {key: folder.joinpath(f"{key}.toml").read_text(encoding="utf-8") for key in CATEGORIES}
    return {key: _card(tomllib.loads(text)) for key, text in texts.items()}


def _card(tree: dict[str, Any]) -> PolicyCard:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in tree.items()
    }
    for name in _SENTENCE_FIELDS:
        values[name] = tuple(map(_sentence, values[name]))
    return PolicyCard(**values)


def _sentence(line: str) -> Sentence:
    prefix, _, text = line.rpartition(_CONDITIONS_END)
    conditions = prefix.split(_CONDITION_SEPARATOR) if prefix else []
    forms = [_FORMS[name] for name in conditions if name in _FORMS]
    words = tuple(name for name in conditions if name not in _FORMS)
    return Sentence(text, words, forms[0] if forms else None)


def classify(prompt: str) -> str | None:
    """Category of a loaded Chinese question by the signs of the policy cards; None if it is unclear.

    A word of a risky topic alone does not make a question risky: it also has to generalise or belittle. A
    sign is weighted by its length, because a longer one occurs less often by chance.
    """
    if not _LOADED.search(prompt) or _ASKS_FOR_HELP.search(prompt):
        return None
    scores = {
        key: sum(len(sign) for sign in card.signs if sign in prompt) for key, card in load_cards().items()
    }
    best = max(scores, key=lambda key: scores[key])
    # Two categories with the same score: the question fits neither card clearly.
    is_clear = scores[best] > 0 and sum(score == scores[best] for score in scores.values()) == 1
    return best if is_clear else None
