"""Selection of rows: fills the quotas, and asks the teacher for the responses that are missing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow.compute as pc

from safe_r1.corpus.candidates import best_candidates
from safe_r1.corpus.index import DedupResult, RowIndex
from safe_r1.corpus.mixing import (
    RowSummary,
    check_quotas,
    choose,
    find_quota,
    group_by_quota,
    quota_sizes,
    split,
)
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.corpus.rows import CorpusRow, Drop
from safe_r1.corpus.synthesis import synthesize
from safe_r1.judge.factory import JudgePlan
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.runs import RunFolder, read_table


@dataclass(frozen=True)
class Selection:
    """The rows of the corpus.

    Attributes:
        candidates: Row id to the number of the teacher's response that was chosen; None for a row that has
            the response of its source.
        splits: The rows of ``train`` and ``validation``.
        drops: Row id to drop, of the rows that ingestion kept and that are not in the corpus; without the
            clean rows that no quota needed.
    """

    candidates: Mapping[str, int | None]
    splits: Mapping[str, Sequence[RowSummary]]
    drops: Mapping[str, Drop]


@dataclass
class _Responses:
    """Prompts that were given to the teacher so far, and the outcome of each.

    Attributes:
        requested: The prompts.
        best: Row id to the number of its best response.
        drops: Row id to drop, of the prompts without a usable response.
    """

    requested: list[RowSummary] = field(default_factory=list)
    best: dict[str, int] = field(default_factory=dict)
    drops: dict[str, Drop] = field(default_factory=dict)

    @property
    def usable(self) -> list[RowSummary]:
        return [row for row in self.requested if row.row_id in self.best]


def select_rows(
    recipe: CorpusRecipe,
    judge: JudgePlan,
    index: RowIndex,
    work: RunFolder,
    on_progress: ProgressCallback,
) -> Selection:
    """Deduplicate, generate the missing responses, fill the quotas and split the rows.

    Raises:
        DataError: A quota falls short by more than the recipe allows.
    """
    deduplicated = index.deduplicate(recipe)
    drops = dict(deduplicated.drops)
    rows = _clean_rows(index, deduplicated)
    if recipe.quotas:
        unmatched = {row.row_id for row in rows if find_quota(recipe.quotas, row) is None}
        drops |= dict.fromkeys(unmatched, Drop("mix", "no_quota", "no quota asks for such a row"))
        rows = [row for row in rows if row.row_id not in unmatched]
        # Before the teacher is asked: its calls are the expensive part.
        _check_supply(recipe, rows)
    row_ids = zip(index.column("row_id"), index.column("has_response"), strict=True)
    has_response = {row_id for row_id, has in row_ids if has}
    ready = [row for row in rows if row.row_id in has_response]
    needs_teacher = [row for row in rows if row.row_id not in has_response]
    responses = _generate_responses(recipe, judge, index, work, ready, needs_teacher, on_progress)
    chosen = choose(recipe, ready + responses.usable)
    candidates = {row.row_id: responses.best.get(row.row_id) for row in chosen}
    return Selection(candidates, split(recipe, chosen), drops | responses.drops)


def _clean_rows(index: RowIndex, deduplicated: DedupResult) -> list[RowSummary]:
    names = ("row_id", "source", "kind", "language", "area", "category")
    columns = zip(*(index.column(name) for name in names), strict=True)
    rows: list[RowSummary] = []
    for values, position in zip(columns, index.clean, strict=True):
        row_id = values[0]
        if row_id not in deduplicated.drops:
            cluster_id = deduplicated.cluster_ids[row_id]
            rows.append(RowSummary(*values, position=int(position), cluster_id=cluster_id))
    return rows


def _check_supply(recipe: CorpusRecipe, rows: Sequence[RowSummary]) -> None:
    groups = group_by_quota(recipe, rows)
    available = {i: len(group) for i, group in groups.items() if i is not None}
    check_quotas(recipe, available, "clean rows and prompts")


def _generate_responses(
    recipe: CorpusRecipe,
    judge: JudgePlan,
    index: RowIndex,
    work: RunFolder,
    ready: Sequence[RowSummary],
    needs_teacher: Sequence[RowSummary],
    on_progress: ProgressCallback,
) -> _Responses:
    """Ask the teacher in rounds until the quotas are full or no prompt is left."""
    # Several rounds, because how many prompts get a usable response is only known afterwards.
    waiting = group_by_quota(recipe, needs_teacher)
    responses = _Responses()
    while batch := _next_prompts(recipe, ready, responses, waiting):
        responses.requested += batch
        prompts = _load_prompts(index, {row.row_id for row in batch})
        total = len(batch) * recipe.synthesis.candidates
        progress = Progress("synthesizing", 0, total)
        on_progress(progress)
        for counts in synthesize(prompts, recipe, judge, work):
            progress = Progress(
                "synthesizing",
                progress.done + counts.rows,
                total,
                progress.failed + counts.failed,
                progress.tokens + counts.tokens,
            )
            on_progress(progress)
        responses.best, drops = best_candidates(work, [row.row_id for row in responses.requested])
        responses.drops |= drops
    return responses


def _next_prompts(
    recipe: CorpusRecipe,
    ready: Sequence[RowSummary],
    responses: _Responses,
    waiting: Mapping[int | None, Sequence[RowSummary]],
) -> list[RowSummary]:
    """Prompts of the next round: what the quotas still lack and a margin; without quotas all prompts."""
    requested = {row.row_id for row in responses.requested}
    if not recipe.quotas:
        return [row for row in waiting.get(0, []) if row.row_id not in requested]
    usable = group_by_quota(recipe, [*ready, *responses.usable])
    available = Counter({i: len(group) for i, group in usable.items()})
    batch: list[RowSummary] = []
    for i, size in enumerate(quota_sizes(recipe)):
        missing = size - available[i]
        if missing > 0:
            left = [row for row in waiting.get(i, []) if row.row_id not in requested]
            # Half a row more: even a small quota asks for one prompt beyond its need.
            batch += left[: round(missing * recipe.synthesis.margin + 0.5)]
    return batch


def _load_prompts(index: RowIndex, row_ids: set[str]) -> list[CorpusRow]:
    """The prompts of these rows, in the order of the parts."""
    # File by file, so that the driver holds the texts of one part and of the wanted rows.
    prompts: list[CorpusRow] = []
    for path in index.files:
        table = read_table(path)
        selected = table.filter(pc.field("row_id").isin(sorted(row_ids)))
        prompts += map(CorpusRow.from_table_row, selected.to_pylist())
    return prompts
