"""The benchmark protocol: everything that depends on the benchmark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Protocol, Self

from upath import UPath

from safe_r1.benchmarks.fetch import Source
from safe_r1.config.adaptive import AdaptiveConfig
from safe_r1.schema import Sample
from safe_r1.settings import Settings

Location = UPath | Path | str
"""A local path or any fsspec URI."""


@dataclass(frozen=True)
class KeyIdentity:
    """Which answer key was used; every report names it.

    Attributes:
        name: ``BENCHMARK/shipped`` for the key in the package, the file's name otherwise.
        sha256: Of the file's bytes, in hexadecimal.
    """

    name: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} (sha256 {self.sha256[:12]})"


@dataclass(frozen=True)
class Score:
    """The score of an answer to a question with a known result.

    Attributes:
        is_correct: Whether the result is right.
        found: The result that was extracted from the answer; None where no result was found.
        explanation: Why it is wrong, where that is not obvious.
    """

    is_correct: bool
    found: str | None
    explanation: str = ""


@dataclass(frozen=True)
class Workload:
    """What the planner of runs and campaigns assumes of a benchmark.

    Attributes:
        num_questions: Questions in its published form.
        completion_tokens: Mean length of a reasoning model's completion in tokens; a base model writes less.
        is_long: Its completions get the budget for reasoning benchmarks (``generation.max_tokens_reasoning``)
            and the context that goes with it.
    """

    num_questions: int
    completion_tokens: int
    is_long: bool = False


class Benchmark(Protocol):
    """A named set of questions and the scoring of their answers.

    ``BaseBenchmark`` has the defaults. Instances are immutable and picklable: workers get a copy,
    on machines that may not have its files.
    """

    @property
    def name(self) -> str:
        """Name on the command line and in samples."""
        ...

    @property
    def title(self) -> str:
        """Name in reports."""
        ...

    @property
    def repeats(self) -> int:
        """Completions of each question unless the configuration sets another number."""
        ...

    @property
    def workload(self) -> Workload:
        """Size assumptions for planning."""
        ...

    @property
    def settings(self) -> Settings | None:
        """Its own group of ``EvaluateConfig`` with the defaults (see ``settings_group``), or None."""
        ...

    @property
    def takes_answer_key(self) -> bool:
        """Whether ``load`` accepts an answer key that replaces the benchmark's own."""
        ...

    @property
    def score_limit_s(self) -> float | None:
        """Time limit of one ``score`` in seconds, enforced by killing the worker that runs it.

        None: ``score`` is fast and safe, and is called in the driver or in workers that score whole shards.
        """
        ...

    @property
    def labels(self) -> Mapping[str, tuple[str, str]]:
        """Area or category key to its Chinese and English name in reports, in report order.

        May also name a group of samples (``safe_r1.schema.Sample.group``).
        """
        ...

    @property
    def source(self) -> Source | None:
        """Where ``safe-r1 fetch`` downloads it from; None: it is shipped, or has to be downloaded by hand."""
        ...

    @property
    def published(self) -> Traversable | None:
        """TOML file of published figures shown beside ours (see ``safe_r1.report.references``), or None."""
        ...

    def with_settings(self, settings: Settings) -> Self:
        """The benchmark with other values of its group of settings.

        Raises:
            ConfigError: The values do not fit the benchmark.
        """
        ...

    def check_machine(self) -> None:
        """Check before a run that answers can be scored on this machine.

        Raises:
            SafeR1Error: They cannot; the message says why.
        """
        ...

    def load(self, data: Location | None = None, answer_key: Location | None = None) -> Sequence[Sample]:
        """All samples, in a stable order; they need not be in memory all at once.

        Args:
            data: Folder of the files; None for the benchmark's default folder.
            answer_key: A key that replaces the benchmark's own, for benchmarks with ``takes_answer_key``.

        Raises:
            DataError: A file is missing or damaged; the message names the file and the item.
        """
        ...

    def as_asked(self, sample: Sample, repeat: int) -> Sample:
        """The sample as the model is prompted with it in one repeat; depends on the arguments alone."""
        ...

    def score(self, sample: Sample, repeat: int, answer: str) -> Score | None:
        """Score an answer without a judge.

        Args:
            sample: The sample as ``load`` gave it.
            repeat: The repeat that was answered, see ``as_asked``.
            answer: The model's answer without its reasoning.

        Returns:
            None where a judge decides (tasks of ``safe_r1.schema.JUDGED_PARTS``).
        """
        ...

    def key_identity(self, answer_key: Location | None = None) -> KeyIdentity:
        """Name and hash of the key that ``load`` would use."""
        ...

    def data_hash(self, data: Location | None = None) -> str:
        """SHA-256 over the files that ``load`` would read; equal data give equal hashes in any folder."""
        ...

    def facts(self) -> Mapping[str, object]:
        """Facts about questions that no installed package knows, for ``run.json``; empty for all others.

        ``title`` and ``labels`` among them replace the benchmark's own in reports: its file may be gone.
        """
        ...

    def explain(self) -> Sequence[str]:
        """How the questions were read and why, line by line, where that was recognised and not defined."""
        ...


@dataclass(frozen=True)
class UnderAttack:
    """What a benchmark says of the attack that its questions are under.

    Attributes:
        attack: Name of the attack.
        family: Family of the attack; ``adaptive`` for one that adapts.
        source: Where it was published, or ``own``.
        base: The benchmark without the attack.
        plain: The same questions as they are: a benchmark under the attack ``plain``.
        begins_answer: It begins the answer for the model.
        begins_thought: It begins the reasoning for the model.
        search: Settings of an attack that adapts to the model's answers; None for one that asks once.
    """

    attack: str
    family: str
    source: str
    base: Benchmark
    plain: Benchmark
    begins_answer: bool = False
    begins_thought: bool = False
    search: AdaptiveConfig | None = None


def under_attack(benchmark: Benchmark) -> UnderAttack | None:
    """What a benchmark says of its attack; None for questions that are under none."""
    # Other packages' benchmarks may be older than this.
    return getattr(benchmark, "under_attack", None)


class BaseBenchmark:
    """Defaults: one completion for each question, prompted as loaded; no settings; a judge decides."""

    name: str
    title: str
    repeats: int = 1
    settings: Settings | None = None
    takes_answer_key: bool = False
    score_limit_s: float | None = None
    source: Source | None = None

    @property
    def under_attack(self) -> UnderAttack | None:
        """Under none."""
        return None

    @property
    def labels(self) -> Mapping[str, tuple[str, str]]:
        """Area and category keys are shown as they are."""
        return {}

    @property
    def published(self) -> Traversable | None:
        """No published figures."""
        return None

    def with_settings(self, settings: Settings) -> Self:
        """The benchmark itself, as it has no settings."""
        return self

    def check_machine(self) -> None:
        """Any machine can score it."""

    def as_asked(self, sample: Sample, repeat: int) -> Sample:
        """The sample as it was loaded."""
        return sample

    def score(self, sample: Sample, repeat: int, answer: str) -> Score | None:
        """None: a judge decides."""
        return None

    def facts(self) -> Mapping[str, object]:
        """None."""
        return {}

    def explain(self) -> Sequence[str]:
        """Nothing."""
        return ()


def settings_group(name: str) -> str:
    """Name of a benchmark's group of settings, as in ``--set GROUP.NAME=VALUE``."""
    return name.replace("-", "_")
