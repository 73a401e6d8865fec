"""Rows for the corpus benchmark: real rows multiplied with controlled edits, near duplicates among them.

Most rows are real prompts with two thirds of their words exchanged for others of the same language: as long
and as mixed as real ones, and no duplicates. Every fifth row is a copy of an earlier one with a few words
changed: these must be found.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypedDict

PLANTED = 5
_EXCHANGED_SHARE = 0.67
_EDITED_SHARE = 0.04

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")


class BaseRow(TypedDict):
    """A real row."""

    language: Language
    prompt: str
    reasoning: str
    answer: str


class Row(BaseRow):
    """A row of the benchmark; ``copy_of`` is the id of the original of a planted near duplicate, or empty."""

    id: int
    copy_of: str


def base_rows(data: Path | None) -> list[BaseRow]:
    """Real rows: of the shared data if its folder is given, else of the package's seeds."""
    english = _english_rows(data) if data and (data / "gsm8k" / "train.jsonl").exists() else []
    seeds = files("safe_r1.corpus").joinpath("data", "seeds")
    chinese: list[BaseRow] = []
    for name in ("benign_sensitive.jsonl", "reasoning_zh.jsonl"):
        for line in seeds.joinpath(name).read_text("utf-8").splitlines():
            row = json.loads(line)
            chinese.append(
                BaseRow(language="zh", prompt=row["prompt"], reasoning=row["reasoning"], answer=row["answer"])
            )
    # As many Chinese rows as English ones.
    return english + chinese * max(1, len(english) // len(chinese))


def _english_rows(data: Path) -> list[BaseRow]:
    rows: list[BaseRow] = []
    for line in (data / "gsm8k" / "train.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        rows.append(
            BaseRow(
                language="en",
                prompt=row["question"],
                reasoning=row["answer"],
                answer=row["answer"][-80:],
            )
        )
    for row in json.loads((data / "star1" / "STAR-1.json").read_text("utf-8")):
        reasoning, _, answer = row["response"].partition("</think>")
        rows.append(
            BaseRow(
                language="en",
                prompt=row["question"],
                reasoning=reasoning.replace("<think>", "").strip(),
                answer=answer.strip(),
            )
        )
    return rows


def multiply(base: Sequence[BaseRow], count: int, seed: int = 0) -> Iterator[Row]:
    """``count`` rows; the same seed gives the same rows."""
    dice = random.Random(seed)
    words: dict[Language, list[str]] = {language: _vocabulary(base, language) for language in LANGUAGES}
    recent: list[Row] = []
    for number in range(count):
        if number % PLANTED == PLANTED - 1:
            original = dice.choice(recent)
            prompt = _edit(original["prompt"], original["language"], words, _EDITED_SHARE, dice)
            yield {**original, "id": number, "prompt": prompt, "copy_of": str(original["id"])}
            continue
        chosen = dice.choice(base)
        prompt = _edit(chosen["prompt"], chosen["language"], words, _EXCHANGED_SHARE, dice)
        row: Row = {**chosen, "id": number, "prompt": prompt, "copy_of": ""}
        recent = [*recent[-199:], row]
        yield row


def _vocabulary(base: Sequence[BaseRow], language: Language) -> list[str]:
    # About 2,000 rows hold enough different words.
    text = [row["prompt"] for row in base[:: max(1, len(base) // 2000)] if row["language"] == language]
    return sorted({word for prompt in text for word in _words(prompt, language)}) or ["x"]


def _words(prompt: str, language: Language) -> list[str]:
    return list(prompt) if language == "zh" else prompt.split()


def _edit(
    prompt: str, language: Language, words: Mapping[Language, list[str]], share: float, dice: random.Random
) -> str:
    """Exchange a share of the words for others of the language."""
    parts = _words(prompt, language)
    for place in dice.sample(range(len(parts)), max(1, round(share * len(parts)))):
        parts[place] = dice.choice(words[language])
    return ("" if language == "zh" else " ").join(parts)
