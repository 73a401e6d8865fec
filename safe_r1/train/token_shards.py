"""Tokenized shards: for each shard of a corpus, a Parquet file that accounts for all of its rows."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from safe_r1.errors import DataError
from safe_r1.models.chat import load_tokenizer
from safe_r1.models.registry import Variant
from safe_r1.runs import read_table, write_table
from safe_r1.schema import CONVERSATION_SCHEMA
from safe_r1.train.config import PackConfig
from safe_r1.train.tokens import encode, fit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("kind", pa.string()),
        ("turn", pa.int32()),
        ("reason", pa.string()),
        ("was_cut", pa.bool_()),
        ("num_whole", pa.int32()),
        ("num_tokens", pa.int32()),
        ("num_prompt", pa.int32()),
        ("input_ids", pa.list_(pa.int32())),
    ]
)
"""One document per row, or a corpus row without any document.

``reason`` says why a document is dropped; its ``input_ids`` are then null. ``num_whole`` is its number of
tokens before a cut.
"""

Counts = Counter[tuple[str, str]]
"""Counts by (name, kind) and (name, reason).

``rows``, ``documents``, ``tokens``, ``label_tokens`` and ``cut`` are counted by kind of row,
``rows_dropped`` and ``documents_dropped`` by reason.
"""

_COLUMNS = ("row_id", "messages", "kind")


@dataclass(frozen=True)
class TokenizeShard:
    """Tokenizes one shard of a corpus into a file of ``TOKENS_SCHEMA``; picklable.

    Attributes:
        corpus: Folder of the corpus.
        variant: The model.
        pack: Length of the sequences, and what to do with longer documents.
        trust_remote_code: Run code from the model's repository.
    """

    corpus: str
    variant: Variant
    pack: PackConfig
    trust_remote_code: bool

    def __call__(self, target: UPath, shard: str, digest: str) -> None:
        """Tokenize a shard.

        Args:
            target: The file to write.
            shard: Path of the shard in the corpus.
            digest: SHA-256 of the shard, as ``corpus.json`` records it.

        Raises:
            DataError: See ``read_shard``.
        """
        variant = self.variant
        tokenizer = load_tokenizer(variant.source, variant.revision, self.trust_remote_code)
        rows = read_shard(UPath(self.corpus) / shard, digest)
        documents = [document for row in rows.to_pylist() for document in self._documents(row, tokenizer)]
        write_table(target, pa.Table.from_pylist(documents, schema=TOKENS_SCHEMA))

    def _documents(
        self, row: Mapping[str, object], tokenizer: "PreTrainedTokenizerBase"
    ) -> list[dict[str, object]]:
        """Rows of ``TOKENS_SCHEMA`` of a conversation, at least one."""
        common: dict[str, object] = {
            "row_id": row["row_id"],
            "kind": row["kind"],
            "was_cut": False,
            "num_whole": 0,
            "num_tokens": 0,
        }
        messages = row["messages"] or []
        lines: list[dict[str, object]] = []
        for whole in encode(messages, self.variant.prompt_format, tokenizer):  # pyright: ignore[reportArgumentType]
            document = fit(whole, self.pack)
            lines.append(
                common
                | {
                    "turn": document.turn,
                    "reason": document.reason,
                    "was_cut": document.was_cut,
                    "num_whole": len(whole.input_ids),
                    "num_tokens": len(document.input_ids),
                    "num_prompt": document.num_prompt,
                    "input_ids": None if document.reason else document.input_ids,
                }
            )
        return lines or [common | {"reason": "no_assistant_turn"}]


def read_shard(path: UPath, digest: str) -> pa.Table:
    """The columns of a corpus shard that training needs.

    Raises:
        DataError: The file cannot be read, has other columns, or differs from the one that was published.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); build the corpus again"
        ) from None
    # Data made from a shard that was changed later would not match its fingerprint.
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(
            f"{path}: changed since corpus.json was written (another SHA-256); build the corpus again"
        )
    schema = pq.read_schema(io.BytesIO(content))
    wrong = [name for name in _COLUMNS if name not in schema.names or schema.field(name).type != _type(name)]
    if wrong:
        missing = ", ".join(f"{name} ({_type(name)})" for name in wrong)
        raise DataError(
            f"{path}: no column {missing}, got {', '.join(schema.names)}; expected a corpus of build_corpus"
        )
    return pq.read_table(io.BytesIO(content), columns=list(_COLUMNS))


def _type(name: str) -> pa.DataType:
    return CONVERSATION_SCHEMA.field(name).type


def count_tokens(path: UPath) -> Counts:
    """Counts of a file of ``TOKENS_SCHEMA``; a row counts as dropped if none of its documents is kept."""
    columns = [name for name in TOKENS_SCHEMA.names if name != "input_ids"]
    counts: Counts = Counter()
    # The documents of one row are adjacent, as TokenizeShard writes them.
    for _, group in groupby(read_table(path, columns).to_pylist(), itemgetter("row_id")):
        documents = list(group)
        kept = [document for document in documents if document["reason"] is None]
        first = documents[0]
        counts.update([("rows", first["kind"])] if kept else [("rows_dropped", first["reason"])])
        # A row without any document has no tokens, and is no dropped document.
        counts.update(
            ("documents_dropped", document["reason"])
            for document in documents
            if document["reason"] and document["num_tokens"]
        )
        for document in kept:
            kind = document["kind"]
            counts["documents", kind] += 1
            counts["tokens", kind] += document["num_tokens"]
            counts["cut", kind] += int(document["was_cut"])
            counts["label_tokens", kind] += document["num_tokens"] - document["num_prompt"]
    return counts


def select(counts: Counts, name: str) -> dict[str, int]:
    """The positive counts of one name, by kind or reason."""
    return {key: count for (found, key), count in sorted(counts.items()) if found == name and count}


def total(counts: Counts, name: str) -> int:
    """The sum of one name over kinds or reasons."""
    return sum(select(counts, name).values())


def length_range(paths: Iterable[UPath]) -> tuple[int, int]:
    """Minimum and maximum number of tokens of the documents, before cuts; zeros without any document."""
    lengths = [
        length
        for path in paths
        for length in read_table(path, ["num_whole"])["num_whole"].to_pylist()
        if length
    ]
    return min(lengths, default=0), max(lengths, default=0)
