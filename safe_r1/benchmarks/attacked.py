"""A benchmark's questions as an attack asks them, as a benchmark of its own: ``BENCHMARK@ATTACK``.

The samples are those of the benchmark, so that judges, people and reports see the plain question; only what
the model is asked differs. ``BENCHMARK@plain`` asks them as they are: what every attack is compared with.
"""

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable

from safe_r1.attacks.apply import ATTACKED_TASKS, attack_sample
from safe_r1.attacks.base import PLAIN, Attack
from safe_r1.attacks.identity import attack_identity
from safe_r1.benchmarks.base import (
    BaseBenchmark,
    Benchmark,
    KeyIdentity,
    Location,
    UnderAttack,
    Workload,
)
from safe_r1.errors import DataError
from safe_r1.progress import NOTICES
from safe_r1.schema import OPENING_ANSWER, OPENING_THOUGHT, Sample

SEPARATOR = "@"
notices = logging.getLogger(NOTICES)
_MONTH = re.compile(r"\d{4}-\d{2}")
# A harmless question in another role, or with a begun answer, is another question.
_OF_HARMLESS = ("plain", "writing", "encoding")


def split_attack(name: str) -> tuple[str, str]:
    """A benchmark's name without its attack, and the attack; empty for one that is under none."""
    base, separator, attack = name.rpartition(SEPARATOR)
    # A month is the version of a benchmark.
    return (base, attack) if separator and not _MONTH.fullmatch(attack) else (name, "")


class UnchangedError(DataError):
    """An attack has nothing to ask of a benchmark.

    Attributes:
        attack: Name of the attack.
    """

    def __init__(self, message: str, attack: str = ""):
        super().__init__(message)
        self.attack = attack


@dataclass(frozen=True)
class OfBase(BaseBenchmark):
    """What benchmarks under attacks take over from the one that is attacked.

    Attributes:
        base: The benchmark.
    """

    base: Benchmark

    @property
    def attack_name(self) -> str:
        """Name of the attack."""
        raise NotImplementedError

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """``BENCHMARK@ATTACK``."""
        return f"{self.base.name}{SEPARATOR}{self.attack_name}"

    @property
    def title(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of the benchmark, with the attack."""
        return f"{self.base.title} · {self.attack_name}"

    @property
    def repeats(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the benchmark."""
        return self.base.repeats

    @property
    def workload(self) -> Workload:
        """That of the benchmark."""
        return self.base.workload

    @property
    def labels(self) -> Mapping[str, tuple[str, str]]:
        """Those of the benchmark."""
        return self.base.labels

    @property
    def published(self) -> Traversable | None:
        """None: published figures are of plain questions."""
        return None

    def key_identity(self, answer_key: Location | None = None) -> KeyIdentity:
        """That of the benchmark."""
        return self.base.key_identity(answer_key)

    def facts(self) -> Mapping[str, object]:
        """Those of the benchmark."""
        return self.base.facts()

    def explain(self) -> Sequence[str]:
        """How the benchmark was read; and an example would be a question, which is not shown here."""
        return self.base.explain()


@dataclass(frozen=True)
class AttackedBenchmark(OfBase):
    """The risky questions of a benchmark under one attack; its harmless ones too where only writing changes.

    Attributes:
        attack: The attack.
        seed: Of all that the attack draws.
    """

    attack: Attack
    seed: int = 0

    @property
    def attack_name(self) -> str:
        """Name of the attack."""
        return self.attack.name

    @property
    def under_attack(self) -> UnderAttack:
        """The attack."""
        attack = self.attack
        return UnderAttack(
            attack.name,
            attack.family,
            attack.source,
            self.base,
            AttackedBenchmark(self.base, PLAIN, self.seed),
            begins_answer=attack.prefill is not None,
            begins_thought=attack.thought is not None,
        )

    def load(self, data: Location | None = None, answer_key: Location | None = None) -> Sequence[Sample]:
        """The questions that the attack can ask; those in which it finds nothing to change are left out.

        Raises:
            UnchangedError: There are none.
        """
        found: list[Sample] = []
        num_unchanged = 0
        for sample in self.base.load(data, answer_key):
            if sample.task not in ATTACKED_TASKS or not self._fits(sample):
                continue
            if attack_sample(sample, self.attack, self.seed).is_applied:
                found.append(replace(sample, benchmark=self.name))
            else:
                num_unchanged += 1
        if not found:
            raise UnchangedError(
                f"{self.name}: {num_unchanged or 'no'} questions to ask, of which the attack changes none; "
                f"attacks need questions of {' or '.join(ATTACKED_TASKS)}",
                self.attack.name,
            )
        if num_unchanged:
            notices.info(
                "%s: the attack finds nothing to change in %d questions, which are left out",
                self.name,
                num_unchanged,
            )
        return found

    def as_asked(self, sample: Sample, repeat: int) -> Sample:
        """The question as the attack asks it, with what is put into the model's mouth."""
        prompt = attack_sample(self.base.as_asked(sample, repeat), self.attack, self.seed)
        opening = {OPENING_THOUGHT: prompt.thought, OPENING_ANSWER: prompt.prefill}
        begun = {name: text for name, text in opening.items() if text is not None}
        return replace(sample, messages=list(prompt.messages), metadata={**sample.metadata, **begun})

    def data_hash(self, data: Location | None = None) -> str:
        """Over the benchmark's data, and what the attack makes of them."""
        parts = (self.base.data_hash(data), attack_identity(self.attack), str(self.seed))
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def _fits(self, sample: Sample) -> bool:
        return sample.task == "refusal" or self.attack.family in _OF_HARMLESS
