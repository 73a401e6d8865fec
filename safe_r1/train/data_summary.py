"""Counts of prepared data, which ``data.json`` holds, and their checks."""

from collections.abc import Sequence
from typing import TypedDict

from upath import UPath

from safe_r1.errors import IntegrityError
from safe_r1.train.config import PackConfig
from safe_r1.train.data_files import OutputFile
from safe_r1.train.pack import count_packed
from safe_r1.train.token_shards import Counts, count_tokens, length_range, select, total

# What packing must not change.
_CONSERVED = ("documents", "tokens", "label_tokens")


class SplitSummary(TypedDict):
    """Counts of one split in ``data.json``; those in dicts are by kind of row or by reason of dropping."""

    num_rows: int
    num_rows_packed: int
    num_rows_dropped: int
    num_documents: int
    num_cut: int
    num_sequences: int
    num_tokens: int
    num_label_tokens: int
    efficiency: float
    rows: dict[str, int]
    rows_dropped: dict[str, int]
    documents: dict[str, int]
    tokens: dict[str, int]
    label_tokens: dict[str, int]
    documents_dropped: dict[str, int]
    cut: dict[str, int]
    shards: list[tuple[str, int]]


class DataSummary(TypedDict):
    """Content of ``data.json``."""

    fingerprint: dict[str, object]
    splits: dict[str, SplitSummary]


def summarize_split(
    packed_files: Sequence[OutputFile], split: str, num_rows: int, seq_len: int
) -> SplitSummary:
    """Counts of a split, checked against the corpus.

    Raises:
        IntegrityError: Not every row is either packed or dropped, or documents or tokens differ between the
            two stages.
    """
    files = [file for file in packed_files if file.target.parent.name == split]
    # What packing wrote is compared with what tokenizing wrote, by kind of row.
    counts = sum((count_tokens(source) for file in files for source in file.sources), Counts())
    packed_counts = [count_packed(file.target) for file in files]
    packed = sum(packed_counts, Counts())
    kept = total(counts, "rows")
    dropped = total(counts, "rows_dropped")
    if num_rows != kept + dropped or any(select(counts, name) != select(packed, name) for name in _CONSERVED):
        changes = [f"{name} {total(counts, name):,} → {total(packed, name):,}" for name in _CONSERVED]
        raise IntegrityError(
            f"{split}: {num_rows:,} rows in the corpus, {kept:,} packed and {dropped:,} dropped; "
            f"{'; '.join(changes)}: remove the folder and run again"
        )
    num_sequences = total(packed, "sequences")
    num_tokens = total(packed, "tokens")
    return SplitSummary(
        num_rows=num_rows,
        num_rows_packed=kept,
        num_rows_dropped=dropped,
        num_documents=total(packed, "documents"),
        num_cut=total(counts, "cut"),
        num_sequences=num_sequences,
        num_tokens=num_tokens,
        num_label_tokens=total(packed, "label_tokens"),
        efficiency=round(num_tokens / (num_sequences * seq_len or 1), 4),
        rows=select(counts, "rows"),
        rows_dropped=select(counts, "rows_dropped"),
        documents=select(counts, "documents"),
        tokens=select(counts, "tokens"),
        label_tokens=select(counts, "label_tokens"),
        documents_dropped=select(counts, "documents_dropped"),
        cut=select(counts, "cut"),
        shards=[
            (file.target.name, found["sequences", ""])
            for file, found in zip(files, packed_counts, strict=True)
        ],
    )


def explain_empty(corpus: str, summary: SplitSummary, token_files: Sequence[UPath], pack: PackConfig) -> str:
    """Why there is nothing to train on, in one line."""
    dropped = summary["rows_dropped"]
    if dropped.keys() == {"no_assistant_turn"}:
        return (
            f"{corpus}: none of the {summary['num_rows']:,} rows has an assistant turn to learn; expected "
            "one after a user turn"
        )
    if dropped.keys() <= {"too_long", "prompt_too_long"} and dropped:
        low, high = length_range(token_files)
        return (
            f"{corpus}: every row is longer than pack.seq_len={pack.seq_len:,}: {low:,} to {high:,} tokens; "
            "choose a larger pack.seq_len, or --set pack.too_long=cut if the prompts are shorter than that"
        )
    reasons = ", ".join(f"{num:,} {reason}" for reason, num in dropped.items())
    return (
        f"{corpus}: nothing to train on; of {summary['num_rows']:,} rows for training all are dropped "
        f"({reasons or 'none'})"
    )
