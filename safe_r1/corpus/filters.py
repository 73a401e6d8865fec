"""What a row must be to stay: each filter answers keep (None) or drop with a reason.

The order is that of the cost: a row is judged by a model only when everything else about it is right.
"""

import functools
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from safe_r1.benchmarks.math_answers import is_equal
from safe_r1.config import JudgeConfig
from safe_r1.corpus.recipe import FilterConfig
from safe_r1.corpus.rows import Drop, Row
from safe_r1.evaluation.scoring import make_judge
from safe_r1.judge.base import Judge, JudgeItem
from safe_r1.language import detect_language
from safe_r1.schema import Label, RefusalLabel

_STAGE = "filter"
_SHINGLE = 12


class Filter(Protocol):
    """Looks at one row alone."""

    def __call__(self, row: Row) -> Drop | None:
        """None keeps the row."""
        ...


class Length:
    """Prompt, reasoning and answer within the recipe's limits."""

    def __init__(self, config: FilterConfig):
        self.limits = {
            "prompt": (config.min_prompt_chars, config.max_prompt_chars),
            "reasoning": (config.min_reasoning_chars, config.max_reasoning_chars),
            "answer": (config.min_answer_chars, config.max_answer_chars),
        }

    def __call__(self, row: Row) -> Drop | None:
        """Drops ``short_prompt``, ``long_answer`` and so on."""
        for name, (low, high) in self.limits.items():
            text = getattr(row, name)
            if text is not None and not low <= len(text) <= high:
                word = "short" if len(text) < low else "long"
                return Drop(_STAGE, f"{word}_{name}", f"{len(text)} characters, allowed {low} to {high}")
        return None


class Closed:
    """A response has a reasoning that is closed and not empty, and an answer after it."""

    def __call__(self, row: Row) -> Drop | None:
        """Drops ``unclosed_reasoning``, ``empty_reasoning`` and ``no_answer``."""
        if not row.has_response:
            return None
        if row.reasoning is None:
            return Drop(_STAGE, "unclosed_reasoning")
        if not row.reasoning.strip():
            return Drop(_STAGE, "empty_reasoning")
        return None if row.answer else Drop(_STAGE, "no_answer")


class Repetition:
    """No text that loops."""

    def __init__(self, config: FilterConfig):
        self.limit = config.max_repetition

    def __call__(self, row: Row) -> Drop | None:
        """Drops ``repetition`` where too much of the reasoning or the answer stands in it twice."""
        for name in ("reasoning", "answer"):
            share = repeated_share(getattr(row, name) or "")
            if share > self.limit:
                return Drop(_STAGE, "repetition", f"{share:.0%} of the {name} repeats itself")
        return None


def repeated_share(text: str) -> float:
    """Share of a text's runs of 12 characters that stand in it more than once; 0 for a short or a compact
    text.
    """
    if len(text) < 20 * _SHINGLE or len(zlib.compress(text.encode(), 1)) > 0.25 * len(text.encode()):
        return 0.0
    counts = Counter(text[start : start + _SHINGLE] for start in range(len(text) - _SHINGLE + 1))
    return sum(count for count in counts.values() if count > 1) / counts.total()


class InLanguage:
    """Prompt and answer in the source's language; the reasoning in the answer's."""

    def __call__(self, row: Row) -> Drop | None:
        """Drops ``language`` (prompt or answer) and ``mixed_language`` (reasoning against answer)."""
        for name, text in (("prompt", row.messages[-1]["content"]), ("answer", row.answer)):
            if text and (found := detect_language(text)) != row.language and _letters(text):
                return Drop(_STAGE, "language", f"the {name} is {found}, expected {row.language}")
        if (
            row.reasoning
            and row.answer
            and detect_language(row.reasoning) != row.language
            and _letters(row.answer)
        ):
            return Drop(_STAGE, "mixed_language", f"the reasoning is not {row.language}")
        return None


def _letters(text: str) -> bool:
    """A text of figures and formulas alone has no language."""
    return sum(char.isalpha() for char in text) >= 20


class Checked:
    """The boxed result equals the known one."""

    def __call__(self, row: Row) -> Drop | None:
        """Drops ``wrong_result`` where a row has a known result and its answer gives another or none."""
        if row.final is None or not row.answer:
            return None
        if is_equal(row.final, row.answer).is_correct:
            return None
        return Drop(_STAGE, "wrong_result", f"expected {row.final}")


def make_filters(config: FilterConfig) -> list[Filter]:
    """The filters that look at one row alone, in order."""
    return [Closed(), Length(config), InLanguage(), Repetition(config), Checked()]


@functools.cache
def _load_judge(config: str) -> Judge:
    """The judge of this process, by its settings as JSON."""
    return make_judge(JudgeConfig.model_validate_json(config))


def apply_filters(
    rows: Sequence[Row], config: FilterConfig, judge: JudgeConfig, trusted: bool = False
) -> list[Row]:
    """The same rows in the same order, with the first drop that applies to each.

    Args:
        rows: Rows, dropped ones among them.
        config: The limits.
        judge: Whom to ask about risky and harmless rows.
        trusted: The judge's degrees are noted and drop nothing.
    """
    filters = make_filters(config)
    checked = [
        row if row.drop else replace(row, drop=next(filter(None, (f(row) for f in filters)), None))
        for row in rows
    ]
    return _judge_rows(checked, config, judge, trusted)


def _judge_rows(rows: Sequence[Row], config: FilterConfig, judge: JudgeConfig, trusted: bool) -> list[Row]:
    """Drops compliance with a risky question and refusal of a harmless one; a response without a verdict is
    dropped too.

    A row whose result was checked does not refuse, whatever its words.
    """
    items = [
        (position, part, JudgeItem(messages=row.messages, text=text, part=part))
        for position, row in enumerate(rows)
        if row.drop is None and row.has_response and row.final is None
        for part in (config.judge_parts if row.kind == "safety" else ("answer",))
        if (text := getattr(row, part))
    ]
    judged = list(rows)
    judgements = _load_judge(judge.model_dump_json()).judge([item for *_, item in items])
    for (position, part, _), judgement in zip(items, judgements, strict=True):
        row, label = judged[position], judgement.label
        if label and part == "answer":
            row = replace(row, degree=label.degree)
        drop = None if trusted else _verdict(row, part, label, judgement.unscored_reason)
        judged[position] = replace(row, drop=row.drop or drop)
    return judged


def _verdict(row: Row, part: str, label: Label | None, reason: str | None) -> Drop | None:
    if label is None:
        return Drop(_STAGE, "unjudged", f"the judge gave no verdict on the {part}: {reason}")
    if row.kind == "safety" and label is RefusalLabel.HARMFUL:
        return Drop(_STAGE, "complies_with_risk", f"the judge calls the {part} {label.value}")
    if row.kind != "safety" and label.is_refusal:
        return Drop(_STAGE, "refuses_harmless", f"the judge calls the {part} {label.value}")
    return None
