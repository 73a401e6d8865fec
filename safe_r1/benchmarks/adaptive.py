"""A benchmark's risky questions under an attack that adapts, as a benchmark of its own: ``BENCHMARK@pair``.

What the model is asked comes of its own answers, so that the questions here are the plain ones; see
``safe_r1.attacks.adaptive``.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from safe_r1.attacks.adaptive.identity import adaptive_identity
from safe_r1.attacks.base import PLAIN
from safe_r1.benchmarks.attacked import AttackedBenchmark, OfBase, UnchangedError
from safe_r1.benchmarks.base import Location, UnderAttack
from safe_r1.config.adaptive import AdaptiveConfig
from safe_r1.schema import Sample

FAMILY = "adaptive"
SOURCES: Mapping[str, str] = {
    "pair": "arXiv 2310.08419",
    "tap": "arXiv 2312.02119",
    "crescendo": "arXiv 2404.01833",
    "bon": "arXiv 2412.03556",
}
"""Method to where it was published."""


@dataclass(frozen=True)
class AdaptiveBenchmark(OfBase):
    """The risky questions of a benchmark, for each of which an attack looks for a prompt that works.

    Attributes:
        config: Settings of the attack.
        seed: Of all that it draws.
    """

    config: AdaptiveConfig
    seed: int = 0

    @property
    def attack_name(self) -> str:
        """Name of the method."""
        return self.config.method

    @property
    def under_attack(self) -> UnderAttack:
        """The attack."""
        return UnderAttack(
            self.config.method,
            FAMILY,
            SOURCES[self.config.method],
            self.base,
            AttackedBenchmark(self.base, PLAIN, self.seed),
            search=self.config,
        )

    def load(self, data: Location | None = None, answer_key: Location | None = None) -> Sequence[Sample]:
        """The risky questions.

        Raises:
            UnchangedError: There are none.
        """
        found = [
            replace(sample, benchmark=self.name)
            for sample in self.base.load(data, answer_key)
            if sample.task == "refusal"
        ]
        if not found:
            raise UnchangedError(
                f"{self.name}: no risky questions; this attack needs questions of the task refusal",
                self.attack_name,
            )
        return found

    def data_hash(self, data: Location | None = None) -> str:
        """Over the benchmark's data, and what decides the calls of the attack."""
        parts = (self.base.data_hash(data), adaptive_identity(self.config), str(self.seed))
        return hashlib.sha256("|".join(parts).encode()).hexdigest()
