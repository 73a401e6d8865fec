"""JailbreakBench's JBB-Behaviors: harmful behaviours in English, and harmless ones on the same subjects.

Source: Chao et al., arXiv 2404.01318; Hugging Face JailbreakBench/JBB-Behaviors (MIT).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from safe_r1.benchmarks.base import BaseBenchmark, KeyIdentity, Location, Workload
from safe_r1.benchmarks.fetch import HUGGING_FACE, Source
from safe_r1.benchmarks.files import field_of
from safe_r1.benchmarks.table import TableBenchmark
from safe_r1.errors import DataError
from safe_r1.schema import Message, Sample, Task

_NAME = "jailbreakbench"
_HARMFUL = "harmful-behaviors.csv"
_HARMLESS = "benign-behaviors.csv"
_SOURCE = Source(
    _NAME,
    f"{HUGGING_FACE}/datasets/JailbreakBench/JBB-Behaviors/resolve"
    "/d8d87b8fdcb7806e3b4e45fffb2bc24aa6b17f32/data",
    {
        _HARMFUL: "4a8ec6832056b631eb092dccc60d37a61c3d441268268888b3d006288afeffa1",
        _HARMLESS: "3cda234d21a991fa309bbfea4b6d9dae31ccdf8e9d452424b6a983e4fdc33468",
    },
    _NAME,
)
_SUBJECTS = {
    "harassment-discrimination": ("骚扰与歧视", "Harassment, discrimination"),
    "malware-hacking": ("恶意软件与黑客", "Malware, hacking"),
    "physical-harm": ("人身伤害", "Physical harm"),
    "economic-harm": ("经济损害", "Economic harm"),
    "fraud-deception": ("欺诈与欺骗", "Fraud, deception"),
    "disinformation": ("虚假信息", "Disinformation"),
    "sexual-adult-content": ("色情内容", "Sexual, adult content"),
    "privacy": ("隐私", "Privacy"),
    "expert-advice": ("专业建议", "Expert advice"),
    "government-decision-making": ("政府决策", "Government decision-making"),
}
_AREAS = {"harmful": ("有害", "Harmful"), "harmless": ("无害", "Harmless")}


@dataclass(frozen=True)
class _Behaviors(TableBenchmark):
    """One of the two files.

    Attributes:
        file: Its name.
        task: What is measured on its questions.
        area: Area of its questions.
    """

    file: str
    task: Task
    area: str

    name = _NAME
    title = "JailbreakBench"
    folder = _NAME
    source = _SOURCE

    def read_row(self, row: Mapping[str, object], where: str) -> Sample:
        """The goal is the question; category: the subject, one of ten."""
        index, goal, behavior, subject = (
            field_of(row, name, str, where) for name in ("Index", "Goal", "Behavior", "Category")
        )
        if not index.isdecimal():
            raise DataError(f"{where}: Index is {index!r}, expected a number; fetch the file again")
        key = "-".join(subject.lower().replace("/", " ").split())
        return Sample(
            f"{_NAME}/{self.task}/{int(index):03d}",
            _NAME,
            self.task,
            self.area,
            f"{self.area}/{key}",
            [Message(role="user", content=goal)],
            metadata={"source_id": index, "behavior": behavior, "language": "en"},
        )


_PARTS = (_Behaviors(_HARMFUL, "refusal", "harmful"), _Behaviors(_HARMLESS, "over_refusal", "harmless"))


class JailbreakBench(BaseBenchmark):
    """100 harmful behaviours of ten subjects, to be refused, and 100 harmless ones, to be answered."""

    name = _NAME
    title = "JailbreakBench"
    workload = Workload(num_questions=200, completion_tokens=800)
    source = _SOURCE

    @property
    def labels(self) -> Mapping[str, tuple[str, str]]:
        """Areas are harmful and harmless, categories the subjects of each."""
        subjects = {
            f"{area}/{subject}": (f"{names[0]}：{chinese}", f"{names[1]}: {english}")
            for area, names in _AREAS.items()
            for subject, (chinese, english) in _SUBJECTS.items()
        }
        return _AREAS | subjects

    def load(self, data: Location | None = None, answer_key: Location | None = None) -> list[Sample]:
        """All samples, the harmful ones first; ``answer_key`` is ignored, as a judge decides.

        Raises:
            DataError: A file is missing or damaged, or a row cannot be read; the message names it.
        """
        return [sample for part in _PARTS for sample in part.load(data)]

    def key_identity(self, answer_key: Location | None = None) -> KeyIdentity:
        """There is no key."""
        return KeyIdentity(f"{self.name}/no key", "")

    def data_hash(self, data: Location | None = None) -> str:
        """SHA-256 over the hashes of both files."""
        return hashlib.sha256("|".join(part.data_hash(data) for part in _PARTS).encode()).hexdigest()


JAILBREAKBENCH = JailbreakBench()
