"""Rows for the corpus benchmark: real rows multiplied with controlled edits, and near duplicates planted
among them.

Most rows are real prompts with two thirds of their words exchanged for others of the same language: as long
and as mixed as real ones, and no duplicates. Every fifth row is a copy of an earlier one with a few words
changed: these must be found.
"""

import json
import random
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

PLANTED = 5
_EXCHANGED, _EDITED = 0.67, 0.04


def base_rows(data: Path | None) -> list[dict[str, Any]]:
    """Prompt, reasoning and answer of real rows: the shared data's where they are, else the package's seeds."""
    rows: list[dict[str, Any]] = []
    if data and (data / "gsm8k" / "train.jsonl").exists():
        for line in (data / "gsm8k" / "train.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            rows.append(
                {
                    "language": "en",
                    "prompt": row["question"],
                    "reasoning": row["answer"],
                    "answer": row["answer"][-80:],
                }
            )
        for row in json.loads((data / "star1" / "STAR-1.json").read_text("utf-8")):
            reasoning, _, answer = row["response"].partition("</think>")
            reasoning = reasoning.replace("<think>", "").strip()
            rows.append(
                {
                    "language": "en",
                    "prompt": row["question"],
                    "reasoning": reasoning,
                    "answer": answer.strip(),
                }
            )
    seeds = files("safe_r1.corpus").joinpath("data", "seeds")
    chinese = []
    for name in ("benign_sensitive.jsonl", "reasoning_zh.jsonl"):
        for line in seeds.joinpath(name).read_text("utf-8").splitlines():
            row = json.loads(line)
            chinese.append(
                {"language": "zh"} | {part: row[part] for part in ("prompt", "reasoning", "answer")}
            )
    # As many Chinese rows as English ones.
    return rows + chinese * max(1, len(rows) // len(chinese))


def multiply(base: list[dict[str, Any]], count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """``count`` rows with an ``id``; ``copy_of`` names the original of a planted near duplicate, else it is
    empty.
    """
    dice = random.Random(seed)
    words = {language: _vocabulary(base, language) for language in ("zh", "en")}
    recent: list[dict[str, Any]] = []
    for number in range(count):
        if number % PLANTED == PLANTED - 1:
            original = dice.choice(recent)
            prompt = _edit(original["prompt"], original["language"], words, _EDITED, dice)
            yield original | {"id": number, "prompt": prompt, "copy_of": str(original["id"])}
            continue
        row = dice.choice(base)
        prompt = _edit(row["prompt"], row["language"], words, _EXCHANGED, dice)
        row = row | {"id": number, "prompt": prompt, "copy_of": ""}
        recent = [*recent[-199:], row]
        yield row


def _vocabulary(base: list[dict[str, Any]], language: str) -> list[str]:
    text = [row["prompt"] for row in base[:: max(1, len(base) // 2000)] if row["language"] == language]
    return sorted({word for prompt in text for word in _words(prompt, language)}) or ["x"]


def _words(prompt: str, language: str) -> list[str]:
    return list(prompt) if language == "zh" else prompt.split()


def _edit(prompt: str, language: str, words: dict[str, list[str]], share: float, dice: random.Random) -> str:
    parts = _words(prompt, language)
    for place in dice.sample(range(len(parts)), max(1, round(share * len(parts)))):
        parts[place] = dice.choice(words[language])
    return ("" if language == "zh" else " ").join(parts)
