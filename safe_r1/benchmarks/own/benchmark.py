"""A user's own questions as a benchmark: ``--benchmark questions.xlsx``, without code.

The file's columns are recognised by their usual names, or named in a TOML file beside it or by
``--set benchmark.NAME=VALUE``. Reports name the file and its hash.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from typing import Any

from safe_r1.benchmarks.base import BaseBenchmark, KeyIdentity, Location, Score, Workload
from safe_r1.benchmarks.math_answers import score_result
from safe_r1.benchmarks.options import score_choice
from safe_r1.benchmarks.own.place import Place
from safe_r1.benchmarks.own.reading import OwnFile, Reading
from safe_r1.benchmarks.own.settings import GROUP, merge
from safe_r1.benchmarks.sample_table import SampleTable
from safe_r1.errors import DataError
from safe_r1.schema import Sample
from safe_r1.settings import Settings, hide_credentials

logger = logging.getLogger(__name__)

_COMPLETION_TOKENS = 700
_LONG_COMPLETION_TOKENS = 4000
# Where a campaign is planned without the file, for example because its runs are finished.
_ASSUMED_QUESTIONS = 1000
_CHECK_LIMIT_S = 30.0


class OwnBenchmark(BaseBenchmark):
    """Questions of one file.

    Nothing is read before it is needed, and each time once: a finished campaign needs the file no more.
    """

    def __init__(self, file: OwnFile) -> None:
        self.file = file
        self.name = file.name
        self.title = file.settings.title or file.place.file_name

    def __getstate__(self) -> dict[str, Any]:
        # Workers get a copy: they need no question, and their machine may not have the file.
        kept = {name: self.__dict__[name] for name in ("file", "name", "title")}
        return {**kept, "_has_math": self._has_math}

    @functools.cached_property
    def reading(self) -> Reading:
        """What the file holds."""
        return self.file.read()

    @property
    def labels(self) -> Mapping[str, tuple[str, str]]:
        """Areas and categories as they stand in the file."""
        return self.reading.labels

    @property
    def has_given_answers(self) -> bool:
        """Whether the file has answers of a model, which can be judged without that model."""
        return self.reading.num_given > 0

    @property
    def score_limit_s(self) -> float | None:  # pyright: ignore[reportIncompatibleVariableOverride] - lazy
        """A limit where there is mathematics, which is compared in workers."""
        return _CHECK_LIMIT_S if self._has_math else None

    @property
    def workload(self) -> Workload:
        """Number of rows, and usual lengths; assumptions where the file is not there."""
        try:
            num_questions = len(self.reading.samples)
        except DataError:
            num_questions = self._count_rows()
        tokens = _LONG_COMPLETION_TOKENS if self._has_math else _COMPLETION_TOKENS
        return Workload(num_questions, tokens, is_long=self._has_math)

    def load(self, data: Location | None = None, answer_key: Location | None = None) -> SampleTable:
        """All samples in the order of the file; ``data`` and ``answer_key`` are ignored.

        Raises:
            DataError: The file cannot be read, or too many of its rows do not fit.
        """
        reading = self.reading
        misfits = reading.misfits
        share = len(misfits) / max(reading.num_rows, 1)
        if misfits and (share > self.file.settings.max_malformed_share or not reading.samples):
            first = misfits.first[0]
            allowed = (
                ""
                if share >= 1
                else f"; --set {GROUP}.max_malformed_share={_round_up(share)} leaves them out"
            )
            raise DataError(
                f"{len(misfits)} of {reading.num_rows} rows do not fit, first {first.where}: {first.reason}; "
                f"`safe-r1 benchmark check {hide_credentials(self.file.place.given)}` lists them{allowed}"
            )
        return reading.samples

    def score(self, sample: Sample, repeat: int, answer: str) -> Score | None:
        """The file's answers decide multiple choice and mathematics, a judge the rest."""
        if sample.task == "mcq":
            return score_choice(sample, answer)
        return score_result(sample, answer) if sample.task == "math" else None

    def key_identity(self, answer_key: Location | None = None) -> KeyIdentity:
        """The answers are part of the file."""
        return KeyIdentity(f"{self.file.place.file_name}, in the data", self.sha256)

    def data_hash(self, data: Location | None = None) -> str:
        """SHA-256 over the file and everything that makes its rows samples."""
        settings = self.file.settings
        meaning = {
            "columns": self.reading.columns.to_json(),
            "settings": settings.model_dump(exclude={"name", "title", "mapping", "max_malformed_share"}),
        }
        return hashlib.sha256(
            f"{self.sha256}\n{json.dumps(meaning, ensure_ascii=False, sort_keys=True)}".encode()
        ).hexdigest()

    def facts(self) -> dict[str, object]:
        """For ``run.json``: which file, how it was read, and the names of its areas and categories."""
        reading = self.reading
        return {
            "file": self.file.place.file_name,
            "title": self.title,
            "sha256": self.sha256,
            "num_rows": reading.num_rows,
            "num_left_out": len(reading.misfits),
            "left_out": reading.misfits.num_by_reason,
            "task": reading.task_reason,
            "mapping": reading.columns.reasons,
            "ignored_columns": list(reading.columns.ignored),
            "notes": list(reading.notes),
            "outside_taxonomy": reading.unmatched,
            "labels": {key: list(names) for key, names in reading.labels.items()},
        }

    def explain(self) -> list[str]:
        """For a dry run: what was recognised in the file, and why."""
        return explain(self.reading)

    @functools.cached_property
    def sha256(self) -> str:
        """Of the file."""
        return self.file.place.sha256(self.file.location)

    @functools.cached_property
    def _has_math(self) -> bool:
        if self.file.settings.task != "auto":
            return self.file.settings.task == "math"
        try:
            return "math" in self.reading.count_by("task")
        except DataError:
            return False

    def _count_rows(self) -> int:
        try:
            return max(1, self.file.count_rows())
        except DataError as error:
            logger.warning("%s; %d questions are assumed", error, _ASSUMED_QUESTIONS)
            return _ASSUMED_QUESTIONS


def open_own(name: str, taken: Collection[str], given: Settings | None = None) -> OwnBenchmark:
    """The benchmark of a file, a URI or a dataset of the hub; reads nothing but the TOML file beside it.

    Args:
        name: As it was typed after ``--benchmark``.
        taken: Names of other benchmarks.
        given: The group of settings of a job; what is set in it overrides the TOML file.

    Raises:
        ConfigError: The name or a setting in the TOML file does not fit.
    """
    place = Place(name)
    settings = merge(place.beside, given)
    return OwnBenchmark(OwnFile(place, settings, place.benchmark_name(settings, taken)))


def explain(reading: Reading) -> list[str]:
    """What was recognised in a file, and why; one line each."""
    columns = reading.columns
    lines = [f"{role}: {reason}" for role, reason in columns.reasons.items()]
    lines.append(f"task: {reading.task_reason}")
    if columns.ignored:
        lines.append(f"not used: {', '.join(map(repr, columns.ignored))}")
    lines += reading.notes
    if reading.unmatched:
        names = ", ".join(f"{name!r} ({count})" for name, count in reading.unmatched.items())
        lines.append(f"outside the taxonomy, kept under their own names: {names}")
    return lines


def _round_up(share: float) -> float:
    return min(0.999, int(share * 1000 + 1) / 1000)
