"""Export of the corpus as Parquet shards and JSONL, in a seeded order that does not depend on the cluster."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
from upath import UPath

from safe_r1.attacks.base import PLAIN
from safe_r1.corpus.attacked import ATTACKED_CONVERSATION_SCHEMA, Asking, record
from safe_r1.corpus.candidates import STAGE as CANDIDATES
from safe_r1.corpus.index import RowIndex
from safe_r1.corpus.mixing import RowSummary, place_attacks, shuffle_key
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.corpus.rows import TableRow
from safe_r1.corpus.selection import Selection
from safe_r1.errors import IntegrityError, NoResultError
from safe_r1.progress import NOTICES, Progress, ProgressCallback
from safe_r1.runs import RunFolder, read_table, write_bytes, write_table
from safe_r1.schema import CONVERSATION_SCHEMA

if TYPE_CHECKING:
    from ray import ObjectRef

notices = logging.getLogger(NOTICES)

WORK = "work"
"""Folder of the intermediate files below the output folder."""

# A few MiB: small enough to read one at a time, large enough for few files.
_ROWS_PER_SHARD = 2_000
_RESPONSE_COLUMNS = ("teacher", "reasoning", "answer", "degree")
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

CandidateLocations = Mapping[str, tuple[str, int]]
"""Row id to the shard and the number of the chosen candidate."""


def export(
    recipe: CorpusRecipe,
    folder: RunFolder,
    index: RowIndex,
    selection: Selection,
    on_progress: ProgressCallback,
) -> dict[str, str]:
    """Write ``train`` and ``validation`` as Parquet and, for trainers that read it, as JSONL.

    Returns:
        SHA-256 of every file by its path in the folder.
    """
    hashes: dict[str, str] = {}
    total = len(selection.candidates)
    done = 0
    on_progress(Progress("writing", 0, total))
    for split, rows in selection.splits.items():
        for number, table in enumerate(_shuffled_tables(recipe, folder, index, selection, rows)):
            parquet = f"{split}/part-{number:05d}.parquet"
            jsonl = f"jsonl/{split}/part-{number:05d}.jsonl"
            write_table(folder.path / parquet, table)
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
            write_bytes(folder.path / jsonl, lines.encode("utf-8", errors="replace"))
            # Read again, so that the hash is that of the stored bytes.
            for path in (parquet, jsonl):
                hashes[path] = hashlib.sha256((folder.path / path).read_bytes()).hexdigest()
            done += table.num_rows
            on_progress(Progress("writing", done, total))
    folder.write_json("jsonl/dataset_info.json", _llama_factory_info(recipe, selection.splits))
    return hashes


def _shuffled_tables(
    recipe: CorpusRecipe,
    folder: RunFolder,
    index: RowIndex,
    selection: Selection,
    rows: Sequence[RowSummary],
) -> Iterator[pa.Table]:
    """Tables of ``shard_schema`` in the shuffled order, each of the size of a shard but the last."""
    import ray

    if not rows:
        return
    positions = np.array(sorted(row.position for row in rows))
    items: list[TableRow] = []
    for path, start, end in zip(index.files, index.starts[:-1], index.starts[1:], strict=True):
        # Positions of this file's rows, from its first row on.
        in_file = positions[(positions >= start) & (positions < end)] - start
        if len(in_file):
            items.append({"file": str(path), "positions": in_file.tolist()})
    locations = ray.put(_locate_candidates(folder, selection, rows))
    asking = ray.put(Asking(recipe.attacks.attacks, place_attacks(recipe, selection.splits), recipe.seed))
    schema = shard_schema(recipe)
    gather = GatherRows(str(folder.path / WORK / CANDIDATES), locations, asking, schema, recipe.seed)
    # Blocks stay in the order of the files, so that the tables do not depend on which task ends first.
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    gathered = ray.data.from_items(items).map_batches(gather, batch_size=1, batch_format="pyarrow")
    batches = gathered.sort("order").iter_batches(
        batch_size=_ROWS_PER_SHARD, batch_format="pyarrow", prefetch_batches=0
    )
    for batch in batches:
        yield to_shard(cast(pa.Table, batch), schema)


def to_shard(batch: pa.Table, schema: pa.Schema = CONVERSATION_SCHEMA) -> pa.Table:
    """A batch as a schema has it."""
    return batch.select(schema.names).cast(schema)


def shard_schema(recipe: CorpusRecipe) -> pa.Schema:
    """Columns of the corpus: two more than usual where attacks are trained on."""
    return ATTACKED_CONVERSATION_SCHEMA if recipe.attacks.train else CONVERSATION_SCHEMA


def record_attacks(
    recipe: CorpusRecipe, folder: RunFolder, splits: Mapping[str, Sequence[RowSummary]]
) -> dict[str, object]:
    """The record of the attacks in the corpus, counted from the files that were written.

    Raises:
        IntegrityError: The rows do not add up to those of the splits.
        NoResultError: No row is asked through an attack, though the recipe wants a share of them.
    """
    asked: Counter[tuple[str, str]] = Counter()
    for path in (path for split in splits for path in folder.shards(split)):
        table = read_table(path, ["kind", "attack"] if recipe.attacks.train else ["kind"])
        asked.update((row["kind"], row.get("attack", PLAIN.name)) for row in table.to_pylist())
    num_rows = sum(map(len, splits.values()))
    if asked.total() != num_rows:
        raise IntegrityError(
            f"{num_rows:,} rows were selected, {asked.total():,} are in {folder.path}: remove the output "
            "folder and run again"
        )
    if recipe.attacks.train:
        _check_attacked(
            recipe, sum(number for (_, name), number in asked.items() if name != PLAIN.name), splits
        )
    return record(recipe.attacks, asked)


def _check_attacked(
    recipe: CorpusRecipe, num_attacked: int, splits: Mapping[str, Sequence[RowSummary]]
) -> None:
    num_chosen = len(place_attacks(recipe, splits))
    if not num_attacked:
        raise NoResultError(
            f"no row is asked through an attack: {num_chosen:,} rows were chosen, and none of attacks.train "
            "changes them; raise attacks.share, or name attacks that fit the rows"
        )
    if num_attacked < num_chosen:
        notices.warning(
            "attacks: %d of %d rows stay plain, as none of attacks.train finds anything to change in them",
            num_chosen - num_attacked,
            num_chosen,
        )


def _locate_candidates(
    folder: RunFolder, selection: Selection, rows: Sequence[RowSummary]
) -> CandidateLocations:
    """Find the shard of the chosen candidate of each row that a teacher answered."""
    numbers = {row.row_id: selection.candidates[row.row_id] for row in rows}
    numbers = {row_id: number for row_id, number in numbers.items() if number is not None}
    locations: dict[str, tuple[str, int]] = {}
    if not numbers:
        return locations
    for path in folder.shards(f"{WORK}/{CANDIDATES}"):
        for row in read_table(path, ["row_id", "candidate", "error"]).to_pylist():
            if row["error"] is None and numbers.get(row["row_id"]) == row["candidate"]:
                # After a killed task a candidate may be in two shards, with the same content.
                locations.setdefault(row["row_id"], (path.name, row["candidate"]))
    return locations


@dataclass(frozen=True)
class GatherRows:
    """Reads the selected rows of one part, and the responses of the teacher from the candidates' shards.

    Attributes:
        folder: Folder of the candidates' shards.
        locations: Reference to the chosen candidates, which are sent once per node.
        asking: Reference to how the rows are asked.
        schema: Columns of the corpus.
        seed: Seed of the recipe.
    """

    folder: str
    locations: "ObjectRef[CandidateLocations]"
    asking: "ObjectRef[Asking]"
    schema: pa.Schema
    seed: int

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Conversations and their sort keys, from items of the ``file`` of a part and ``positions`` in it."""
        import ray

        rows: list[TableRow] = []
        for item in batch.to_pylist():
            table = read_table(UPath(item["file"]), [*_SOURCE_COLUMNS, *_RESPONSE_COLUMNS])
            rows += table.take(pa.array(item["positions"])).to_pylist()
        self._add_responses({row["row_id"]: row for row in rows if row["answer"] is None})
        asking: Asking = ray.get(self.asking)
        conversations = [_conversation(asking(row), self.schema) for row in rows]
        table = pa.Table.from_pylist(conversations, schema=self.schema)
        # Another seed than that of the selection and of the split, whose orders are independent of this one.
        order = [shuffle_key(self.seed + 2, row["row_id"]).hex() for row in rows]
        return table.append_column("order", pa.array(order, pa.string()))

    def _add_responses(self, needs_teacher: Mapping[str, TableRow]) -> None:
        import ray

        locations: CandidateLocations = ray.get(self.locations)
        # Each shard is read once, whatever the number of its rows.
        for shard in sorted({locations[row_id][0] for row_id in needs_teacher}):
            columns = ["row_id", "candidate", *_RESPONSE_COLUMNS]
            for candidate in read_table(UPath(self.folder) / shard, columns).to_pylist():
                row = needs_teacher.get(candidate["row_id"])
                if row is not None and locations[row["row_id"]] == (shard, candidate["candidate"]):
                    row.update({name: candidate[name] for name in _RESPONSE_COLUMNS})


def _conversation(row: TableRow, schema: pa.Schema) -> TableRow:
    """A row of a schema: the response becomes the last message, with its reasoning in tags."""
    response = f"<think>\n{row['reasoning']}\n</think>\n\n{row['answer']}"
    messages = [*row["messages"], {"role": "assistant", "content": response}]
    return {name: row.get(name) for name in schema.names} | {"messages": messages}


def _llama_factory_info(
    recipe: CorpusRecipe, splits: Mapping[str, Sequence[RowSummary]]
) -> dict[str, dict[str, object]]:
    """Dataset description for LLaMA-Factory; TRL reads ``messages`` without one."""
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
