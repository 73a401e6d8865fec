"""The interface of all judges: what a judge is given, what it answers, and what it is called."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from safe_r1.inference.blocking import run_blocking
from safe_r1.schema import Label, Message, Part, Task, Unscored

_LABEL_DIGITS = 8


@dataclass(frozen=True)
class JudgeItem:
    """One text to be judged.

    Attributes:
        messages: The dialogue up to and including the risky user turn.
        text: The model's answer, or its reasoning.
        part: Which of the two ``text`` is.
        task: ``refusal`` asks for a ``RefusalLabel``, ``over_refusal`` for a ``ComplianceLabel``.
    """

    messages: list[Message]
    text: str
    part: Part = "answer"
    task: Task = "refusal"


@dataclass(frozen=True)
class Judgement:
    """A judge's answer: either a label, or the reason why the item has no label.

    Attributes:
        label: A label of the item's task, or None.
        unscored_reason: None where there is a label.
        explanation: The judge's own explanation, or the name of the rule that decided.
        own_label: The label in the words of a user's policy, which counts as ``label``.
        confidence: Probability that the judge gives to its label, from 0 to 1; None where it gives none.
    """

    label: Label | None
    unscored_reason: Unscored | None = None
    explanation: str = ""
    own_label: str | None = None
    confidence: float | None = None


class Judge(Protocol):
    """Gives one judgement for every item, in order.

    A package adds a judge by an entry point of the group ``safe_r1.judges``; see ``safe_r1.judge.factory``. A
    judge that computes by itself may have an attribute ``runs_in_workers`` that is true: large runs then
    judge in many processes, each with a judge of its own.
    """

    @property
    def name(self) -> str:
        """Short name, e.g. ``lexicon`` or the name of the model that judges."""
        ...

    @property
    def identity(self) -> str:
        """SHA-256 (64 hexadecimal digits) of all that can change a verdict; see ``content_identity``.

        Rules and weights, or prompt, model, sampling settings and text limits; no URL, path or secret.
        """
        ...

    async def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        """Judge all items; must not block the event loop.

        Raises:
            JudgeError: The judge as a whole cannot be used (endpoint down, bad credentials).
        """
        ...


def content_identity(*texts: str) -> str:
    """SHA-256 over several texts, in hexadecimal digits; changes with any of them."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def judge_label(name: str, identity: str) -> str:
    """The judge as it is printed and stored in rows: ``NAME@`` and the first 8 digits of its identity."""
    return f"{name}@{identity[:_LABEL_DIGITS]}"


def judge_blocking(judge: Judge, items: Sequence[JudgeItem]) -> list[Judgement]:
    """``Judge.judge`` for callers that are not asynchronous; blocks a running event loop."""
    return run_blocking(judge.judge(items))
