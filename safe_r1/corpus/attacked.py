"""Attacked prompts in a corpus: a share of its rows is asked as attackers ask, the others as they are.

An attack takes the place of the plain question in a row that was selected, so that no row is added or lost.
Filters, decontamination, deduplication, quotas, the split and the teacher see the plain question alone: a
corpus never holds a question twice, plain and attacked, and similar questions stay on one side of the split
however they are asked.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
from pydantic import Field, model_validator

from safe_r1.attacks.apply import attack_sample
from safe_r1.attacks.base import PLAIN, Attack
from safe_r1.attacks.identity import attack_identity
from safe_r1.attacks.trained import FAMILIES, TrainedAttacks, attacks_of, families, held_out_by
from safe_r1.errors import ConfigError, DataError
from safe_r1.schema import CONVERSATION_SCHEMA, Sample
from safe_r1.settings import Settings

ATTACKED_CONVERSATION_SCHEMA = pa.schema(
    [*CONVERSATION_SCHEMA, pa.field("attack", pa.string(), False), ("question", pa.string())]
)
"""A conversation of a corpus with attacks. ``attack`` is ``plain`` where there is none; ``question`` is the
plain last turn of an attacked row.
"""
_END_OF_THOUGHT = "</think>"
# In these a harmless question stays the same question; in another role it does not.
_OF_HARMLESS = {"writing", "encoding"}


class AttackedConfig(Settings):
    """Attacked prompts; without a share all rows are asked as they are."""

    share: float = Field(default=0, ge=0, le=1, description="share of the safety rows asked through attacks")
    harmless_share: float = Field(
        default=0,
        ge=0,
        le=1,
        description="share of the benign-sensitive rows asked through those of the attacks that only change "
        "writing and encoding: a model must not learn to refuse every disguise",
    )
    train: tuple[str, ...] = Field(
        default=(), description="attacks to train on: names, combinations, sets, TOML files, families"
    )
    held_out: tuple[str, ...] = Field(
        default=(),
        description="families and attacks that are kept for evaluation; none of `train` may hold one",
    )

    @property
    def attacks(self) -> list[Attack]:
        """The attacks to train on."""
        return attacks_of(self.train)

    @property
    def held_out_names(self) -> tuple[str, ...]:
        """Names of the families and attacks that are held out, with those of sets and files."""
        found = (
            [each] if each in FAMILIES else [attack.name for attack in attacks_of([each])]
            for each in self.held_out
        )
        return tuple(dict.fromkeys(name for names in found for name in names))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.train and (self.share or self.harmless_share):
            raise ValueError("attacks.share needs attacks: name them in attacks.train")
        if self.train and not (self.share or self.harmless_share):
            raise ValueError("attacks.train needs a share of the rows: give attacks.share")
        attacks = self.attacks
        held_out = self.held_out_names
        for attack in attacks:
            if problem := _problem(attack):
                raise ConfigError(f"attacks.train: {attack.name} {problem}; leave it out, or hold it out")
            if entry := held_out_by(attack.name, held_out):
                of = "" if entry == attack.name else f" by {entry}"
                raise ConfigError(
                    f"attacks.train: {attack.name} is held out{of}; leave it out of attacks.train, or "
                    f"{entry} out of attacks.held_out"
                )
        if self.harmless_share and not any(map(_fits_harmless, attacks)):
            raise ConfigError(
                "attacks.harmless_share: none of attacks.train changes writing or encoding alone; add "
                "one, such as pinyin, or set it to 0"
            )
        return self


def _problem(attack: Attack) -> str:
    """Why a training row cannot hold an attack; empty where it can."""
    if attack is PLAIN or attack.family == PLAIN.family:
        return "is no attack"
    # A model learns its whole turn, and would learn to begin it as the attack does.
    if attack.prefill is not None:
        return "begins the answer for the model, which would be learned as its own"
    if attack.thought is not None:
        return "begins the reasoning for the model, which would be learned as its own"
    prompt = attack.apply("问题？", random.Random(0))
    if any(turn["role"] == "assistant" and _END_OF_THOUGHT in turn["content"] for turn in prompt.messages):
        return "has earlier turns with reasoning, which would be learned"
    return ""


def _fits_harmless(attack: Attack) -> bool:
    return families(attack.name) <= _OF_HARMLESS


def identities(config: AttackedConfig) -> dict[str, str]:
    """For the fingerprint of a corpus: what each attack makes of texts."""
    return {attack.name: attack_identity(attack) for attack in config.attacks}


def share_of(config: AttackedConfig, kind: str) -> float:
    """The share of the rows of a kind that is asked through attacks."""
    return {"safety": config.share, "benign-sensitive": config.harmless_share}.get(kind, 0.0)


@dataclass(frozen=True)
class Asking:
    """How each row of a corpus is asked; picklable, since workers have no files of the user's attacks.

    Attributes:
        attacks: The attacks to train on.
        places: Place in the order of the attacks, of each row that is asked through one.
        seed: Of all that the attacks draw.
    """

    attacks: Sequence[Attack]
    places: Mapping[str, int]
    seed: int

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with the columns ``attack`` and ``question``, and its turns as the attack has them.

        Args:
            row: With ``row_id``, ``kind``, ``area``, ``category``, and ``messages`` up to the last turn of
                the user.
        """
        for attack in self._order(row):
            area, category = row["area"] or "", row["category"] or ""
            sample = Sample(row["row_id"], "corpus", "refusal", area, category, row["messages"])
            try:
                prompt = attack_sample(sample, attack, self.seed)
            except DataError:
                # A table of translations that does not have this question.
                continue
            if prompt.is_applied:
                question = row["messages"][-1]["content"]
                return {**row, "messages": list(prompt.messages), "attack": attack.name, "question": question}
        return {**row, "attack": PLAIN.name, "question": None}

    def _order(self, row: dict[str, Any]) -> Sequence[Attack]:
        """The attacks to try: the row's own first, then the next ones, as it may find nothing to change."""
        place = self.places.get(row["row_id"])
        if place is None:
            return ()
        attacks = [each for each in self.attacks if row["kind"] == "safety" or _fits_harmless(each)]
        first = place % len(attacks)
        return [*attacks[first:], *attacks[:first]]


def record(config: AttackedConfig, asked: Mapping[tuple[str, str], int]) -> dict[str, object]:
    """The record of ``corpus.json``, see ``TrainedAttacks``, with the plain rows beside.

    Args:
        config: The settings.
        asked: Rows by kind and attack.
    """
    rows: Counter[str] = Counter()
    for (_, attack), number in asked.items():
        rows[attack] += number
    plain = rows.pop(PLAIN.name, 0)
    trained = TrainedAttacks(dict(sorted(rows.items())), config.held_out_names)
    by_kind = [
        {"kind": kind, "attack": name, "rows": number} for (kind, name), number in sorted(asked.items())
    ]
    return trained.to_json() | {"plain": plain, "by_kind": by_kind}
