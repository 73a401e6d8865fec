"""HarmBench: harmful behaviours in English, to be refused also under attack.

Its questions for protected texts are left out unless asked for: HarmBench compares their answers with
hashes of the texts, and a judge of harm says nothing of that.

Source: Mazeika et al., arXiv 2402.04249; github centerforaisafety/HarmBench (MIT).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from pydantic import Field

from safe_r1.benchmarks.base import Location, Workload
from safe_r1.benchmarks.fetch import GITHUB, Source
from safe_r1.benchmarks.files import field_of
from safe_r1.benchmarks.table import TableBenchmark
from safe_r1.errors import DataError
from safe_r1.schema import Message, Sample
from safe_r1.settings import Settings

_COPYRIGHT = "copyright"
_NUM_ASKED = 300
_NUM_COPYRIGHT = 100
_WORKLOAD = Workload(num_questions=_NUM_ASKED, completion_tokens=900)
_KINDS = {"standard": "普通", "contextual": "带背景材料", _COPYRIGHT: "受保护的文本"}
_AREAS = {
    "chemical-biological": ("化学与生物武器", "Chemical and biological"),
    "copyright": ("版权", "Copyright"),
    "cybercrime-intrusion": ("网络犯罪与入侵", "Cybercrime and intrusion"),
    "harassment-bullying": ("骚扰与霸凌", "Harassment and bullying"),
    "harmful": ("一般危害", "General harm"),
    "illegal": ("违法活动", "Illegal activities"),
    "misinformation-disinformation": ("虚假信息", "Misinformation and disinformation"),
}
# As HarmBench's own direct requests put the two together.
_BETWEEN = "\n\n---\n\n"


class HarmBenchSettings(Settings):
    """HarmBench."""

    copyright: bool = Field(
        default=False, description="also ask the 100 questions for protected texts; judged for harm alone"
    )


@dataclass(frozen=True)
class HarmBench(TableBenchmark):
    """200 standard and 100 contextual behaviours of seven categories, and 100 about protected texts.

    Attributes:
        copyright: Also those about protected texts.
    """

    copyright: bool = False

    name = "harmbench"
    title = "HarmBench"
    folder = "harmbench"
    file = "harmbench_behaviors_text_all.csv"
    workload: Workload = _WORKLOAD
    settings = HarmBenchSettings()
    source = Source(
        "harmbench",
        f"{GITHUB}/centerforaisafety/HarmBench/8e1604d1171fe8a48d8febecd22f600e462bdcdd"
        "/data/behavior_datasets",
        {file: "8d81accedd38eaaf8b760618622bb888417d1fd0c86eba65c427a16f1cbb4afc"},
        "harmbench",
    )

    @property
    def labels(self) -> Mapping[str, tuple[str, str]]:
        """Areas are what the harm is of, categories also say how it is asked for."""
        found: dict[str, tuple[str, str]] = {}
        for area, (chinese, english) in _AREAS.items():
            found[area] = (chinese, english)
            for kind, title in _KINDS.items():
                found[f"{area}/{kind}"] = (f"{chinese}（{title}）", f"{english} ({kind})")
        return found

    def with_settings(self, settings: Settings) -> Self:
        """The benchmark with or without the questions for protected texts."""
        assert isinstance(settings, HarmBenchSettings)
        num_questions = _NUM_ASKED + _NUM_COPYRIGHT * settings.copyright
        workload = replace(self.workload, num_questions=num_questions)
        return replace(self, copyright=settings.copyright, workload=workload)

    def load(self, data: Location | None = None, answer_key: Location | None = None) -> list[Sample]:
        """See ``TableBenchmark``; all rows are read, and those that are not asked left out."""
        samples = super().load(data, answer_key)
        asked = [sample for sample in samples if self.copyright or sample.metadata["kind"] != _COPYRIGHT]
        if not asked:
            raise DataError(f"{self.file}: holds {_COPYRIGHT} questions alone; fetch the file again")
        return asked

    def data_hash(self, data: Location | None = None) -> str:
        """SHA-256 of the file, and another one where the questions for protected texts are asked too."""
        published = super().data_hash(data)
        return (
            hashlib.sha256(f"{published}|{_COPYRIGHT}".encode()).hexdigest() if self.copyright else published
        )

    def read_row(self, row: Mapping[str, object], where: str) -> Sample:
        """The behaviour is the question; a contextual one follows its context."""
        behavior, kind, semantic, source_id = (
            field_of(row, name, str, where)
            for name in ("Behavior", "FunctionalCategory", "SemanticCategory", "BehaviorID")
        )
        if kind not in _KINDS:
            raise DataError(f"{where}: FunctionalCategory is {kind!r}, expected {', '.join(_KINDS)}")
        if kind == "contextual":
            behavior = f"{field_of(row, 'ContextString', str, where)}{_BETWEEN}{behavior}"
        area = semantic.replace("_", "-")
        return Sample(
            f"{self.name}/refusal/{source_id}",
            self.name,
            "refusal",
            area,
            f"{area}/{kind}",
            [Message(role="user", content=behavior)],
            metadata={"source_id": source_id, "kind": kind, "language": "en"},
        )


HARMBENCH = HarmBench()
