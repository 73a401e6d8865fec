"""LiveCodeBench, code generation: dated problems of programming contests, with solutions scored by tests.

Data: the hub's ``livecodebench/code_generation_lite``, ``test.jsonl`` to ``test6.jsonl`` (several GB), read
line by line as published; each release adds a file to the one before. Problems belong to the contests' sites
and no licence is stated for them, so the package does not include them. ``livecodebench-sample`` holds eight
problems of our own in the same form.
Metric: share of answers that pass every test (pass@1).

Source: arXiv 2403.07974; github LiveCodeBench/LiveCodeBench, ``lcb_runner/benchmarks/code_generation.py``.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Self

from pydantic import Field
from upath import UPath

from safe_r1.benchmarks.base import BaseBenchmark, KeyIdentity, Location, Score, Workload
from safe_r1.benchmarks.code_check import check_code, extract_code, pack_tests
from safe_r1.benchmarks.fetch import DATA, data_folder
from safe_r1.benchmarks.files import as_path, folder_with, lines_of, object_of, parse_json
from safe_r1.benchmarks.livecodebench_problem import Problem, contest_day, read_problem
from safe_r1.errors import ConfigError, DataError
from safe_r1.sandbox.container import check_sandbox
from safe_r1.schema import Message, Sample
from safe_r1.settings import Settings

__all__ = ["LIVECODEBENCH", "LIVECODEBENCH_SAMPLE", "LiveCodeBench", "check_code", "extract_code"]

_FILES = ("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl", "test6.jsonl")
_VERSIONS = {f"release_v{number}": _FILES[:number] for number in range(1, len(_FILES) + 1)}
_PACKAGE_DATA = Path(__file__).parent / "data"

_STDIN_TASK = (
    "Write a complete Python 3 program that solves the problem. It must read from standard input and write "
    "to standard output, and nothing else."
)
_STARTER_TASK = (
    "Complete the following Python 3 code so that it solves the problem; keep the given names and "
    "signature.\n\n"
)
_FORM = "Put the whole program into one block that starts with ```python and ends with ```."


class LiveCodeBenchSettings(Settings):
    """LiveCodeBench."""

    version: str = Field(default="release_v5", description="release of the data, release_v1 to release_v6")
    start: str | None = Field(default=None, description="first contest date, as YYYY-MM-DD")
    end: str | None = Field(default=None, description="last contest date, as YYYY-MM-DD")


_SETTINGS = LiveCodeBenchSettings()
_WORKLOAD = Workload(num_questions=880, completion_tokens=10_000, is_long=True)


@dataclass(frozen=True)
class LiveCodeBench(BaseBenchmark):
    """A set of programming problems in the file format of LiveCodeBench.

    Attributes:
        name: Name on the command line and in ``sample_id``.
        title: Name in reports.
        version: ``release_v1`` to ``release_v6``: how many of the files are read.
        start: First contest date, ISO; None for no bound.
        end: Last contest date, ISO, itself included; None for no bound.
        data_path: The files in the package; None where they have to be fetched.
        repeats: Completions of a question where the settings do not say.
        settings: Version and window of contest dates; None for a set that is shipped.
        workload: Size assumptions for planning.

    Raises:
        ConfigError: There is no such version, or no day lies in the window.
    """

    name: str
    title: str
    version: str = "release_v5"
    start: str | None = None
    end: str | None = None
    data_path: Path | None = None
    repeats: int = 4
    settings: Settings | None = _SETTINGS
    workload: Workload = _WORKLOAD

    # Every test has its own limit; this one ends what they do not cover, such as a worker that hangs.
    score_limit_s = 900.0

    def __post_init__(self) -> None:
        if self.version not in _VERSIONS:
            raise ConfigError(
                f"{self.name}: unknown version {self.version!r}; choose one of {', '.join(_VERSIONS)}"
            )
        first, last = self._window()
        if first > last:
            raise ConfigError(
                f"{self.name}: no day lies between start {self.start} and end {self.end}; swap them"
            )

    def with_settings(self, settings: Settings) -> Self:
        """The problems of another version or window."""
        assert isinstance(settings, LiveCodeBenchSettings)
        return replace(self, version=settings.version, start=settings.start, end=settings.end)

    def check_machine(self) -> None:
        """Check that this machine has a sandbox; workers on other machines check their own."""
        check_sandbox()

    def score(self, sample: Sample, repeat: int, answer: str) -> Score:
        """Run the program in the answer against the problem's tests."""
        return check_code(sample, answer)

    def load(self, data: Location | None = None, answer_key: Location | None = None) -> list[Sample]:
        """All problems of the version whose contest lies in the window, in the order of the files.

        The tests of one problem at a time are unpacked; a sample carries them packed (see
        ``code_check.pack_tests``).

        Args:
            data: The folder that holds the files; a local path or any fsspec URI.
            answer_key: Not used: the tests are part of the data.

        Raises:
            ConfigError: An answer key was given, or no problem lies in the window.
            DataError: A file is missing or damaged, or a problem cannot be read.
        """
        self._refuse_key(answer_key)
        first, last = self._window()
        samples: dict[str, Sample] = {}
        for line, where in self._lines(data):
            fields = object_of(parse_json(line, where), where)
            # Before the tests are unpacked, which takes most of the time of loading.
            if not first <= contest_day(fields, where) <= last:
                continue
            sample = self._sample(read_problem(fields, where))
            if sample.sample_id in samples:
                raise DataError(f"{where}: {sample.sample_id} occurs twice in the data")
            samples[sample.sample_id] = sample
        if not samples:
            raise ConfigError(
                f"{self.name}: no problem of {self.version} lies between {first} and {last}; widen the window"
            )
        return list(samples.values())

    def key_identity(self, answer_key: Location | None = None) -> KeyIdentity:
        """Name of the tests and its hash; the contents of the tests are part of ``data_hash``.

        Raises:
            ConfigError: An answer key was given.
        """
        self._refuse_key(answer_key)
        window = f" {self.start or ''}..{self.end or ''}" if self.start or self.end else ""
        name = f"{self.name}/tests {self.version}{window}"
        return KeyIdentity(name, hashlib.sha256(name.encode()).hexdigest())

    def data_hash(self, data: Location | None = None) -> str:
        """SHA-256 over names and contents of the version's files, whatever the window."""
        digest = hashlib.sha256()
        root, remedy = self._place(data)
        for name in _VERSIONS[self.version]:
            content = hashlib.sha256()
            for line in lines_of(root / name, remedy):
                content.update(line)
            digest.update(f"{name} {content.hexdigest()}\n".encode())
        return digest.hexdigest()

    def _refuse_key(self, answer_key: Location | None) -> None:
        if answer_key is not None:
            raise ConfigError(
                f"{self.name} takes no answer key, got {answer_key}; its tests are part of its data"
            )

    def _window(self) -> tuple[date, date]:
        try:
            first = date.fromisoformat(self.start or "0001-01-01")
            last = date.fromisoformat(self.end or "9999-12-31")
        except ValueError as error:
            raise ConfigError(f"{self.name}: start and end are dates such as 2024-08-01 ({error})") from error
        return first, last

    def _place(self, data: Location | None) -> tuple[UPath, str]:
        """The folder of the files, and what to do where one is missing."""
        files = " ".join(_VERSIONS[self.version])
        remedy = f"give --data the folder that holds {files.replace(' ', ', ')}"
        own = as_path(str(self.data_path or data_folder() / self.name))
        if self.data_path is None:
            remedy = (
                f"run `hf download --repo-type dataset livecodebench/code_generation_lite {files} "
                f"--local-dir DIR/{self.name}`, then give --data DIR or set {DATA}=DIR"
            )
        if data is None:
            return own, remedy
        root = as_path(data)
        # A folder of several benchmarks, among which the shipped one need not be.
        default = own if self.data_path else root
        return folder_with(root, self.name, _VERSIONS[self.version][:1]) or default, remedy

    def _lines(self, data: Location | None) -> Iterator[tuple[bytes, str]]:
        """Each line that is not blank, and its position for messages."""
        root, remedy = self._place(data)
        for name in _VERSIONS[self.version]:
            for number, line in enumerate(lines_of(root / name, remedy), start=1):
                if line.strip():
                    yield line, f"{name}, line {number}"

    def _sample(self, problem: Problem) -> Sample:
        metadata = {
            "source_id": problem.question_id,
            "contest_date": problem.contest_day.isoformat(),
            "tests": pack_tests(problem.tests),
        }
        if problem.function_name:
            metadata["func_name"] = problem.function_name
        return Sample(
            sample_id=f"{self.name}/code/{problem.question_id}",
            benchmark=self.name,
            task="code",
            area=problem.difficulty,
            category=f"{problem.difficulty}/{problem.platform}",
            messages=[Message(role="user", content=_prompt(problem.question, problem.starter_code))],
            metadata=metadata,
        )


def _prompt(question: str, starter: str) -> str:
    task = f"{_STARTER_TASK}```python\n{starter.rstrip()}\n```" if starter.strip() else _STDIN_TASK
    return f"Solve this programming problem.\n\n{question.strip()}\n\n{task}\n\n{_FORM}"


LIVECODEBENCH = LiveCodeBench(name="livecodebench", title="LiveCodeBench, code generation")

LIVECODEBENCH_SAMPLE = LiveCodeBench(
    name="livecodebench-sample",
    title="Sample in the form of LiveCodeBench (our own problems)",
    version="release_v1",
    data_path=_PACKAGE_DATA / "livecodebench_sample",
    settings=None,
    workload=Workload(num_questions=8, completion_tokens=4000, is_long=True),
)
