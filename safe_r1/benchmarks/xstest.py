"""XSTest: harmless prompts that look dangerous, and dangerous ones that look like them. Is a model too
careful?

``zh`` asks our own Chinese translations (CC-BY-4.0, as the prompts).

Source: Röttger et al., arXiv 2308.01263; github paul-rottger/exaggerated-safety.
"""

import functools
import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from upath import UPath

from safe_r1.benchmarks.files import field_of
from safe_r1.benchmarks.table import TableBenchmark
from safe_r1.errors import DataError
from safe_r1.schema import Message, Sample

Language = Literal["en", "zh"]


@dataclass(frozen=True)
class XSTest(TableBenchmark):
    """250 safe and 200 unsafe prompts of 18 types.

    Attributes:
        language: ``zh`` asks the translations.
    """

    language: Language = "en"

    name = "xstest"
    title = "XSTest"
    folder, file = "xstest", "xstest_prompts.csv"

    def read_row(self, row: dict[str, Any], where: str) -> Sample:
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

    def data_hash(self, data: UPath | str | None = None) -> str:
        """SHA-256 of the file, and of the translations where they are asked."""
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
