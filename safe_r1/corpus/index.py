"""The rows of all parts as columns without their texts: what deduplication and mixing decide on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from upath import UPath

from safe_r1.corpus.dedup import NUM_PERM, find_clusters, pick_best
from safe_r1.corpus.ingest import STAGE
from safe_r1.corpus.recipe import Recipe
from safe_r1.corpus.rows import Drop
from safe_r1.corpus.sources import Part
from safe_r1.corpus.text import Hashes
from safe_r1.runs import read_table

_COLUMNS = [
    "row_id",
    "source",
    "kind",
    "language",
    "area",
    "category",
    "drop_stage",
    "drop_reason",
    "drop_detail",
]
_COLUMNS += ["reasoning_chars", "has_response"]


@dataclass(frozen=True)
class Index:
    """Columns over all rows of all parts, in the order of the parts.

    Attributes:
        files: The parts' files.
        starts: Position of each file's first row, and the number of rows in all.
        table: ``row_id``, ``source``, ``kind``, ``language``, ``area``, ``category``, the drop,
            ``reasoning_chars`` and ``has_response``.
        alive: Positions of the rows that no part dropped.
    """

    files: list[UPath]
    starts: npt.NDArray[np.int64]
    table: pa.Table
    alive: npt.NDArray[np.int64]

    @classmethod
    def read(cls, folder: UPath, parts: Sequence[Part]) -> "Index":
        """The index of these parts, all of which must have been read."""
        paths = [folder / STAGE / f"{part.name}.parquet" for part in parts]
        pieces = [read_table(path, _COLUMNS) for path in paths]
        table = pa.concat_tables(pieces)
        alive = np.flatnonzero(table["drop_stage"].is_null().to_numpy())
        return cls(paths, np.cumsum([0, *(piece.num_rows for piece in pieces)]), table, alive)

    def column(self, name: str) -> list:
        """A column of the living rows; equal values are one object, since a million rows share a few sources
        and kinds.
        """
        values = self.table[name].take(pa.array(self.alive)).combine_chunks().dictionary_encode()
        words = [*values.dictionary.to_pylist(), None]
        return [words[code] for code in values.indices.fill_null(len(words) - 1).to_pylist()]

    def _sketches(self, name: str) -> pa.ChunkedArray:
        return pa.chunked_array(
            [chunk for path in self.files for chunk in read_table(path, [name])[name].chunks]
        ).drop_null()

    def deduplicate(self, recipe: Recipe) -> "Deduplicated":
        """Keep the best row of every cluster of near duplicates.

        The better row has a response, is of the source that the recipe names first, reasons longer, and comes
        earlier.
        """
        signatures = np.frombuffer(b"".join(self._sketches("signature").to_pylist()), np.uint8).reshape(
            -1, NUM_PERM
        )
        exact: Hashes = self._sketches("exact").to_numpy()
        clusters = find_clusters(
            exact, signatures, lambda band: self._sketches(f"band_{band:02d}").to_numpy(), recipe.dedup
        )
        rank = {source.name: place for place, source in enumerate(recipe.sources)}
        sources = np.array([rank[name] for name in self.column("source")], np.int64)
        waits = ~np.array(self.column("has_response"), bool)
        shortness = -np.array(self.column("reasoning_chars"), np.int64)
        best = pick_best(clusters.near, (waits, sources, shortness))
        names = self.column("row_id")
        drops = {}
        for position in np.flatnonzero(best != np.arange(len(best))):
            kept = int(best[position])
            reason = (
                "exact_duplicate" if clusters.exact[position] == clusters.exact[kept] else "near_duplicate"
            )
            drops[names[position]] = Drop("deduplicate", reason, names[kept])
        return Deduplicated(
            drops, {name: int(family) for name, family in zip(names, clusters.family, strict=True)}
        )


@dataclass(frozen=True)
class Deduplicated:
    """What deduplication decided, by row id.

    Attributes:
        drops: The rows that are out; the detail is the row that stays instead.
        family: Family of every living row.
    """

    drops: dict[str, Drop]
    family: dict[str, int]
