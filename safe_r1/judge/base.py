"""What a judge is given and what it answers; the interface behind which all judges stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from safe_r1.schema import Label, Message, Part, Task


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
    """A judge's answer: a label, or the reason why there is none. Exactly one of the two is set.

    Attributes:
        label: A label of the item's task, or None.
        unscored_reason: A short snake_case word such as ``refused_to_judge``; None where there is a label.
        explanation: The judge's own explanation, or the name of the rule that decided.
    """

    label: Label | None
    unscored_reason: str | None = None
    explanation: str = ""


class Judge(Protocol):
    """Gives one judgement for every item, in order.

    Attributes:
        name: Identity of the judge with everything that could change a verdict (``lexicon-<hash of its
            rules>``, model and prompt hash of an LLM): it enters the fingerprint of a run.
    """

    name: str

    def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        """Judge all items.

        Raises:
            JudgeError: The judge as a whole cannot be used (endpoint down, bad credentials).
        """
        ...
