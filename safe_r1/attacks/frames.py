"""Frames: attacks that are texts around the question, read from TOML.

The shipped ones are ``data/framing.toml`` and ``data/reasoning.toml``; users write theirs in the same form.
"""

import functools
import json
import random
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from safe_r1.attacks.base import OWN, Attack, Change, Family
from safe_r1.settings import Settings

PLACE = "{question}"
"""Where the question stands in a frame's text. Other braces are braces."""
Quote = Literal["none", "json", "csv"]


@dataclass(frozen=True)
class Frame(Change):
    """A text around the question.

    Attributes:
        before: Stands before the question.
        after: Stands after it.
        quote: How the question is written: as it is, as a string of JSON (and so of Python), or as a cell of
            CSV.
    """

    before: str
    after: str
    quote: Quote = "none"

    def change(self, text: str, rng: random.Random) -> str:
        """See ``Change``."""
        if self.quote == "json":
            text = json.dumps(text, ensure_ascii=False)
        elif self.quote == "csv":
            text = '"' + text.replace('"', '""') + '"'
        return f"{self.before}{text}{self.after}"

    def undo(self, text: str) -> str:
        """See ``Change``."""
        text = text.removeprefix(self.before).removesuffix(self.after)
        if self.quote == "json":
            return json.loads(text)
        return text[1:-1].replace('""', '"') if self.quote == "csv" else text


class Turn(Settings):
    """A turn before the question."""

    role: Literal["user", "assistant"] = Field(description="user or assistant")
    content: str = Field(min_length=1, description="text of the turn")


class FrameSettings(Settings):
    """An attack that is a text around the question."""

    name: str = Field(
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", description="lower case words and digits with hyphens"
    )
    text: str = Field(default=PLACE, description="what the user says; holds {question} once")
    quote: Quote = Field(
        default="none", description="how the question is written there: none, json (a string) or csv (a cell)"
    )
    system: str | None = Field(default=None, min_length=1, description="text of a system turn")
    history: tuple[Turn, ...] = Field(default=(), description="turns before, by turns user and assistant")
    prefill: str | None = Field(default=None, min_length=1, description="beginning of the answer")
    thought: str | None = Field(default=None, min_length=1, description="beginning of the reasoning")
    source: str = Field(default=OWN, description="where it was published")
    summary: str = Field(default="", description="one line for lists")

    @field_validator("text", "prefill", "thought", "system", mode="before")
    @classmethod
    def _without_first_break(cls, text: object) -> object:
        # A text in three quotes may begin on a line of its own; TOML drops that break, YAML does not.
        return text.removeprefix("\n") if isinstance(text, str) else text

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.text.count(PLACE) != 1:
            raise ValueError(f"frame {self.name!r}: its text has to hold {PLACE} once")
        others = [self.system, self.prefill, self.thought, *(turn.content for turn in self.history)]
        if any(PLACE in other for other in others if other):
            raise ValueError(f"frame {self.name!r}: {PLACE} can stand in its text alone")
        if [turn.role for turn in self.history] != ["user", "assistant"] * (len(self.history) // 2):
            raise ValueError(
                f"frame {self.name!r}: its history has to be turns of user and assistant in turn"
            )
        if self.text == PLACE and not (self.system or self.history or self.prefill or self.thought):
            raise ValueError(f"frame {self.name!r}: it adds nothing to the question")
        return self

    def attack(self, family: Family) -> Attack:
        """The attack."""
        before, _, after = self.text.partition(PLACE)
        is_bare = self.text == PLACE and self.quote == "none"
        return Attack(
            name=self.name,
            family=family,
            source=self.source,
            summary=self.summary or "A frame of one's own.",
            changes=() if is_bare else (Frame(before, after, self.quote),),
            system=self.system,
            history=tuple((turn.role, turn.content) for turn in self.history),
            prefill=self.prefill,
            thought=self.thought,
        )


@functools.cache
def shipped_frames(family: Family) -> tuple[Attack, ...]:
    """The attacks of ``data/FAMILY.toml``."""
    text = files("safe_r1.attacks").joinpath("data", f"{family}.toml").read_text(encoding="utf-8")
    return tuple(FrameSettings.model_validate(each).attack(family) for each in tomllib.loads(text)["frames"])
