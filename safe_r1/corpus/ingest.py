"""Ingestion of one part of a source by one Ray task: from raw records to rows with MinHash sketches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from upath import UPath

from safe_r1.corpus.decontaminate import Decontaminator
from safe_r1.corpus.filters import apply_filters
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.corpus.rows import ROW_SCHEMA, CorpusRow, normalise
from safe_r1.corpus.sketches import SKETCH_SCHEMA, SharedGrams, find_shared, join_shared, sketch
from safe_r1.judge.factory import JudgePlan
from safe_r1.records.sources import SourcePart, read_part
from safe_r1.runs import write_table

if TYPE_CHECKING:
    from ray.data.block import DataBatch

STAGE = "rows"
"""Folder of the parts' files below the work folder."""

# Enough to see what a source's prompts share, and read in a moment.
_SAMPLED_RECORDS = 2000

PART_SCHEMA = pa.schema(
    [*ROW_SCHEMA, ("has_response", pa.bool_()), ("reasoning_chars", pa.int32()), *SKETCH_SCHEMA]
)
"""A row, what deduplication ranks it by, and the sketch of its prompt (null for a dropped row)."""


@dataclass(frozen=True)
class Ingest:
    """Reads, filters, decontaminates and sketches parts; picklable.

    Attributes:
        recipe: The recipe.
        folder: Work folder.
        judge: The judge of the filters.
        decontaminator: Finds overlaps with the protected questions.
        shared: N-grams of spans that many prompts share.
    """

    recipe: CorpusRecipe
    folder: str
    judge: JudgePlan
    decontaminator: Decontaminator
    shared: SharedGrams

    def __call__(self, part: SourcePart) -> dict[str, int]:
        """Write the part's file; returns the number of ``rows`` and of ``dropped`` ones."""
        source = next(source for source in self.recipe.sources if source.name == part.source)
        rows = apply_filters(
            [normalise(record, source) for record in read_part(source, part)],
            self.recipe.filters,
            self.judge,
            source.trusted,
        )
        # Last, since it hashes every text of the row.
        rows = [row if row.drop else self._decontaminate(row) for row in rows]
        write_table(UPath(self.folder) / STAGE / f"{part.name}.parquet", self._table(rows))
        return {"rows": len(rows), "dropped": sum(row.drop is not None for row in rows)}

    def _decontaminate(self, row: CorpusRow) -> CorpusRow:
        drop = self.decontaminator.find(row)
        return row if drop is None else row.dropped(drop)

    def _table(self, rows: list[CorpusRow]) -> pa.Table:
        clean = [position for position, row in enumerate(rows) if row.drop is None]
        sketches = sketch([rows[position].question for position in clean], self.recipe.dedup, self.shared)
        # Rows and sketches side by side: `take` with a null index gives a null row.
        sketch_of_row: list[int | None] = [None] * len(rows)
        for number, position in enumerate(clean):
            sketch_of_row[position] = number
        sketches = sketches.take(pa.array(sketch_of_row, pa.int64()))
        table = pa.Table.from_pylist([row.to_table_row() for row in rows], schema=ROW_SCHEMA)
        table = table.append_column("has_response", pa.array([row.has_response for row in rows]))
        lengths = [len(row.reasoning or "") for row in rows]
        table = table.append_column("reasoning_chars", pa.array(lengths, pa.int32()))
        for name, column in zip(SKETCH_SCHEMA.names, sketches.columns, strict=True):
            table = table.append_column(name, column)
        return table.cast(PART_SCHEMA)


def shared_grams(recipe: CorpusRecipe, parts: Sequence[SourcePart]) -> SharedGrams:
    """N-grams that many prompts share, by the beginning of each source.

    The same for all of its parts, whichever a task reads: a prompt has one sketch.
    """
    first = {part.source: part for part in reversed(parts)}
    found: list[SharedGrams] = []
    for source in recipe.sources:
        if part := first.get(source.name):
            beginning = replace(part, num_records=min(part.num_records, _SAMPLED_RECORDS))
            rows = [normalise(record, source) for record in read_part(source, beginning)]
            found.append(find_shared([row.question for row in rows if row.drop is None], recipe.dedup))
    return join_shared(found)


def read_counts(batch: "DataBatch") -> dict[str, int]:
    """The counts that one task returned, from a batch of one row in the default format."""
    columns = cast(Mapping[str, npt.NDArray[np.int64]], batch)
    return {name: int(values[0]) for name, values in columns.items()}
