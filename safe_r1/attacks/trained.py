"""Which attacks a model was trained on and which were held out, as its corpus and its folder say."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self, cast, get_args

from safe_r1.attacks.adaptive.augment import POOL
from safe_r1.attacks.base import PLAIN, Attack, Family
from safe_r1.attacks.choose import parse_attacks
from safe_r1.attacks.combine import SIGN
from safe_r1.attacks.registry import SETS, get_attack, names
from safe_r1.config.adaptive import METHODS
from safe_r1.errors import SafeR1Error
from safe_r1.models.files import ORIGIN_FILE
from safe_r1.runs import RunFolder, as_path

FAMILIES: tuple[Family, ...] = tuple(each for each in get_args(Family) if each != PLAIN.family)
RECORD = "attacks"
"""Name of the record in ``corpus.json``, ``run.json`` and ``ORIGIN_FILE``."""


def attacks_of(entries: Iterable[str]) -> list[Attack]:
    """The attacks of names as ``parse_attacks`` takes them, and of the names of families.

    Raises:
        ConfigError: See ``parse_attacks``.
        DataError: See ``parse_attacks``.
    """
    texts: list[str] = []
    for entry in entries:
        own = [name for name in SETS["all"] if get_attack(name).family == entry]
        texts += own or [entry]
    return parse_attacks(texts) if texts else []


def families(name: str) -> set[Family]:
    """The families of an attack's parts, by its name; of none is one whose prompts a model writes."""
    return {_family(part) for part in _parts(name)}


def _parts(name: str) -> list[str]:
    """Names of the attacks that an attack is made of."""
    if name in METHODS:
        # Best of N draws from known attacks; of the others only the attacker decides.
        return list(POOL) if name == "bon" else []
    return name.split(SIGN)


def _family(part: str) -> Family:
    if part in names():
        return get_attack(part).family
    # Besides tables of translations, users add frames alone.
    return "writing" if part.startswith("translation") else "framing"


def held_out_by(name: str, held_out: Iterable[str]) -> str | None:
    """The entry that holds an attack out: a family of one of its parts, or an attack that it contains.

    Args:
        name: Of the attack, e.g. ``pinyin+role``.
        held_out: Names of families and of attacks.
    """
    parts = set(_parts(name))
    own = families(name)
    return next((each for each in held_out if each in own or set(each.split(SIGN)) <= parts), None)


@dataclass(frozen=True)
class TrainedAttacks:
    """Attacks of a training corpus.

    Attributes:
        rows: Number of training and validation rows by attack; without plain ones.
        held_out: Names of families and attacks that were kept for evaluation.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    held_out: tuple[str, ...] = ()

    def use_of(self, attack: str) -> str:
        """``trained on``, ``held out``, ``parts trained on`` or ``not trained on``; empty for no attack."""
        if attack == PLAIN.name:
            return ""
        if attack in self.rows:
            return "trained on"
        if held_out_by(attack, self.held_out):
            return "held out"
        trained = {part for name in self.rows for part in name.split(SIGN)}
        return "parts trained on" if trained & set(_parts(attack)) else "not trained on"

    def after(self, earlier: "TrainedAttacks | None") -> "TrainedAttacks":
        """The record of a model that was trained on an earlier corpus before."""
        if earlier is None:
            return self
        rows = Counter(earlier.rows) + Counter(self.rows)
        held_out = dict.fromkeys((*earlier.held_out, *self.held_out))
        left = (each for each in held_out if not any(held_out_by(name, [each]) for name in rows))
        return TrainedAttacks(dict(rows), tuple(left))

    def to_json(self) -> dict[str, object]:
        """As ``from_json`` reads it."""
        return {"rows": dict(self.rows), "held_out": list(self.held_out)}

    @classmethod
    def from_json(cls, record: object) -> Self | None:
        """From the record of a file; None where it is no such record."""
        if not isinstance(record, Mapping):
            return None
        rows, held_out = record.get("rows"), record.get("held_out")
        if not (isinstance(rows, Mapping) and isinstance(held_out, list)):
            return None
        if not all(isinstance(each, str) for each in (*rows, *held_out)):
            return None
        if not all(isinstance(number, int) for number in rows.values()):
            return None
        return cls(cast(Mapping[str, int], rows), tuple(held_out))


def read_trained(model: str) -> TrainedAttacks | None:
    """What the folder of a fine-tuned model says; None for other models, and where the corpus had no record.

    Args:
        model: The model's folder or its URI; of a name or a hub id nothing is known.
    """
    if not model:
        return None
    try:
        origin = RunFolder(as_path(model)).read_json(ORIGIN_FILE) or {}
    except (SafeR1Error, OSError, ValueError, ImportError):
        return None
    return TrainedAttacks.from_json(origin.get(RECORD))
