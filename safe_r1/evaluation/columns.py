"""Reduces shards of completions and verdicts to columns that are small, and reads rows from these."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
from upath import UPath

from safe_r1.evaluation.results import hashed_completion, hashed_verdict
from safe_r1.models.thinking import unknown_thinking
from safe_r1.runs import Row, read_table, sha256
from safe_r1.schema import (
    COMPLETION_SCHEMA,
    FINISHED_SCHEMA,
    VERDICT_SCHEMA,
    Completion,
    FinishedAnswer,
    Part,
    Verdict,
)

CountTokens = Callable[[Sequence[str]], list[int]]
"""Lengths of texts in tokens; picklable."""

# Tokenizers keep the encodings of all texts that they get at once.
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class CompletionColumns:
    """Reduces a shard of completions to columns that are small.

    Attributes:
        count_tokens: Counts the tokens of reasonings.
    """

    count_tokens: CountTokens | None

    def __call__(self, shard: UPath) -> pa.Table:
        """The columns of the shard's rows, in their order."""
        table = read_table(shard, schema=COMPLETION_SCHEMA)
        reasoning = table.column("reasoning").to_pylist()
        failed = table.column("error").is_valid().to_numpy()
        is_known = failed | table.column("blocked").is_valid().to_numpy()
        return pa.table(
            {
                "variant": table.column("variant").cast(pa.string()),
                "failed": failed,
                "blocked": table.column("blocked"),
                "open_reasoning": table.column("answer").is_null().to_numpy() & ~is_known,
                "has_reasoning": list(map(bool, reasoning)),
                "finish_reason": table.column("finish_reason"),
                "prompt_tokens": table.column("prompt_tokens"),
                "completion_tokens": table.column("completion_tokens"),
                "reasoning_tokens": self._lengths(reasoning),
                "unknown_thinking": _unknown_thinking(table),
                "served_by": table.column("served_by"),
                "digest": _digests(table, hashed_completion),
            }
        )

    def _lengths(self, texts: Sequence[str | None]) -> pa.Array:
        if self.count_tokens is None:
            return pa.nulls(len(texts), pa.int64())
        places = [place for place, text in enumerate(texts) if text]
        lengths: list[int | None] = [None] * len(texts)
        for start in range(0, len(places), _TEXTS_AT_ONCE):
            some = places[start : start + _TEXTS_AT_ONCE]
            counted = self.count_tokens([texts[place] or "" for place in some])
            for place, length in zip(some, counted, strict=True):
                lengths[place] = length
        return pa.array(lengths, pa.int64())


def _unknown_thinking(table: pa.Table) -> pa.Array:
    """How answers without reasoning seem to begin with thoughts in a form that is not known."""
    pairs = zip(table.column("reasoning").to_pylist(), table.column("answer").to_pylist(), strict=True)
    found = [None if reasoning or not answer else unknown_thinking(answer) for reasoning, answer in pairs]
    return pa.array(found, pa.string())


def verdict_columns(shard: UPath) -> pa.Table:
    """Reduces a shard of verdicts to columns that are small, in the order of its rows."""
    table = read_table(shard, schema=VERDICT_SCHEMA)
    kept = table.select(["variant", "label", "degree", "judge", "unscored_reason", "choice", "confidence"])
    return kept.append_column("digest", _digests(table, hashed_verdict))


FINISHED_COLUMNS = pa.schema(
    [
        ("variant", pa.string()),
        ("choice", pa.string()),
        ("failed", pa.bool_()),
        ("digest", pa.binary(32)),
    ]
)
"""What ``finished_columns`` gives."""


def finished_columns(shard: UPath) -> pa.Table:
    """Reduces a shard of finished answers to columns that are small, in the order of its rows."""
    table = read_table(shard, schema=FINISHED_SCHEMA)
    failed = table.column("error").is_valid().to_numpy()
    kept = table.select(["variant", "choice"]).append_column("failed", pa.array(failed))
    return kept.append_column("digest", _digests(table, dict))


def _digests(table: pa.Table, hashed: Callable[[Row], Row]) -> pa.Array:
    digests = [bytes.fromhex(sha256(hashed(row))) for row in table.to_pylist()]
    return pa.array(digests, pa.binary(32))


def light_completion(sample_id: str, repeat: int, row: Row) -> Completion:
    """A completion without its texts."""
    has_answer = not (row["open_reasoning"] or row["failed"] or row["blocked"])
    return Completion(
        sample_id,
        row["variant"],
        repeat,
        row["prompt_tokens"],
        row["completion_tokens"],
        completion="",
        reasoning="",
        answer="" if has_answer else None,
        finish_reason=row["finish_reason"],
        error="failed" if row["failed"] else None,
        blocked=row["blocked"],
        served_by=row["served_by"],
    )


def light_verdict(completion: Completion, part: Part, row: Row) -> Verdict:
    """A verdict without its explanation."""
    return Verdict(
        completion.sample_id,
        row["variant"],
        completion.repeat,
        part,
        row["label"],
        row["degree"],
        row["judge"],
        row["unscored_reason"],
        row["choice"],
        confidence=row["confidence"],
    )


def light_finished(completion: Completion, row: Row) -> FinishedAnswer:
    """A finished answer without its text."""
    error = "failed" if row["failed"] else None
    return FinishedAnswer(
        completion.sample_id, row["variant"], completion.repeat, 0, 0, "", row["choice"], error
    )
