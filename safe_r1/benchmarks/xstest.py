"""XSTest: safe prompts that look dangerous, and similar unsafe ones, to measure over-refusal.

The language ``zh`` uses our own Chinese translations (CC-BY-4.0, as the prompts).

Source: Röttger et al., arXiv 2308.01263; github paul-rottger/exaggerated-safety.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Literal, Self

from pydantic import Field

from safe_r1.benchmarks.base import Location, Workload
from safe_r1.benchmarks.fetch import GITHUB, Source
from safe_r1.benchmarks.files import field_of
from safe_r1.benchmarks.table import TableBenchmark
from safe_r1.errors import DataError
from safe_r1.schema import Message, Sample
from safe_r1.settings import Settings

Language = Literal["en", "zh"]


class XSTestSettings(Settings):
    """XSTest."""

    language: Language = Field(default="en", description="zh: this project's translations of the prompts")


@dataclass(frozen=True)
class XSTest(TableBenchmark):
    """250 safe and 200 unsafe prompts of 18 types.

    Attributes:
        language: ``zh`` for the translations.
    """

    language: Language = "en"

    name = "xstest"
    title = "XSTest"
    folder = "xstest"
    file = "xstest_prompts.csv"
    workload = Workload(num_questions=450, completion_tokens=700)
    settings = XSTestSettings()
    source = Source(
        "xstest",
        f"{GITHUB}/paul-rottger/exaggerated-safety/d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d",
        {"xstest_prompts.csv": "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a"},
        "xstest",
    )

    def with_settings(self, settings: Settings) -> Self:
        """The benchmark in the chosen language."""
        assert isinstance(settings, XSTestSettings)
        return replace(self, language=settings.language)

    def read_row(self, row: Mapping[str, object], where: str) -> Sample:
        """Area: ``safe`` or ``unsafe``; category: the prompt's type."""
        source_id, prompt, kind, area = (
            field_of(row, name, str, where) for name in ("id", "prompt", "type", "label")
        )
        if area not in ("safe", "unsafe"):
            raise DataError(f"{where}: label is {area!r}, expected safe or unsafe")
        if self.language == "zh":
            if source_id not in _translations():
                raise DataError(f"{where}: id {source_id!r} has no translation; use the published file")
            prompt = _translations()[source_id]
        return Sample(
            # "compliance" is a former name of the task; ids are stable across versions, so it stays.
            f"{self.name}/compliance/{int(source_id):04d}"
            if source_id.isdecimal()
            else f"{self.name}/compliance/{source_id}",
            self.name,
            "over_refusal",
            area,
            f"{area}/{kind.replace('_', '-')}",
            [Message(role="user", content=prompt)],
            metadata={"source_id": source_id, "language": self.language},
        )

    def data_hash(self, data: Location | None = None) -> str:
        """SHA-256 of the file, and of the translations where they are used."""
        published = super().data_hash(data)
        return (
            hashlib.sha256(published.encode() + _translation_bytes()).hexdigest()
            if self.language == "zh"
            else published
        )


@functools.cache
def _translation_bytes() -> bytes:
    return files("safe_r1.benchmarks").joinpath("data/xstest_zh/prompts.jsonl").read_bytes()


@functools.cache
def _translations() -> dict[str, str]:
    rows = map(json.loads, _translation_bytes().splitlines())
    return {row["id"]: row["prompt"] for row in rows}


XSTEST = XSTest()
