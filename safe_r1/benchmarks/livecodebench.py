"""LiveCodeBench, code generation: problems of programming contests with their dates, answered by a program,
scored by tests.

Data: the hub's ``livecodebench/code_generation_lite``, ``test.jsonl`` to ``test6.jsonl`` (several GB), read
    line by line
as they lie there; each release adds a file to the one before. Problems belong to the contests' sites and no
licence is stated for them, so nothing of it lies here. ``livecodebench-sample`` holds eight problems of our
own in the same form.
Metric: share of answers that pass every test (pass@1).

Source: arXiv 2403.07974; github LiveCodeBench/LiveCodeBench, ``lcb_runner/benchmarks/code_generation.py``.
"""

import hashlib
import io
import json
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, Never, Self

from pydantic import Field
from upath import UPath

from safe_r1.benchmarks.base import BaseBenchmark, KeyIdentity, Location, Score, Workload
from safe_r1.benchmarks.code_check import CodeTest, check_code, extract_code, inflate, pack_tests, parse_tests
from safe_r1.benchmarks.fetch import DATA, data_folder
from safe_r1.benchmarks.files import as_path, field_of, folder_with, lines_of, parse_json
from safe_r1.config import Settings
from safe_r1.errors import ConfigError, DataError
from safe_r1.sandbox.container import check_sandbox
from safe_r1.schema import Message, Sample

__all__ = ["LIVECODEBENCH", "LIVECODEBENCH_SAMPLE", "LiveCodeBench", "check_code", "extract_code"]

_FILES = ("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl", "test6.jsonl")
_VERSIONS = {f"release_v{number}": _FILES[:number] for number in range(1, len(_FILES) + 1)}
_PACKAGE_DATA = Path(__file__).parent / "data"
_NAME = re.compile(r"[\w.-]+", re.ASCII)

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

    version: str = Field(default="release_v5", description="release_v1 to release_v6")
    start: str | None = Field(default=None, description="first contest date, YYYY-MM-DD")
    end: str | None = Field(default=None, description="last contest date, YYYY-MM-DD")


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

    # The tests of a program have limits of their own: this one catches only what those do not.
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
        """Programs can be contained here; workers on other machines check it by themselves."""
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
            problem = parse_json(line, where)
            day = _contest_day(problem, where)
            if not first <= day <= last:
                continue
            sample = self._sample(problem, day, where)
            if sample.sample_id in samples:
                raise DataError(f"{where}: {sample.sample_id} occurs twice in the data")
            samples[sample.sample_id] = sample
        if not samples:
            raise ConfigError(
                f"{self.name}: no problem of {self.version} lies between {first} and {last}; widen the window"
            )
        return list(samples.values())

    def key_identity(self, answer_key: Location | None = None) -> KeyIdentity:
        """Which tests are the key; their contents are part of ``data_hash``, so the hash is that of this
        name.

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
            return date.fromisoformat(self.start or "0001-01-01"), date.fromisoformat(
                self.end or "9999-12-31"
            )
        except ValueError as error:
            raise ConfigError(f"{self.name}: start and end are dates such as 2024-08-01 ({error})") from error

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
        # The shipped set need not be where others are.
        return folder_with(root, self.name, _VERSIONS[self.version][:1]) or (
            own if self.data_path else root
        ), remedy

    def _lines(self, data: Location | None) -> Iterator[tuple[bytes, str]]:
        """Each line that is not blank, and the words that name it."""
        root, remedy = self._place(data)
        for name in _VERSIONS[self.version]:
            for number, line in enumerate(lines_of(root / name, remedy), start=1):
                if line.strip():
                    yield line, f"{name}, line {number}"

    def _sample(self, problem: dict[str, Any], day: date, where: str) -> Sample:
        number, area, category = (
            _word(problem, field, where) for field in ("question_id", "difficulty", "platform")
        )
        starter = problem.get("starter_code") or ""
        if not isinstance(starter, str):
            raise DataError(f"{where}: field 'starter_code' is {type(starter).__name__}, expected str")
        name = _function_name(problem, where)
        tests = [*_public_tests(problem, where), *_private_tests(problem, where)]
        _require_usable(tests, name, where)
        metadata = {"source_id": number, "contest_date": day.isoformat(), "tests": pack_tests(tests)}
        prompt = _prompt(field_of(problem, "question_content", str, where), starter)
        return Sample(
            sample_id=f"{self.name}/code/{number}",
            benchmark=self.name,
            task="code",
            area=area,
            category=f"{area}/{category}",
            messages=[Message(role="user", content=prompt)],
            metadata=metadata | ({"func_name": name} if name else {}),
        )


def _prompt(question: str, starter: str) -> str:
    task = f"{_STARTER_TASK}```python\n{starter.rstrip()}\n```" if starter.strip() else _STDIN_TASK
    return f"Solve this programming problem.\n\n{question.strip()}\n\n{task}\n\n{_FORM}"


def _contest_day(problem: Any, where: str) -> date:
    text = field_of(problem, "contest_date", str, where)
    try:
        return datetime.fromisoformat(text).date()
    except ValueError as error:
        raise DataError(f"{where}: contest_date {text!r} is no ISO date; fetch the file again") from error


def _word(problem: dict[str, Any], name: str, where: str) -> str:
    """A field that becomes part of an id or a group's name."""
    word = field_of(problem, name, str, where)
    if not _NAME.fullmatch(word):
        raise DataError(f"{where}: field {name!r} is {word!r}, expected letters, digits, '.', '_' and '-'")
    return word


