"""Index of the rows of all parts without their texts: the columns that deduplication and mixing need."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from upath import UPath

from safe_r1.corpus.dedup import Sketches, find_clusters, keep_best
from safe_r1.corpus.ingest import STAGE
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.corpus.rows import Drop
from safe_r1.corpus.sketches import NUM_PERM
from safe_r1.corpus.text import Indices
from safe_r1.progress import NOTICES
from safe_r1.records.sources import SourcePart
from safe_r1.runs import read_table

notices = logging.getLogger(NOTICES)

# A cluster of so many rows, and of such a share of its source, is told.
_LARGE_CLUSTER, _LARGE_SHARE = 20, 0.05
_SHOWN = 3
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
    "reasoning_chars",
    "has_response",
    "repairs",
]


@dataclass(frozen=True)
class DedupResult:
    """Result of deduplication, by row id.

    Attributes:
        drops: The duplicates; the detail is the id of the row that was kept instead.
        cluster_ids: Cluster of every clean row, see ``mixing.RowSummary``.
    """

    drops: dict[str, Drop]
    cluster_ids: dict[str, int]


@dataclass(frozen=True)
class RowIndex:
    """Columns over all rows of all parts, in the order of the parts.

    Attributes:
        files: The files of the parts.
        starts: Position of the first row of each file, and the total number of rows; shape (files + 1,).
        table: ``row_id``, ``source``, ``kind``, ``language``, ``area``, ``category``, the drop,
            ``reasoning_chars`` and ``has_response``.
        clean: Positions of the rows that ingestion did not drop.
    """

    files: list[UPath]
    starts: Indices
    table: pa.Table
    clean: Indices

    @classmethod
    def read(cls, folder: UPath, parts: Sequence[SourcePart]) -> "RowIndex":
        """The index of these parts, all of which must have been ingested."""
        paths = [folder / STAGE / f"{part.name}.parquet" for part in parts]
        tables = [read_table(path, _COLUMNS) for path in paths]
        table = pa.concat_tables(tables)
        clean = np.flatnonzero(table["drop_stage"].is_null().to_numpy())
        starts = np.cumsum([0, *(each.num_rows for each in tables)])
        return cls(paths, starts, table, clean)

    def num_dropped(self) -> Counter[tuple[str, str]]:
        """Rows that ingestion dropped, by stage and reason."""
        counted = (
            self.table.group_by(["drop_stage", "drop_reason"]).aggregate([([], "count_all")]).to_pylist()
        )
        return Counter(
            {
                (row["drop_stage"], row["drop_reason"]): row["count_all"]
                for row in counted
                if row["drop_stage"] is not None
            }
        )

    def column(self, name: str) -> list:
        """A column of the clean rows; equal values are the same object.

        A million rows have a few sources and kinds, so that sharing them saves most of the memory.
        """
        column = self.table[name].take(pa.array(self.clean)).combine_chunks().dictionary_encode()
        # The last entry stands for null, which a dictionary has no code for.
        values = [*column.dictionary.to_pylist(), None]
        return [values[code] for code in column.indices.fill_null(len(values) - 1).to_pylist()]

    def _sketches(self, name: str) -> pa.ChunkedArray:
        """A column of the sketches of all clean rows, read when it is needed."""
        chunks = [chunk for path in self.files for chunk in read_table(path, [name])[name].chunks]
        return pa.chunked_array(chunks).drop_null()

    def _read_band(self, band: int) -> npt.NDArray[np.uint64]:
        return self._sketches(f"band_{band:02d}").to_numpy()

    def deduplicate(self, recipe: CorpusRecipe) -> DedupResult:
        """Keep the best row of every cluster of near duplicates.

        A row with a response is better than one without; then the order of the sources in the recipe counts,
        then the longer reasoning, then the position.
        """
        signatures = np.frombuffer(b"".join(self._sketches("signature").to_pylist()), np.uint8)
        sketches = Sketches(
            self._sketches("exact").to_numpy(),
            self._sketches("template").to_numpy(),
            signatures.reshape(-1, NUM_PERM),
            recipe.dedup.threshold,
        )
        clusters = find_clusters(sketches, self._read_band, recipe.dedup)
        rank = {source.name: number for number, source in enumerate(recipe.sources)}
        source_rank = np.array([rank[name] for name in self.column("source")], np.int64)
        needs_teacher = ~np.array(self.column("has_response"), bool)
        # Ascending order is the order of preference: longer reasoning has to come first.
        shortness = -np.array(self.column("reasoning_chars"), np.int64)
        best = keep_best(sketches, clusters.near, (needs_teacher, source_rank, shortness))
        names = self.column("row_id")
        self._warn_of_large_clusters(best, names, source_rank, recipe)
        drops: dict[str, Drop] = {}
        for position in np.flatnonzero(best != np.arange(len(best))):
            kept = int(best[position])
            is_exact = clusters.exact[position] == clusters.exact[kept]
            reason = "exact_duplicate" if is_exact else "near_duplicate"
            drops[names[position]] = Drop("deduplicate", reason, names[kept])
        cluster_ids = {name: int(number) for name, number in zip(names, clusters.related, strict=True)}
        return DedupResult(drops, cluster_ids)

    def _warn_of_large_clusters(
        self, best: Indices, names: Sequence[str], source_rank: Indices, recipe: CorpusRecipe
    ) -> None:
        """Say where one row stands for so many of its source that they may be no duplicates at all."""
        sizes = np.bincount(source_rank, minlength=len(recipe.sources))
        # Of the head's own source: it may stand for rows of others too.
        is_own = source_rank[best] == source_rank
        heads, counts = np.unique(best[is_own], return_counts=True)
        for head, count in zip(
            heads[counts >= _LARGE_CLUSTER], counts[counts >= _LARGE_CLUSTER], strict=True
        ):
            size = int(sizes[source_rank[head]])
            if count < _LARGE_SHARE * size:
                continue
            copies = [names[int(position)] for position in np.flatnonzero(best == head)[: _SHOWN + 1]]
            shown = ", ".join(name for name in copies if name != names[head])
            notices.warning(
                "source %s: %s stands for %d of %d rows, taken for its near duplicates, such as %s; look at "
                "them, and raise dedup.threshold (now %g) if they differ",
                recipe.sources[source_rank[head]].name,
                names[head],
                int(count) - 1,
                size,
                shown,
                recipe.dedup.threshold,
            )
