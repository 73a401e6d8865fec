"""What an attack is: changes of a question's text, and what stands around it.

Nothing here makes a text harmful: the question is the user's, and an attack only says it in another way.
"""

import functools
import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from safe_r1.schema import Message

Need = Literal["prefill", "system", "turns"]
Family = Literal["plain", "writing", "encoding", "framing", "reasoning"]
Keeps = Literal["exact", "normalised", "no"]

OWN = "own"
"""Source of an attack that is taken from no publication."""

_SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which no encoding and no table can hold."""
    return _SURROGATES.sub("\ufffd", text)


def seeded(seed: int, attack: str, sample_id: str) -> random.Random:
    """The random numbers of one question under one attack."""
    key = f"{seed}\0{attack}\0{sample_id}".encode("utf-8", "surrogatepass")
    return random.Random(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()))


class AttackedPrompt(NamedTuple):
    """What a target is asked in place of a question.

    Attributes:
        messages: The turns that replace the question's own; a system turn comes first.
        prefill: Beginning of the answer that is put into the target's mouth; None for none.
        thought: Beginning of its reasoning. With a ``prefill`` the reasoning ends with it, otherwise the
            target continues it. Neither of the two holds any text of the question.
        is_applied: False where a change of the attack had nothing to change, as in a question without
            Chinese characters.
    """

    messages: tuple[Message, ...]
    prefill: str | None = None
    thought: str | None = None
    is_applied: bool = True


class Change:
    """A change of a text, with its inverse as far as there is one.

    For every text ``undo(change(text, rng)) == normal(text)``.

    Attributes:
        hint: What the target is told of it, as a sentence after the question; empty for nothing.
        is_exact: ``normal`` gives the text itself.
        is_random: The change depends on the random numbers.
        is_optional: It may have nothing to change without loss to the attack.
        needs_chinese: It changes Chinese characters alone.
        leaves_chinese: Chinese characters of the text are Chinese characters after it.
    """

    hint: str = ""
    is_exact: bool = True
    is_random: bool = False
    is_optional: bool = False
    needs_chinese: bool = False
    leaves_chinese: bool = True

    def change(self, text: str, rng: random.Random) -> str:
        """The changed text."""
        raise NotImplementedError

    def undo(self, text: str) -> str:
        """The original of a changed text, in the form of ``normal``."""
        raise NotImplementedError

    def normal(self, text: str) -> str:
        """The form in which ``undo`` gives a text back; the text itself where the change is exact."""
        return text


class Turns:
    """A way to spread one text over several turns."""

    def split(self, text: str, rng: random.Random) -> list[Message]:
        """The turns; the last one is the user's."""
        raise NotImplementedError

    def join(self, messages: Sequence[Message]) -> str:
        """The text that the turns were made of."""
        raise NotImplementedError


@dataclass(frozen=True)
class Attack:
    """A way to ask a question.

    Attributes:
        name: Lower case words with hyphens; ``a+b`` for a combination.
        family: ``writing`` and ``encoding`` change the question's characters, ``framing`` what stands around
            it, ``reasoning`` aims at models that think before they answer.
        source: Where it was published, or ``own``.
        summary: One line for lists.
        changes: Of the question's text, in order.
        system: Text of a system turn; None for none.
        history: Turns before the question, as role and content.
        turns: How the text is spread over turns; None for one turn.
        prefill: See ``AttackedPrompt``.
        thought: See ``AttackedPrompt``.
        is_recoverable: Whether ``back`` gives the question back.
    """

    name: str
    family: Family
    source: str
    summary: str
    changes: tuple[Change, ...] = ()
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    turns: Turns | None = None
    prefill: str | None = None
    thought: str | None = None
    is_recoverable: bool = True

    @property
    def needs(self) -> frozenset[Need]:
        """What the target has to take."""
        wanted: dict[Need, bool] = {
            "prefill": self.prefill is not None or self.thought is not None,
            "system": self.system is not None,
            "turns": bool(self.history) or self.turns is not None,
        }
        return frozenset(need for need, is_needed in wanted.items() if is_needed)

    @property
    def keeps(self) -> Keeps:
        """How the meaning can be checked: ``back`` gives the question, its ``normal`` form, or nothing."""
        if not self.is_recoverable:
            return "no"
        return "exact" if all(change.is_exact for change in self.changes) else "normalised"

    @functools.cached_property
    def is_random(self) -> bool:
        """Whether the result depends on the random numbers."""
        return self.turns is not None or any(change.is_random for change in self.changes)

    @functools.cached_property
    def _hints(self) -> str:
        # The change that was made last is undone first.
        hints = [change.hint for change in reversed(self.changes) if change.hint]
        return f"\n\n（{''.join(hints)}）" if hints else ""

    def _hints_of(self, is_applied: bool) -> str:
        # A hint at nothing would be wrong.
        return self._hints if is_applied or len(self.changes) > 1 else ""

    @functools.cached_property
    def _before(self) -> tuple[Message, ...]:
        """The turns before the question."""
        system = [("system", self.system)] if self.system is not None else []
        return tuple(Message(role=role, content=content) for role, content in (*system, *self.history))

    def apply(self, question: str, rng: random.Random) -> AttackedPrompt:
        """The question as this attack asks it.

        Args:
            question: Any text; it is never read as a template.
            rng: From ``seeded``, where ``is_random``.
        """
        text = clean(question)
        is_applied = True
        for change in self.changes:
            changed = change.change(text, rng)
            is_applied = is_applied and (change.is_optional or changed != text)
            text = changed
        text += self._hints_of(is_applied)
        turns: list[Message] = [{"role": "user", "content": text}]
        if self.turns:
            turns = self.turns.split(text, rng)
        return AttackedPrompt((*self._before, *turns), self.prefill, self.thought, is_applied)

    def back(self, prompt: AttackedPrompt) -> str:
        """The question of an attacked prompt, in the form of ``normal``.

        Raises:
            ValueError: The attack cannot be taken back.
        """
        if not self.is_recoverable:
            raise ValueError(f"attack {self.name} cannot be taken back")
        text = self.turns.join(prompt.messages) if self.turns else prompt.messages[-1]["content"]
        text = text.removesuffix(self._hints_of(prompt.is_applied))
        for change in reversed(self.changes):
            text = change.undo(text)
        return text

    def normal(self, question: str) -> str:
        """The form in which ``back`` gives a question back."""
        text = clean(question)
        for change in reversed(self.changes):
            text = change.normal(text)
        return text


PLAIN = Attack("plain", "plain", OWN, "The question as it is.")
"""What every attack is compared with."""
