"""The rows of a run as compressed blocks inside the HTML report.

One block (the index) serves the list, the filters and the search; the reasonings and explanations, which
are most of the text, come in chunks that the page unpacks one at a time when a row is opened.
"""

import base64
import gzip
import json
from collections.abc import Callable, Sequence

from safe_r1.metrics.outcomes import is_leak
from safe_r1.metrics.rows import BLOCKED, FAILED, TRUNCATED, ScoredRow
from safe_r1.report.text import printable
from safe_r1.schema import Sample, Verdict

CHUNK_ROWS = 96
_GZIP_LEVEL = 6


def pack(value: object) -> str:
    """JSON, gzip, base64: equal bytes for equal values, and no character with a meaning in HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # A time in the header would make every report of the same rows another file.
    return base64.b64encode(gzip.compress(text.encode("utf-8"), _GZIP_LEVEL, mtime=0)).decode("ascii")


def pack_index(rows: Sequence[ScoredRow]) -> str:
    """The samples once each, and the rows as one list a column; ``sample`` is the position of its sample."""
    samples = list({row.sample.sample_id: row.sample for row in rows}.values())
    positions = {sample.sample_id: position for position, sample in enumerate(samples)}
    swapped_of = {
        sample.metadata["swap_of"]: sample.sample_id for sample in samples if "swap_of" in sample.metadata
    }
    # One list a column compresses better than one object a row, and the page filters it faster.
    columns: dict[str, list[object]] = {"sample": [positions[row.sample.sample_id] for row in rows]}
    for name, value in _COLUMNS.items():
        columns[name] = [value(row) for row in rows]
    entries = [_sample_entry(sample, positions, swapped_of) for sample in samples]
    return pack({"samples": entries, "rows": columns, "chunk_rows": CHUNK_ROWS})


def pack_details(rows: Sequence[ScoredRow]) -> list[str]:
    """Chunks of ``CHUNK_ROWS`` rows: reasoning, explanation of both verdicts, error, tokens."""
    return [
        pack([_detail(row) for row in rows[start : start + CHUNK_ROWS]])
        for start in range(0, len(rows), CHUNK_ROWS)
    ]


def row_status(row: ScoredRow) -> str:
    """Status of the answer: ``scored``, ``truncated``, ``failed``, ``blocked`` or ``unscored``."""
    reason = row.answer.unscored_reason
    if reason is None:
        return "scored"
    return reason if reason in (TRUNCATED, FAILED, BLOCKED) else "unscored"


def row_label(row: ScoredRow) -> str | None:
    """Label of the answer; ``no_choice`` for one in which no option or result was found."""
    return "no_choice" if row.has_no_choice else row.answer.label


def list_group(sample: Sample) -> str:
    """Key of a sample in the list's filter by task: its group, reversed questions with their originals."""
    return sample.task if "swap_of" in sample.metadata else sample.group


def _printable(text: str | None) -> str | None:
    return None if text is None else printable(text)


def _reasoning_label(row: ScoredRow) -> str | None:
    return row.reasoning.label if row.reasoning else None


_COLUMNS: dict[str, Callable[[ScoredRow], object]] = {
    "repeat": lambda row: row.completion.repeat,
    "answer": lambda row: _printable(row.completion.answer),
    "status": row_status,
    "label": row_label,
    "reasoning_label": _reasoning_label,
    "choice": lambda row: _printable(row.answer.choice),
    "leak": lambda row: int(is_leak(row)),
}


def _sample_entry(sample: Sample, positions: dict[str, int], swapped_of: dict[str, str]) -> dict[str, object]:
    original = sample.metadata.get("swap_of")
    twin = original or swapped_of.get(sample.sample_id)
    return {
        "id": printable(sample.sample_id),
        "task": list_group(sample),
        "area": printable(sample.area),
        "category": printable(sample.category),
        "messages": [[printable(turn["role"]), printable(turn["content"])] for turn in sample.messages],
        "options": [[printable(letter), printable(text)] for letter, text in sample.options.items()],
        "key": _printable(sample.metadata.get("answer")),
        "confidence": _printable(sample.metadata.get("key_confidence")),
        "swapped": original is not None,
        "twin": positions.get(twin) if twin else None,
    }


def _detail(row: ScoredRow) -> dict[str, object]:
    completion = row.completion
    # A completion that ended in its reasoning without any text of it has its text in no other field.
    raw = completion.completion if completion.has_open_reasoning and not completion.reasoning else ""
    return {
        "reasoning": printable(completion.reasoning or raw),
        "tokens": [completion.prompt_tokens, completion.completion_tokens],
        "finish": _printable(completion.finish_reason),
        "error": _printable(completion.error),
        "verdicts": [_verdict(row.answer), _verdict(row.reasoning)],
    }


def _verdict(verdict: Verdict | None) -> list[str | None] | None:
    if verdict is None:
        return None
    return [_printable(verdict.judge), _printable(verdict.unscored_reason), printable(verdict.explanation)]
