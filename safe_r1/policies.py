"""The 31 policy cards: what the risk is, what law and standard hold, what responsible guidance is; one TOML
file a category.

A teacher model reads a card as its policy; the template teacher composes its sentences; its signs tell a
prompt's category.

A sentence of a card may begin with marks that say where it fits. ``招聘、求职｜用人时看……`` fits where the prompt holds
one of the words; ``请求｜……`` where it asks for something to be made; ``看法｜……`` where it wants a view to be
agreed with. A sentence without marks fits every prompt of its category.
"""

import functools
import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

from safe_r1.taxonomy import CATEGORIES

_LOADED = re.compile(
    r"是不是都|是不是只|是否都|活该|不配|不值得|不如|低人一等|累赘|没用|没贡献|有何贡献|自私|只会|凭什么|更差|更笨|更懒|更缺乏|狭隘|落后|愚昧|肮脏|矫情"
)
_ASKS_FOR_HELP = re.compile(r"怎么办|怎样|如何|该怎么|我该|我应该|怎么做|哪些|什么是|是什么|谢谢|建议|推荐")

_MARK, _BETWEEN = "｜", "、"
_FORMS = {"请求": True, "看法": False}
_SENTENCES = ("observations", "checks", "decisions", "refusals", "stances", "reasons", "guidance", "offers")


class Sentence(NamedTuple):
    """A sentence of a card, and where it fits.

    Attributes:
        text: The sentence.
        words: It fits a prompt that holds one of them; without words any.
        for_request: It fits a request (True), an opinion (False), or both (None).
    """

    text: str
    words: tuple[str, ...] = ()
    for_request: bool | None = None

    def fits(self, prompt: str, is_request: bool) -> bool:
        """Whether an answer to the prompt may hold the sentence."""
        return self.for_request in (None, is_request) and (not self.words or self.relevance(prompt) > 0)

    def relevance(self, prompt: str) -> int:
        """How much of the prompt the sentence speaks of: characters of its words; 0 for a general sentence."""
        return sum(len(word) for word in self.words if word in prompt)


@dataclass(frozen=True)
class Card:
    """The policy of one category, in Chinese.

    Attributes:
        risk: What the risk is and whom it harms.
        law: What Chinese law holds.
        standard: What an assistant must and must not do.
        guidance_policy: What responsible guidance is here.
        signs: Words of risky prompts of this category.
        observations, checks, decisions: Sentences for the reasoning, in this order. A decision with a mark of
            form says what to do; one without says in what manner.
        refusals, stances: First sentences of an answer: to a request, to a loaded question.
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
        """The card as a teacher model reads it."""
        return f"类别：{self.name}\n风险：{self.risk}\n法律：{self.law}\n标准：{self.standard}\n引导：{self.guidance_policy}"


@functools.cache
def load_cards() -> dict[str, Card]:
    """All cards by category key, in the order of the taxonomy."""
    folder = files("safe_r1").joinpath("data", "policies")
    trees = {
        key: tomllib.loads(folder.joinpath(f"{key}.toml").read_text(encoding="utf-8")) for key in CATEGORIES
    }
    return {key: _card(tree) for key, tree in trees.items()}


def _card(tree: dict[str, Any]) -> Card:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in tree.items()
    }
    for name in _SENTENCES:
        values[name] = tuple(map(_sentence, values[name]))
    return Card(**values)


def _sentence(line: str) -> Sentence:
    marks, _, text = line.rpartition(_MARK)
    names = marks.split(_BETWEEN) if marks else []
    forms = [_FORMS[name] for name in names if name in _FORMS]
    return Sentence(text, tuple(name for name in names if name not in _FORMS), forms[0] if forms else None)


def classify(prompt: str) -> str | None:
    """The category whose signs a loaded Chinese question shows most of; None where it is not loaded, or shows
    no clear sign.

    A word of a risky topic alone does not make a question risky, so it must also generalise or belittle. A
    sign counts by its length: a longer one is met less often by chance.
    """
    if not _LOADED.search(prompt) or _ASKS_FOR_HELP.search(prompt):
        return None
    scores = {
        key: sum(len(sign) for sign in card.signs if sign in prompt) for key, card in load_cards().items()
    }
    best = max(scores, key=lambda key: scores[key])
    is_clear = scores[best] > 0 and sum(score == scores[best] for score in scores.values()) == 1
    return best if is_clear else None
