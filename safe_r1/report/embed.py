"""The rows of a run as compressed blocks that stand inside the HTML report.

One block holds what the list, the filters and the search need; the reasonings and explanations, which are
most of the text, come in chunks that the page unpacks one at a time when a row is opened.
"""

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any

from safe_r1.metrics.rates import is_leak
from safe_r1.metrics.rows import FAILED, TRUNCATED, ScoredRow
from safe_r1.report.text import printable
from safe_r1.schema import Sample, Verdict

CHUNK_ROWS = 96
_LEVEL = 6


def pack(value: Any) -> str:
    """JSON, gzip, base64: the same bytes for the same value, and no character that HTML gives a meaning to."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("utf-8"), _LEVEL, mtime=0)).decode("ascii")


def pack_index(rows: Sequence[ScoredRow]) -> str:
    """The samples once each, and the rows as one list a column; ``sample`` is the place of a row's sample."""
    samples = list({row.sample.sample_id: row.sample for row in rows}.values())
    place = {sample.sample_id: index for index, sample in enumerate(samples)}
    twins = {
        sample.metadata["swap_of"]: sample.sample_id for sample in samples if "swap_of" in sample.metadata
    }
    columns: dict[str, list[Any]] = {"sample": [place[row.sample.sample_id] for row in rows]}
    for name, value in _COLUMNS.items():
        columns[name] = [value(row) for row in rows]
    entries = [_sample_entry(sample, place, twins) for sample in samples]
    return pack({"samples": entries, "rows": columns, "chunk_rows": CHUNK_ROWS})


def pack_details(rows: Sequence[ScoredRow]) -> list[str]:
    """Chunks of ``CHUNK_ROWS`` rows: reasoning, explanation of both verdicts, error, tokens."""
    return [
        pack([_detail(row) for row in rows[start : start + CHUNK_ROWS]])
        for start in range(0, len(rows), CHUNK_ROWS)
    ]


def row_status(row: ScoredRow) -> str:
    """``scored``, ``truncated``, ``failed`` or ``unscored``: what became of the answer."""
    reason = row.answer.unscored_reason
    if reason is None:
        return "scored"
    return reason if reason in (TRUNCATED, FAILED) else "unscored"


def row_label(row: ScoredRow) -> str | None:
    """Label of the answer; ``no_choice`` for one in which no option or result was found."""
    return "no_choice" if row.has_no_choice else row.answer.label


def _fit(text: str | None) -> str | None:
    return None if text is None else printable(text)


def _reasoning_label(row: ScoredRow) -> str | None:
    return row.reasoning.label if row.reasoning else None


_COLUMNS: dict[str, Any] = {
    "repeat": lambda row: row.completion.repeat,
    "answer": lambda row: _fit(row.completion.answer),
    "status": row_status,
    "label": row_label,
    "reasoning_label": _reasoning_label,
    "choice": lambda row: _fit(row.answer.choice),
    "leak": lambda row: int(bool(is_leak(row))),
}


def _sample_entry(sample: Sample, place: dict[str, int], twins: dict[str, str]) -> dict[str, Any]:
    original = sample.metadata.get("swap_of")
    twin = original or twins.get(sample.sample_id)
    return {
        "id": printable(sample.sample_id),
        "task": sample.group,
        "area": printable(sample.area),
        "category": printable(sample.category),
        "messages": [[printable(turn["role"]), printable(turn["content"])] for turn in sample.messages],
        "options": [[printable(letter), printable(text)] for letter, text in sample.options.items()],
        "key": _fit(sample.metadata.get("answer")),
        "confidence": _fit(sample.metadata.get("key_confidence")),
        "swapped": original is not None,
        "twin": place.get(twin) if twin else None,
    }


def _detail(row: ScoredRow) -> dict[str, Any]:
    completion = row.completion
    # A text cut off outside any reasoning stands in no other field.
    raw = completion.completion if completion.is_truncated and not completion.reasoning else ""
    return {
        "reasoning": printable(completion.reasoning or raw),
        "tokens": [completion.prompt_tokens, completion.completion_tokens],
        "finish": _fit(completion.finish_reason),
        "error": _fit(completion.error),
        "verdicts": [_verdict(row.answer), _verdict(row.reasoning)],
    }


def _verdict(verdict: Verdict | None) -> list[str | None] | None:
    if verdict is None:
        return None
    return [_fit(verdict.judge), _fit(verdict.unscored_reason), printable(verdict.explanation)]
