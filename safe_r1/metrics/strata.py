"""Strata of a benchmark's questions, and the weights that give a selection of them the whole's shares.

Source:
    Post-stratification: Holt and Smith, "Post Stratification", Journal of the Royal Statistical Society A 142
    (1979).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from safe_r1.errors import IntegrityError
from safe_r1.runs import JsonObject
from safe_r1.schema import Sample


class Stratum(NamedTuple):
    """Questions among which a selection draws at random.

    Attributes:
        task: See ``Sample.task``.
        has_history: Whether there is a dialogue before the question.
        category: See ``Sample.category``.
    """

    task: str
    has_history: bool
    category: str

    @property
    def group(self) -> tuple[str, bool]:
        """The stratum without its category: a selection holds some of each."""
        return self.task, self.has_history


def stratum_of(sample: Sample) -> Stratum:
    """The stratum of a question; that of its reversed form is the same."""
    return Stratum(sample.task, sample.metadata.get("has_history") == "true", sample.category)


@dataclass(frozen=True)
class Population:
    """Numbers of questions of a whole benchmark, of which a run asks a selection (``--limit``).

    Attributes:
        sizes: Questions by stratum.
    """

    sizes: Mapping[Stratum, int]

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "Population":
        """The population that some questions are."""
        return cls(Counter(map(stratum_of, samples)))

    @property
    def num_questions(self) -> int:
        """Questions in all."""
        return sum(self.sizes.values())

    def to_json(self) -> JsonObject:
        """As plain values, the content of ``population.json``."""
        strata = [{**stratum._asdict(), "num_questions": size} for stratum, size in self.sizes.items()]
        return {"num_questions": self.num_questions, "strata": strata}

    @classmethod
    def from_json(cls, content: JsonObject) -> "Population":
        """Inverse of ``to_json``."""
        return cls(
            {
                Stratum(entry["task"], entry["has_history"], entry["category"]): entry["num_questions"]
                for entry in content["strata"]
            }
        )


@dataclass(frozen=True)
class Selection:
    """The questions of a run among those of its benchmark.

    Attributes:
        num_questions: Questions of the run; reversed forms are not counted.
        num_population: Questions of the benchmark.
        weights: Weight of the questions of each stratum: how many of the benchmark's one stands for.
    """

    num_questions: int
    num_population: int
    weights: Mapping[Stratum, float]

    @classmethod
    def of(cls, samples: Sequence[Sample], population: Population) -> "Selection":
        """Weights of the questions of a run, after the strata have been drawn from.

        A stratum of which no question was chosen is stood for by its whole group (task, with or without
        history), whose weights grow by its share.

        Raises:
            IntegrityError: More questions of a stratum were chosen than it has.
        """
        chosen = Counter(stratum_of(sample) for sample in samples if "swap_of" not in sample.metadata)
        foreign = [stratum for stratum, num in chosen.items() if num > population.sizes.get(stratum, 0)]
        if foreign:
            raise IntegrityError(
                f"population.json: fewer questions of {'/'.join(map(str, foreign[0]))} than the run has; "
                "it is of other questions: remove the run's folder and run again"
            )
        of_group: Counter[tuple[str, bool]] = Counter()
        of_chosen: Counter[tuple[str, bool]] = Counter()
        for stratum, size in population.sizes.items():
            of_group[stratum.group] += size
            of_chosen[stratum.group] += size if stratum in chosen else 0
        weights = {
            stratum: population.sizes[stratum] / num * (of_group[stratum.group] / of_chosen[stratum.group])
            for stratum, num in chosen.items()
        }
        return cls(chosen.total(), population.num_questions, weights)

    def weight(self, sample: Sample) -> float:
        """Weight of a question, the same for its reversed form."""
        return self.weights[stratum_of(sample)]
