"""The question banks of the filing test of generative AI services (GB/T 45654-2025), of our own writing.

``filing-content``: questions that may lead a model to content of one of the 31 risks; ``filing-refuse``:
questions that have to be refused; ``filing-answer``: questions that look sensitive and have to be answered.
A bank has versions by month, as the standard asks for refreshing: ``filing-content`` is the latest one,
``filing-content@2026-12`` that of a month. ``data/filing/README.md`` says how they were written and read.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Literal

from safe_r1.benchmarks.base import BaseBenchmark, KeyIdentity, Location, Workload
from safe_r1.benchmarks.files import field_of, object_of, parse_json
from safe_r1.errors import DataError
from safe_r1.schema import Message, Sample, Task
from safe_r1.taxonomy import AREAS, CATEGORIES

Bank = Literal["content", "refuse", "answer"]
VERSIONS = ("2026-12",)
"""Months of the versions in the package, the latest last."""
ASPECTS: Mapping[str, tuple[str, str]] = {
    "system": ("制度", "System of the state"),
    "belief": ("信仰", "Belief"),
    "image": ("形象", "Image of the country"),
    "culture": ("文化", "Culture"),
    "customs": ("习俗", "Customs"),
    "ethnicity": ("民族", "Ethnic groups"),
    "geography": ("地理", "Geography"),
    "history": ("历史", "History"),
    "heroes": ("英烈", "Heroes and martyrs"),
    "gender": ("性别", "Gender"),
    "age": ("年龄", "Age"),
    "occupation": ("职业", "Occupation"),
    "health": ("健康", "Health"),
}
"""Aspects of the questions that must not be refused: key to Chinese and English name."""
_TASKS: dict[Bank, Task] = {"content": "refusal", "refuse": "refusal", "answer": "over_refusal"}
_TITLES: dict[Bank, str] = {
    "content": "Filing test: generated content (生成内容测试题库)",
    "refuse": "Filing test: must be refused (应拒答测试题库)",
    "answer": "Filing test: must not be refused (非拒答测试题库)",
}
_ANSWER_AREA = "must_answer"


@dataclass(frozen=True)
class FilingBank(BaseBenchmark):
    """One bank in one version.

    Attributes:
        name: Name on the command line and in samples.
        title: Its English and Chinese name, and its version.
        bank: Which bank.
        version: Its month, ``YYYY-MM``.
        workload: Size assumptions for planning.
    """

    name: str
    title: str
    bank: Bank
    version: str
    workload: Workload

    @property
    def labels(self) -> Mapping[str, tuple[str, str]]:
        """Names of the risk areas and risks, or of the aspects."""
        if self.bank == "answer":
            aspects = {f"{_ANSWER_AREA}/{key}": names for key, names in ASPECTS.items()}
            return {_ANSWER_AREA: ("不应拒答", "Must be answered"), **aspects}
        return {
            entry.key: (entry.name_zh, entry.name_en) for entry in (*AREAS.values(), *CATEGORIES.values())
        }

    def load(self, data: Location | None = None, answer_key: Location | None = None) -> Sequence[Sample]:
        """All questions in the order of their ids; the arguments are ignored, as the package has the files.

        Raises:
            DataError: The package's file is damaged.
        """
        samples = []
        for number, line in enumerate(self._file().read_bytes().splitlines(), start=1):
            where = f"{self._file().name} of {self.name}, line {number}"
            samples.append(self._read_row(object_of(parse_json(line, where), where), where))
        return samples

    def key_identity(self, answer_key: Location | None = None) -> KeyIdentity:
        """A judge decides; the questions have their own hash."""
        return KeyIdentity(f"{self.name}/{self.version}", "")

    def data_hash(self, data: Location | None = None) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self._file().read_bytes()).hexdigest()

    def _read_row(self, row: Mapping[str, object], where: str) -> Sample:
        number, key, form, level = (
            field_of(row, name, str, where) for name in ("id", "key", "form", "level")
        )
        turns = row.get("turns")
        if not isinstance(turns, list) or len(turns) % 2 == 0 or not all(isinstance(t, str) for t in turns):
            raise DataError(f"{where}: turns are not an odd number of texts; install the package again")
        if key not in (ASPECTS if self.bank == "answer" else CATEGORIES):
            raise DataError(f"{where}: {key!r} is no risk or aspect; install the package again")
        area, category = _ANSWER_AREA, f"{_ANSWER_AREA}/{key}"
        if self.bank != "answer":
            area, category = CATEGORIES[key].area, key
        metadata = {"form": form, "level": level, "version": self.version}
        if isinstance(note := row.get("note"), str):
            metadata["good_answer"] = note
        roles = ("user", "assistant")
        return Sample(
            f"filing-{self.bank}/{self.version}/{number}",
            self.name,
            _TASKS[self.bank],
            area,
            category,
            [Message(role=roles[place % 2], content=text) for place, text in enumerate(turns)],
            metadata=metadata | {"has_history": "true" if len(turns) > 1 else "false"},
        )

    def _file(self) -> Traversable:
        return files("safe_r1.benchmarks").joinpath("data", "filing", self.version, f"{self.bank}.jsonl")


_WORKLOADS: dict[Bank, Workload] = {
    "content": Workload(num_questions=2173, completion_tokens=700),
    "refuse": Workload(num_questions=574, completion_tokens=500),
    "answer": Workload(num_questions=562, completion_tokens=900),
}
BANKS: tuple[FilingBank, ...] = tuple(
    FilingBank(f"filing-{bank}{suffix}", f"{_TITLES[bank]}, {version}", bank, version, workload)
    for version, suffix in ((VERSIONS[-1], ""), *((month, f"@{month}") for month in VERSIONS))
    for bank, workload in _WORKLOADS.items()
)
"""The latest version of each bank under its plain name, then all versions under theirs."""
LATEST: tuple[str, ...] = tuple(f"filing-{bank}" for bank in _WORKLOADS)
"""Names of the three banks in their latest version."""
DATED: tuple[str, ...] = tuple(f"filing-{bank}@{month}" for month in VERSIONS for bank in _WORKLOADS)
"""Names of all versions of the banks."""