def _function_name(problem: dict[str, Any], where: str) -> str:
    """The function that the tests call; empty where they use standard input."""
    metadata = parse_json(field_of(problem, "metadata", str, where).encode(), f"{where}, metadata")
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise DataError(f"{where}: func_name is {name!r}, expected a Python name")
    return name or ""


def _public_tests(problem: dict[str, Any], where: str) -> list[CodeTest]:
    text = field_of(problem, "public_test_cases", str, where)
    return parse_tests(
        parse_json(text.encode(), f"{where}, public_test_cases"), f"{where}, public_test_cases"
    )


def _private_tests(problem: dict[str, Any], where: str) -> list[CodeTest]:
    """The hidden tests: JSON, or JSON in a pickle in zlib in base64, as in most of the published files."""
    where = f"{where}, private_test_cases"
    text = field_of(problem, "private_test_cases", str, where)
    # No base64 starts with a bracket.
    if not text.lstrip().startswith("["):
        text = _unpickle_text(inflate(text, where), where)
    return parse_tests(parse_json(text.encode("utf-8", "surrogatepass"), where), where)


class _NoGlobals(pickle.Unpickler):
    """Reads plain values only: a pickle that names a class or a function is refused before anything is
    imported.
    """

    def find_class(self, module_name: str, global_name: str, /) -> Never:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def _unpickle_text(content: bytes, where: str) -> str:
    try:
        text = _NoGlobals(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle can raise nearly anything, and all of it means the same
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{where}: is damaged or hostile, no pickled text ({reason}); fetch the file again"
        ) from error
    if not isinstance(text, str):
        raise DataError(
            f"{where}: is damaged, holds {type(text).__name__} where JSON text is expected; fetch the file "
            "again"
        )
    return text


def _require_usable(tests: list[CodeTest], function: str, where: str) -> None:
    if not tests:
        raise DataError(f"{where}: has no tests; fetch the file again")
    for number, test in enumerate(tests, start=1):
        if test.testtype == "functional" and not function:
            raise DataError(
                f"{where}, test {number}: is functional, but the problem's metadata hold no func_name"
            )
        if function:
            try:
                for text in (test.output, *test.input.split("\n")):
                    json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{where}, test {number}: an argument or result is no JSON ({error})"
                ) from error


LIVECODEBENCH = LiveCodeBench(name="livecodebench", title="LiveCodeBench, code generation")

LIVECODEBENCH_SAMPLE = LiveCodeBench(
    name="livecodebench-sample",
    title="Sample in the form of LiveCodeBench (our own problems)",
    version="release_v1",
    data_path=_PACKAGE_DATA / "livecodebench_sample",
    settings=None,
    workload=Workload(num_questions=8, completion_tokens=4000, is_long=True),
)
