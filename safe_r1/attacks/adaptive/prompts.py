"""The attacker's dialogues, from ``data/prompts.toml``.

Texts of models stand between delimiters that come from a hash of them, and are never read as a template.
"""

import functools
import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from safe_r1.schema import Message

_PLACE = re.compile(r"\{(rules|mark|answer|approach|question|score|prompt|turns|left)\}")
_MAX_ANSWER_CHARS = 2_000
_MAX_QUESTION_CHARS = 4_000


@dataclass(frozen=True)
class Past:
    """A prompt that the target was asked, as the attacker remembers it.

    Attributes:
        improvement: The attacker's reason for it.
        prompt: What the target was asked.
        answer: What it answered; None for no answer.
        score: From 1 to 10; None where there is no label.
        is_refused: The judge's label is a refusal.
    """

    improvement: str
    prompt: str
    answer: str | None
    score: float | None
    is_refused: bool = False


def refine_messages(question: str, past: Sequence[Past], approach: int, remembered: int) -> list[Message]:
    """The attacker's dialogue of PAIR and TAP.

    Args:
        question: The plain question.
        past: Earlier prompts of this branch, in order.
        approach: Number of the branch, which chooses how it begins.
        remembered: Number of earlier prompts that are shown.
    """
    texts = _texts()["refine"]
    shown = past[-remembered:]
    mark = _mark(question, *(each.answer or "" for each in shown))
    approaches = texts["approaches"]
    system = _fill(
        texts["system"],
        rules=_rules(mark),
        approach=approaches[approach % len(approaches)],
        question=_cut(question, _MAX_QUESTION_CHARS),
    )
    messages = [_turn("system", system), _turn("user", texts["first"])]
    for each in shown:
        text = _fill(texts["next"], answer=_answer(each.answer, mark), score=_score(each.score))
        messages += [_own(each), _turn("user", text)]
    return messages


def crescendo_messages(
    question: str, past: Sequence[Past], turns: int, left: int, remembered: int
) -> list[Message]:
    """The attacker's dialogue of Crescendo.

    Args:
        question: The plain question.
        past: Earlier turns, those that were taken back included.
        turns: Turns of a conversation at most.
        left: Turns that are left now.
        remembered: Number of earlier turns that are shown.
    """
    texts = _texts()["crescendo"]
    shown = past[-remembered:]
    mark = _mark(question, *(each.answer or "" for each in shown))
    system = _fill(
        texts["system"],
        rules=_rules(mark),
        turns=str(turns),
        question=_cut(question, _MAX_QUESTION_CHARS),
    )
    messages = [_turn("system", system), _turn("user", texts["first"])]
    # Turns that were left at that time: those that stayed count.
    remaining = left + sum(not each.is_refused for each in shown)
    for each in shown:
        remaining -= not each.is_refused
        template = texts["refused"] if each.is_refused else texts["next"]
        answer = _answer(each.answer, mark)
        text = _fill(template, answer=answer, score=_score(each.score), left=str(remaining))
        messages += [_own(each), _turn("user", text)]
    return messages


def topic_messages(question: str, prompt: str) -> list[Message]:
    """What the attacker is asked of a prompt of its own: does it keep to the question?"""
    texts = _texts()["topic"]
    shown = _cut(prompt, _MAX_QUESTION_CHARS)
    question = _cut(question, _MAX_QUESTION_CHARS)
    user = _fill(texts["user"], question=question, prompt=shown, mark=_mark(question, shown))
    return [_turn("system", texts["system"]), _turn("user", user)]


def prompts_identity() -> str:
    """SHA-256 of all that the attacker is told, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(_texts(), sort_keys=True).encode()).hexdigest()


@functools.cache
def _texts() -> dict[str, Any]:
    source = files("safe_r1.attacks.adaptive").joinpath("data", "prompts.toml")
    return tomllib.loads(source.read_text(encoding="utf-8"))


def _rules(mark: str) -> str:
    return _fill(_texts()["shared"]["rules"], mark=mark)


def _fill(template: str, **values: str) -> str:
    # In one pass, so that what is filled in is not read as a template. Other braces are JSON.
    return _PLACE.sub(lambda found: values.get(found[1], found[0]), template)


def _answer(answer: str | None, mark: str) -> str:
    shared = _texts()["shared"]
    if answer is None:
        return shared["no_answer"]
    return _fill(shared["answer"], mark=mark, answer=_cut(answer, _MAX_ANSWER_CHARS))


def _score(score: float | None) -> str:
    return "无法判断" if score is None else str(round(score))


def _own(past: Past) -> Message:
    # Not the reply itself, which may hold anything: the two fields that were read from it.
    fields = {"improvement": past.improvement, "prompt": past.prompt}
    return _turn("assistant", json.dumps(fields, ensure_ascii=False))


def _turn(role: str, content: str) -> Message:
    return Message(role=role, content=content)


def _cut(text: str, max_chars: int) -> str:
    """The text without its middle where it is longer."""
    if len(text) <= max_chars:
        return text
    tail = max_chars * 2 // 5
    return f"{text[: max_chars - tail]}\n……（省略）……\n{text[-tail:]}"


def _mark(*contents: str) -> str:
    """A delimiter that occurs in none of the texts, the same in every session."""
    digest = hashlib.sha256("\0".join(contents).encode("utf-8", "surrogatepass"))
    while any(digest.hexdigest()[:12] in content for content in contents):
        digest.update(b"\0")
    return digest.hexdigest()[:12]
