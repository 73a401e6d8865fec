"""One part of a source from raw records to sketched rows: what a single Ray task does, without knowing of the
others.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from upath import UPath

from safe_r1.corpus.decontaminate import Decontaminator
from safe_r1.corpus.dedup import SKETCH_SCHEMA, sketch
from safe_r1.corpus.filters import apply_filters
from safe_r1.corpus.recipe import Recipe
from safe_r1.corpus.rows import ROW_SCHEMA, Row, normalise
from safe_r1.corpus.sources import Part, read_part
from safe_r1.runs import write_table

STAGE = "rows"
"""Folder of the parts' files below the work folder."""

PART_SCHEMA = pa.schema(
    [*ROW_SCHEMA, ("has_response", pa.bool_()), ("reasoning_chars", pa.int32()), *SKETCH_SCHEMA]
)
"""A row, what deduplication weighs, and the sketch of its prompt (empty for a dropped row)."""


@dataclass(frozen=True)
class Ingest:
    """Reads, filters, decontaminates and sketches parts; picklable.

    Attributes:
        recipe: The recipe.
        folder: Work folder.
        guard: The protected questions.
    """

    recipe: Recipe
    folder: str
    guard: Decontaminator

    def __call__(self, part: Part) -> dict[str, int]:
        """Writes the part's file and gives how many rows it has, and how many were dropped."""
        source = next(source for source in self.recipe.sources if source.name == part.place)
        rows = apply_filters(
            [normalise(record, source) for record in read_part(source, part)],
            self.recipe.filters,
            self.recipe.judge,
            source.trusted,
        )
        rows = [row if row.drop else self._guarded(row) for row in rows]
        write_table(UPath(self.folder) / STAGE / f"{part.name}.parquet", self._table(rows))
        return {"rows": len(rows), "dropped": sum(row.drop is not None for row in rows)}

    def _guarded(self, row: Row) -> Row:
        return row if (drop := self.guard.find(row)) is None else row.dropped(drop)

    def _table(self, rows: list[Row]) -> pa.Table:
        clean = [position for position, row in enumerate(rows) if row.drop is None]
        sketches = sketch([rows[position].prompt for position in clean], self.recipe.dedup)
        places: list[int | None] = [None] * len(rows)
        for place, position in enumerate(clean):
            places[position] = place
        table = pa.Table.from_pylist([row.to_table_row() for row in rows], schema=ROW_SCHEMA)
        table = table.append_column("has_response", pa.array([row.has_response for row in rows]))
        table = table.append_column(
            "reasoning_chars", pa.array([len(row.reasoning or "") for row in rows], pa.int32())
        )
        for name, column in zip(
            SKETCH_SCHEMA.names, sketches.take(pa.array(places, pa.int64())).columns, strict=True
        ):
            table = table.append_column(name, column)
        return table.cast(PART_SCHEMA)


def read_counts(batch: Any) -> dict[str, int]:
    """The counts that one task answered with, from a batch of one row."""
    return {name: int(values[0]) for name, values in batch.items()}
