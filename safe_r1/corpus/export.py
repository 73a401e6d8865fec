"""The chosen rows as Parquet shards and JSONL, in one seeded order that does not depend on the cluster."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from upath import UPath

from safe_r1.corpus.index import Index
from safe_r1.corpus.mixing import Candidate, draw
from safe_r1.corpus.recipe import Recipe
from safe_r1.corpus.synthesis import STAGE as CANDIDATES
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.runs import RunFolder, read_table, write_bytes, write_table
from safe_r1.schema import CONVERSATION_SCHEMA

_ROWS_PER_SHARD = 2_000
_RESPONSE = ("teacher", "reasoning", "answer", "degree")


@dataclass(frozen=True)
class Selection:
    """The rows of the corpus.

    Attributes:
        numbers: Row id to the number of its candidate; None where the source had the response.
        splits: ``train`` and ``validation``.
    """

    numbers: Mapping[str, int | None]
    splits: Mapping[str, Sequence[Candidate]]


def export(
    recipe: Recipe,
    folder: RunFolder,
    index: Index,
    selection: Selection,
    on_progress: ProgressCallback,
) -> dict[str, str]:
    """Write ``train`` and ``validation`` as Parquet and, for trainers that want it, as JSONL.

    Returns:
        SHA-256 of every file by its path in the folder.
    """
    hashes: dict[str, str] = {}
    total, done = len(selection.numbers), 0
    on_progress(Progress("writing", 0, total))
    for split, rows in selection.splits.items():
        for number, table in enumerate(_in_order(recipe, folder, index, selection, rows)):
            name = f"{number:05d}"
            write_table(folder.path / split / f"part-{name}.parquet", table)
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
            write_bytes(
                folder.path / "jsonl" / split / f"part-{name}.jsonl", lines.encode("utf-8", errors="replace")
            )
            for path in (f"{split}/part-{name}.parquet", f"jsonl/{split}/part-{name}.jsonl"):
                hashes[path] = hashlib.sha256((folder.path / path).read_bytes()).hexdigest()
            done += table.num_rows
            on_progress(Progress("writing", done, total))
    folder.write_json("jsonl/dataset_info.json", _llama_factory(recipe, selection.splits))
    return hashes


def _in_order(
    recipe: Recipe, folder: RunFolder, index: Index, selection: Selection, rows: Sequence[Candidate]
) -> Iterator[pa.Table]:
    """Tables of ``CONVERSATION_SCHEMA`` in the seeded order, each of the size of a shard but the last."""
    import ray

    if not rows:
        return
    places = np.array(sorted(row.position for row in rows))
    items = [
        {"file": str(path), "positions": (places[(places >= start) & (places < end)] - start).tolist()}
        for path, start, end in zip(index.files, index.starts[:-1], index.starts[1:], strict=True)
    ]
    wanted = {row.row_id for row in rows}
    chosen = {
        name: number for name, number in selection.numbers.items() if number is not None and name in wanted
    }
    take = _Take(str(folder.path / "work" / CANDIDATES), ray.put(_where(folder, chosen)), recipe.seed)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    data = ray.data.from_items([item for item in items if item["positions"]], override_num_blocks=None)
    ordered = data.map_batches(take, batch_size=1, batch_format="pyarrow").sort("order")
    for batch in ordered.iter_batches(batch_size=_ROWS_PER_SHARD, batch_format="pyarrow", prefetch_batches=0):
        table: Any = batch
        yield table.select(CONVERSATION_SCHEMA.names).cast(CONVERSATION_SCHEMA)


def _where(folder: RunFolder, chosen: Mapping[str, int]) -> dict[str, tuple[str, int]]:
    """Which shard holds the chosen candidate of each row."""
    places: dict[str, tuple[str, int]] = {}
    if not chosen:
        return places
    for path in folder.shards(f"work/{CANDIDATES}"):
        for row in read_table(path, ["row_id", "candidate", "error"]).to_pylist():
            if row["error"] is None and chosen.get(row["row_id"]) == row["candidate"]:
                places.setdefault(row["row_id"], (path.name, row["candidate"]))
    return places


@dataclass(frozen=True)
class _Take:
    """Rows of one part's file, with their responses from the candidates' shards where a teacher wrote them."""

    candidates: str
    places: Any
    seed: int

    def __call__(self, batch: pa.Table) -> pa.Table:
        import ray

        places: Any = ray.get(self.places)
        rows: list[dict[str, Any]] = []
        for item in batch.to_pylist():
            table = read_table(UPath(item["file"]), [*_SOURCE_COLUMNS, *_RESPONSE])
            rows += table.take(pa.array(item["positions"])).to_pylist()
        self._answer([row for row in rows if row["answer"] is None], places)
        table = pa.Table.from_pylist([_conversation(row) for row in rows], schema=CONVERSATION_SCHEMA)
        order = [draw(self.seed + 2, row["row_id"]).hex() for row in rows]
        return table.append_column("order", pa.array(order, pa.string()))

    def _answer(self, rows: list[dict[str, Any]], places: Mapping[str, tuple[str, int]]) -> None:
        waiting = {row["row_id"]: row for row in rows}
        for shard in sorted({places[name][0] for name in waiting}):
            for flat in read_table(
                UPath(self.candidates) / shard, ["row_id", "candidate", *_RESPONSE]
            ).to_pylist():
                if places.get(flat["row_id"]) == (shard, flat["candidate"]) and flat["row_id"] in waiting:
                    waiting[flat["row_id"]].update({name: flat[name] for name in _RESPONSE})


_SOURCE_COLUMNS = (
    "row_id",
    "messages",
    "kind",
    "area",
    "category",
    "language",
    "source",
    "source_id",
    "licence",
)


def _conversation(row: dict[str, Any]) -> dict[str, Any]:
    response = f"<think>\n{row['reasoning']}\n</think>\n\n{row['answer']}"
    messages = [*row["messages"], {"role": "assistant", "content": response}]
    return {name: row.get(name) for name in CONVERSATION_SCHEMA.names} | {"messages": messages}


def _llama_factory(recipe: Recipe, splits: Mapping[str, Sequence[Candidate]]) -> dict[str, Any]:
    """How LLaMA-Factory is told of the JSONL folders; TRL reads ``messages`` as they are."""
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    }
    return {
        f"{recipe.name}-{split}": {
            "file_name": split,
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": tags,
        }
        for split in splits
    }
