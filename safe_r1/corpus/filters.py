"""Filters of the corpus: each keeps a row (None) or drops it with a reason.

They run in the order of their cost: a row is only given to the judge after it has passed all other filters.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from safe_r1.benchmarks.math_worker import math_worker
from safe_r1.corpus.recipe import FilterConfig
from safe_r1.corpus.rows import CorpusRow, Drop
from safe_r1.corpus.source import NO_CATEGORY
from safe_r1.judge.base import JudgeItem, Judgement, judge_blocking
from safe_r1.judge.factory import JudgePlan, shared_judge
from safe_r1.language import detect_language
from safe_r1.schema import Part, RefusalLabel

_STAGE = "filter"
# Repetition is measured by n-grams of characters.
_NGRAM = 12
_MIN_REPETITION_CHARS = 20 * _NGRAM
# A text that repeats itself compresses to less than this share of its bytes; counting n-grams costs far more.
_MAX_COMPRESSED_SHARE = 0.25
# With fewer letters (figures and formulas) a text has no language.
_MIN_LETTERS = 20


class Filter(Protocol):
    """Checks one row by itself."""

    def __call__(self, row: CorpusRow) -> Drop | None:
        """None keeps the row."""
        ...


class LengthLimits:
    """Prompt, reasoning and answer have an accepted length."""

    def __init__(self, config: FilterConfig):
        self.limits = {
            "prompt": (config.min_prompt_chars, config.max_prompt_chars),
            "reasoning": (config.min_reasoning_chars, config.max_reasoning_chars),
            "answer": (config.min_answer_chars, config.max_answer_chars),
        }

    def __call__(self, row: CorpusRow) -> Drop | None:
        """Drops ``short_prompt``, ``long_answer`` and so on."""
        for name, (low, high) in self.limits.items():
            # None without a response; whether a response may lack its reasoning, another filter decides.
            text = getattr(row, name)
            if text is None or (name == "reasoning" and not text):
                continue
            if not low <= len(text) <= high:
                size = "short" if len(text) < low else "long"
                return Drop(_STAGE, f"{size}_{name}", f"{len(text)} characters, allowed {low} to {high}")
        return None


class ClosedReasoning:
    """A response has an answer, and reasoning that is closed and, where the recipe asks for it, not empty."""

    def __init__(self, config: FilterConfig):
        self.is_required = config.reasoning == "required"

    def __call__(self, row: CorpusRow) -> Drop | None:
        """Drops ``unclosed_reasoning``, ``empty_reasoning`` and ``no_answer``."""
        if not row.has_response:
            return None
        if row.reasoning is None:
            return Drop(_STAGE, "unclosed_reasoning")
        if self.is_required and not row.reasoning.strip():
            return Drop(_STAGE, "empty_reasoning", 'filters.reasoning="optional" keeps such rows')
        return None if row.answer else Drop(_STAGE, "no_answer")


class KnownCategory:
    """A row about safety has one of the 31 categories, where the recipe or the teacher needs it."""

    def __init__(self, config: FilterConfig):
        self.is_required = config.category == "required"

    def __call__(self, row: CorpusRow) -> Drop | None:
        """Drops ``no_category``."""
        if row.category or row.kind in NO_CATEGORY or (row.has_response and not self.is_required):
            return None
        # The teacher answers by the policy of a category.
        return Drop(_STAGE, "no_category", "none of the 31 categories fits")


class Repetition:
    """Reasoning and answer do not repeat themselves."""

    def __init__(self, config: FilterConfig):
        self.max_share = config.max_repetition

    def __call__(self, row: CorpusRow) -> Drop | None:
        """Drops ``repetition``."""
        for name in ("reasoning", "answer"):
            share = repeated_share(getattr(row, name) or "")
            if share > self.max_share:
                return Drop(_STAGE, "repetition", f"{share:.0%} of the {name} repeats itself")
        return None


def repeated_share(text: str) -> float:
    """Share of the 12-character n-grams that occur more than once; 0 for a text under 240 characters."""
    if len(text) < _MIN_REPETITION_CHARS:
        return 0.0
    encoded = text.encode()
    if len(zlib.compress(encoded, 1)) > _MAX_COMPRESSED_SHARE * len(encoded):
        return 0.0
    counts = Counter(text[start : start + _NGRAM] for start in range(len(text) - _NGRAM + 1))
    return sum(count for count in counts.values() if count > 1) / counts.total()


class ExpectedLanguage:
    """Prompt, reasoning and answer are in the language of the source; general rows may translate."""

    def __call__(self, row: CorpusRow) -> Drop | None:
        """Drops ``language`` (prompt or answer) and ``mixed_language`` (reasoning)."""
        if row.kind == "general":
            return None
        for name, text in (("prompt", row.messages[-1]["content"]), ("answer", row.answer)):
            if text and (found := detect_language(text)) != row.language and _has_language(text):
                return Drop(_STAGE, "language", f"the {name} is {found}, expected {row.language}")
        if not row.reasoning or not row.answer:
            return None
        # An answer without letters, such as a formula, has no language that the reasoning could differ from.
        if detect_language(row.reasoning) != row.language and _has_language(row.answer):
            return Drop(_STAGE, "mixed_language", f"the reasoning is not {row.language}")
        return None


def _has_language(text: str) -> bool:
    return sum(char.isalpha() for char in text) >= _MIN_LETTERS


class ReferenceResult:
    """The boxed result of the answer equals the reference result, if the row has one."""

    def __call__(self, row: CorpusRow) -> Drop | None:
        """Drops ``wrong_result``: another result, or none; ``undecided_result``: too costly to compare."""
        if row.final is None or not row.answer:
            return None
        found = math_worker().is_equal(row.final, row.answer)
        if found is None:
            return Drop(_STAGE, "undecided_result", f"expected {row.final}; comparing takes too long")
        return None if found.is_correct else Drop(_STAGE, "wrong_result", f"expected {row.final}")


def make_filters(config: FilterConfig) -> list[Filter]:
    """All filters but the judge, in the order in which they are applied."""
    return [
        KnownCategory(config),
        ClosedReasoning(config),
        LengthLimits(config),
        ExpectedLanguage(),
        Repetition(config),
        ReferenceResult(),
    ]


def apply_filters(
    rows: Sequence[CorpusRow], config: FilterConfig, judge: JudgePlan, trusted: bool = False
) -> list[CorpusRow]:
    """Filter rows.

    Args:
        rows: Rows; those that are dropped already stay so.
        config: The thresholds.
        judge: The judge of safety and of harmless rows.
        trusted: The judge's degrees are recorded, but it drops no row.

    Returns:
        The same rows in the same order, each with the first drop that applies to it.
    """
    filters = make_filters(config)
    if config.reasoning == "empty":
        rows = [replace(row, reasoning="") if row.reasoning else row for row in rows]
    checked = [row if row.drop else replace(row, drop=_first_drop(filters, row)) for row in rows]
    return _judge_rows(checked, config, judge, trusted)


def _first_drop(filters: Sequence[Filter], row: CorpusRow) -> Drop | None:
    return next(filter(None, (check(row) for check in filters)), None)


def _judge_rows(
    rows: Sequence[CorpusRow], config: FilterConfig, judge: JudgePlan, trusted: bool
) -> list[CorpusRow]:
    """Drop responses that comply with a risky prompt, refuse a harmless one, or get no label.

    A response whose result was checked does not refuse, whatever its wording, and is not judged.
    """
    items: list[tuple[int, JudgeItem]] = []
    for position, row in enumerate(rows):
        if row.drop is not None or not row.has_response or row.final is not None or row.kind == "general":
            continue
        parts: tuple[Part, ...] = config.judge_parts if row.kind == "safety" else ("answer",)
        for part in parts:
            if text := getattr(row, part):
                items.append((position, JudgeItem(messages=row.messages, text=text, part=part)))
    # All at once: an endpoint answers concurrently.
    judgements = judge_blocking(shared_judge(judge), [item for _, item in items])
    judged = list(rows)
    for (position, item), judgement in zip(items, judgements, strict=True):
        row = judged[position]
        if judgement.label and item.part == "answer":
            row = replace(row, degree=judgement.label.degree)
        drop = None if trusted else _judge_drop(row, item.part, judgement)
        # A row may be judged twice, by its answer and by its reasoning: the first drop stays.
        judged[position] = replace(row, drop=row.drop or drop)
    return judged


def _judge_drop(row: CorpusRow, part: Part, judgement: Judgement) -> Drop | None:
    label = judgement.label
    if label is None:
        reason = f"the judge gave no verdict on the {part}: {judgement.unscored_reason}"
        return Drop(_STAGE, "unjudged", reason)
    if row.kind == "safety" and label is RefusalLabel.HARMFUL:
        return Drop(_STAGE, "complies_with_risk", f"the judge calls the {part} {label.value}")
    if row.kind != "safety" and label.is_refusal:
        return Drop(_STAGE, "refuses_harmless", f"the judge calls the {part} {label.value}")
    return None
