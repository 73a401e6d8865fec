"""The risk of a prompt: how likely a user's text asks for something harmful, and of which category.

A linear classifier on character n-grams (Chinese) or words and word groups (English), for moderation of user
input. It judges questions; answers are judged by ``safe_r1.judge.lexicon``. Deterministic, light, with no
model to download: the weights are ``data/prompt_risk_weights.json``, made by
``python -m safe_r1.judge.train_prompt_risk``.
"""

import functools
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import combinations, pairwise
from typing import TypedDict

from safe_r1.judge.base import content_identity, judge_label
from safe_r1.judge.disguise import READINGS_VERSION, decode, make_reader, plain, tables_text
from safe_r1.judge.pinyin import PinyinReader
from safe_r1.language import Language, detect_language
from safe_r1.taxonomy import CATEGORIES

WEIGHTS_FILE = "data/prompt_risk_weights.json"
RULES_FILE = "data/prompt_risk_rules.toml"
THRESHOLD = 0.5
"""A score from here on is flagged."""

# A long text is judged by its two ends: the cost of a request is bounded.
_MAX_HEAD_CHARS = 1500
_MAX_TAIL_CHARS = 500
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"[a-z0-9ñ]+(?:'s)?")
_CJK_GRAM_SIZES = (1, 2, 3)
_PAIR = 2


class LanguageWeights(TypedDict):
    """Weights of one language.

    Attributes:
        intercept: Log odds of an empty prompt.
        idf: Feature to its inverse document frequency; features without one are ignored.
        risk: Feature to its weight in the log odds of a risky prompt.
        categories: Category to its intercept, under the empty name, and its weights by feature.
    """

    intercept: float
    idf: dict[str, float]
    risk: dict[str, float]
    categories: dict[str, dict[str, float]]


@dataclass(frozen=True)
class PromptRisk:
    """The risk of one prompt.

    Attributes:
        score: Probability that the prompt is risky, from 0 to 1.
        category: Key of the likeliest risk category (see ``safe_r1.taxonomy``), also where the score is low.
    """

    score: float
    category: str

    @property
    def is_flagged(self) -> bool:
        """True where the prompt is rather risky than not."""
        return self.score >= THRESHOLD


def assess_prompt(text: str) -> PromptRisk:
    """The risk of a user's text, or of what is encoded in it where that is higher; an empty text has none."""
    readings = [plain(text)]
    if decoded := decode(readings[0], _pinyin()):
        readings += [decoded.text, decoded.passages]
    return max(map(_assess, readings), key=lambda risk: risk.score)


def _assess(text: str) -> PromptRisk:
    language = detect_language(text)
    weights = _weights()[language]
    features = scaled(prompt_features(text, language), weights["idf"])
    if not features:
        return PromptRisk(0.0, next(iter(CATEGORIES)))
    log_odds = weights["intercept"] + _dot(features, weights["risk"])
    scores = {
        category: own.get("", 0.0) + _dot(features, own) for category, own in weights["categories"].items()
    }
    return PromptRisk(1 / (1 + math.exp(-log_odds)), max(scores, key=lambda category: scores[category]))


def risk_label() -> str:
    """The classifier as it is printed: ``prompt-risk@`` and the first digits of its identity."""
    contents = (_read(RULES_FILE), _read(WEIGHTS_FILE), tables_text(), READINGS_VERSION)
    return judge_label("prompt-risk", content_identity(*contents))


def scaled(features: Iterable[str], idf: Mapping[str, float]) -> dict[str, float]:
    """The features that have an inverse document frequency, weighted by it, as a vector of length one."""
    known = {name: idf[name] for name in features if name in idf}
    length = math.sqrt(sum(value * value for value in known.values())) or 1.0
    return {name: value / length for name, value in known.items()}


def prompt_features(text: str, language: Language) -> list[str]:
    """Names of a prompt's features, sorted; none of an empty text."""
    text = _SPACE.sub(" ", text).strip().lower()
    if len(text) > _MAX_HEAD_CHARS + _MAX_TAIL_CHARS:
        text = text[:_MAX_HEAD_CHARS] + text[-_MAX_TAIL_CHARS:]
    names = _chinese_names(text) if language == "zh" else _english_names(text)
    # The order is that in which weighted values are added.
    return sorted(names)


def _chinese_names(text: str) -> set[str]:
    if not text:
        return set()
    framed = f"^{text}$"
    return {framed[i : i + size] for size in _CJK_GRAM_SIZES for i in range(len(framed) - size + 1)}


def _english_names(text: str) -> set[str]:
    words = _WORD.findall(text)
    if not words:
        return set()
    framed = ["^", *words, "$"]
    found = {f"{first} {second}" for first, second in pairwise(framed)} | set(words)
    known = set(words) | {word.removesuffix("'s") for word in words}
    groups = [name for name, members in _groups().items() if known & members]
    found |= {f"[{name}]" for name in groups}
    found |= {f"[{first}&{second}]" for first, second in combinations(groups, 2)}
    # Of three groups at a time: "kill a person in a game".
    found |= {f"[{'&'.join(three)}]" for three in combinations(groups, 3)}
    return found | {f"[{name}] only" for name in groups if len(groups) == 1}


def _dot(features: Mapping[str, float], weights: Mapping[str, float]) -> float:
    return sum(value * weights[name] for name, value in features.items() if name in weights)


@functools.cache
def _groups() -> dict[str, frozenset[str]]:
    return {name: frozenset(words) for name, words in tomllib.loads(_read(RULES_FILE))["en"].items()}


@functools.cache
def _pinyin() -> PinyinReader:
    return make_reader({name: idf for name, idf in _weights()["zh"]["idf"].items() if len(name) == _PAIR})


@functools.cache
def _weights() -> dict[Language, LanguageWeights]:
    return json.loads(_read(WEIGHTS_FILE))


@functools.cache
def _read(name: str) -> str:
    return files("safe_r1.judge").joinpath(name).read_text(encoding="utf-8")
