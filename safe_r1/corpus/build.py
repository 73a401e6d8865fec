"""The corpus job: sources → clean rows → no duplicates → responses → quotas → shards and card.

Each step does only what the output folder lacks, so the same command finishes whatever was cut short. Counts
are conserved: rows read = rows kept + rows dropped by reason, or the job fails.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from safe_r1.corpus.card import measure_lengths, render_card, write_figures
from safe_r1.corpus.decontaminate import Decontaminator, load_questions
from safe_r1.corpus.export import Selection, export
from safe_r1.corpus.index import Deduplicated, Index
from safe_r1.corpus.ingest import STAGE, Ingest, read_counts
from safe_r1.corpus.mixing import (
    Candidate,
    check_quotas,
    choose,
    fit_quota,
    group_by_quota,
    quota_sizes,
    split,
)
from safe_r1.corpus.plan import Plan, make_plan
from safe_r1.corpus.recipe import Recipe
from safe_r1.corpus.rows import Drop, Row
from safe_r1.corpus.sources import Part
from safe_r1.corpus.synthesis import best_candidates, costs, synthesize
from safe_r1.errors import DataError, IntegrityError
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.provenance import hardware, now, versions
from safe_r1.resources import MIN_LOGICAL_CPUS, connect
from safe_r1.runs import RunFolder, read_table, write_table

WORK = "work"
_DROPS_SCHEMA = pa.schema([(name, pa.string()) for name in ("row_id", "source", "stage", "reason", "detail")])


@dataclass
class Outcome:
    """A finished corpus: its folder, the content of ``corpus.json``, and whether it had been complete before."""

    folder: RunFolder
    info: dict[str, Any]
    was_complete: bool = False


@dataclass
class _State:
    """What is known of the rows so far."""

    index: Index
    clusters: Deduplicated
    drops: dict[str, Drop] = field(default_factory=dict)


def build(recipe: Recipe, on_progress: ProgressCallback) -> Outcome:
    """Build the corpus to its published end, doing only what is missing.

    Raises:
        SafeR1Error: Anything a user can repair; what was finished until then is kept.
    """
    started = time.monotonic()
    plan = make_plan(recipe)
    recipe = plan.recipe
    folder = RunFolder(UPath(recipe.output))
    folder.open(
        plan.fingerprint, {"recipe": recipe.model_dump(mode="json"), "started_at": now()}, name="corpus.json"
    )
    if folder.is_complete:
        return Outcome(folder, folder.read_json("corpus.json") or {}, was_complete=True)
    work = UPath(recipe.output) / WORK
    # An engine's stream needs more logical CPUs than reading and filtering do.
    connect(MIN_LOGICAL_CPUS if recipe.teacher == "llm" else 1)
    _ingest(plan, work, on_progress)
    index = Index.read(work, plan.parts)
    state = _State(index, index.deduplicate(recipe))
    state.drops |= state.clusters.drops
    chosen = _fill(recipe, RunFolder(work), state, on_progress)
    splits = split(recipe, [row for row, _ in chosen])
    selection = Selection({row.row_id: number for row, number in chosen}, splits)
    shards = export(recipe, folder, index, selection, on_progress)
    info = _account(recipe, plan, folder, state, selection)
    lengths, histogram = measure_lengths(folder, splits)
    info |= {
        "shards": shards,
        "lengths": lengths,
        "histogram": histogram,
        "teacher_costs": costs(RunFolder(work)),
        "versions": versions(),
        "hardware": hardware(),
        "finished_at": now(),
        "sessions": [*_sessions(folder), round(time.monotonic() - started, 1)],
    }
    info = (folder.read_json("corpus.json") or {}) | info
    folder.write_json("corpus.json", info)
    write_figures(folder, info)
    folder.write_text("README.md", render_card(recipe, info))
    folder.publish()
    return Outcome(folder, info)


def _sessions(folder: RunFolder) -> list[float]:
    return (folder.read_json("corpus.json") or {}).get("sessions", [])


def _ingest(plan: Plan, work: UPath, on_progress: ProgressCallback) -> None:
    """Read every part that has no file yet; stops when a source is malformed beyond the recipe's limit."""
    import ray

    recipe = plan.recipe
    total = sum(part.num_records for part in plan.parts)
    todo = [part for part in plan.parts if not (work / STAGE / f"{part.name}.parquet").exists()]
    done = total - sum(part.num_records for part in todo)
    on_progress(Progress("reading", done, total))
    if todo:
        guard = ray.put(
            Decontaminator(
                load_questions(recipe.decontamination.protected, recipe.data), recipe.decontamination
            )
        )
        dropped = 0
        dataset = ray.data.from_items(
            [{"part": position} for position in range(len(todo))], override_num_blocks=len(todo)
        )
        work_on = _IngestPart(recipe, str(work), guard, todo)
        for batch in dataset.map(work_on).iter_batches(batch_size=1, prefetch_batches=0):
            counts = read_counts(batch)
            done, dropped = done + counts["rows"], dropped + counts["dropped"]
            on_progress(Progress("reading", done, total, dropped))
    _refuse_malformed(recipe, work, plan.parts)


@dataclass(frozen=True)
class _IngestPart:
    """``Ingest`` as a step of Ray Data: the protected questions come once to each node, not with every task."""

    recipe: Recipe
    folder: str
    guard: Any
    parts: Sequence[Part]

    def __call__(self, item: dict[str, Any]) -> dict[str, int]:
        import ray

        return Ingest(self.recipe, self.folder, ray.get(self.guard))(self.parts[item["part"]])


def _refuse_malformed(recipe: Recipe, work: UPath, parts: Sequence[Part]) -> None:
    for source in recipe.sources:
        total = malformed = 0
        example = ""
        for part in (part for part in parts if part.place == source.name):
            table = read_table(work / STAGE / f"{part.name}.parquet", ["drop_reason", "drop_detail"])
            details = [row["drop_detail"] for row in table.to_pylist() if row["drop_reason"] == "malformed"]
            total, malformed, example = (
                total + table.num_rows,
                malformed + len(details),
                example or (details or [""])[0],
            )
        if malformed > recipe.max_malformed_share * total:
            raise DataError(
                f"source {source.name}: {malformed:,} of {total:,} records are malformed, more than max_malformed_share="
                f"{recipe.max_malformed_share:g} allows; the first: {example}"
            )


def _fill(
    recipe: Recipe, work: RunFolder, state: _State, on_progress: ProgressCallback
) -> list[tuple[Candidate, int | None]]:
    """The rows of the corpus, each with the number of its candidate where a teacher answered it."""
    rows = _candidates(state)
    answered = {
        name
        for name, has in zip(state.index.column("row_id"), state.index.column("has_response"), strict=True)
        if has
    }
    if recipe.quotas:
        unwanted = [row.row_id for row in rows if fit_quota(recipe.quotas, row) is None]
        state.drops |= dict.fromkeys(unwanted, Drop("mix", "no_quota", "no quota asks for such a row"))
        rows = [row for row in rows if row.row_id not in state.drops]
    ready = [row for row in rows if row.row_id in answered]
    waiting = group_by_quota(recipe, [row for row in rows if row.row_id not in answered])
    _check_supply(recipe, rows)
    best: dict[str, int] = {}
    asked: list[Candidate] = []
    while batch := _next_prompts(recipe, ready, best, asked, waiting):
        asked += batch
        prompts = _load_prompts(state.index, {row.row_id for row in batch})
        total, done, failed, tokens = len(batch) * recipe.synthesis.candidates, 0, 0, 0
        on_progress(Progress("synthesizing", 0, total))
        for batch_counts in synthesize(prompts, recipe, work):
            done += batch_counts.rows
            failed += batch_counts.failed
            tokens += batch_counts.tokens
            on_progress(Progress("synthesizing", done, total, failed, tokens))
        best, drops = best_candidates(work, [row.row_id for row in asked])
        state.drops |= drops
    usable = ready + [row for row in asked if row.row_id in best]
    return [(row, best.get(row.row_id)) for row in choose(recipe, usable)]


def _candidates(state: _State) -> list[Candidate]:
    names = ("row_id", "source", "kind", "language", "area", "category")
    columns = zip(*(state.index.column(name) for name in names), strict=True)
    return [
        Candidate(*values, position=int(position), family=state.clusters.family[values[0]])
        for values, position in zip(columns, state.index.alive, strict=True)
        if values[0] not in state.drops
    ]


def _check_supply(recipe: Recipe, rows: Sequence[Candidate]) -> None:
    if recipe.quotas:
        groups = group_by_quota(recipe, rows)
        check_quotas(
            recipe, {i: len(group) for i, group in groups.items() if i is not None}, "clean rows and prompts"
        )


def _next_prompts(
    recipe: Recipe,
    ready: Sequence[Candidate],
    best: dict[str, int],
    asked: Sequence[Candidate],
    waiting: dict[int | None, list[Candidate]],
) -> list[Candidate]:
    """The prompts to ask next: as many as the quotas still lack, and some more; without quotas all of them."""
    seen = {row.row_id for row in asked}
    if not recipe.quotas:
        return [row for row in waiting.get(0, []) if row.row_id not in seen]
    had = Counter(
        i
        for i, group in group_by_quota(
            recipe, [*ready, *(row for row in asked if row.row_id in best)]
        ).items()
        for _ in group
    )
    batch: list[Candidate] = []
    for i, size in enumerate(quota_sizes(recipe)):
        missing = size - had[i]
        left = [row for row in waiting.get(i, []) if row.row_id not in seen]
        batch += left[: max(0, round(missing * recipe.synthesis.margin + 0.5))] if missing > 0 else []
    return batch


def _load_prompts(index: Index, wanted: set[str]) -> list[Row]:
    """The prompts of these rows, in the order of the parts."""
    prompts: list[Row] = []
    for path in index.files:
        table = read_table(path)
        chosen = table.filter(pc.field("row_id").isin(sorted(wanted)))
        prompts += map(Row.from_table_row, chosen.to_pylist())
    return prompts


def _account(
    recipe: Recipe, plan: Plan, folder: RunFolder, state: _State, selection: Selection
) -> dict[str, Any]:
    """Write every drop, and check that rows read = kept + dropped.

    Raises:
        IntegrityError: They are not.
    """
    kept = Counter[tuple[str, str, str, str, str]]()
    dropped = Counter[tuple[str, str, str]]()
    table = state.index.table
    for start in range(0, table.num_rows, recipe.rows_per_part):
        lines = []
        for flat in table.slice(start, recipe.rows_per_part).to_pylist():
            name = flat["row_id"]
            if name in selection.numbers:
                kept[
                    flat["source"],
                    flat["kind"],
                    flat["language"],
                    flat["area"] or "-",
                    flat["category"] or "-",
                ] += 1
                continue
            drop = (
                Drop(flat["drop_stage"], flat["drop_reason"], flat["drop_detail"])
                if flat["drop_stage"]
                else state.drops.get(name, Drop("mix", "over_quota", "not drawn"))
            )
            dropped[flat["source"], drop.stage, drop.reason] += 1
            lines.append([name, flat["source"], drop.stage, drop.reason, drop.detail])
        columns = [pa.array(column, pa.string()) for column in zip(*lines, strict=True)] or [
            pa.array([], pa.string())
        ] * 5
        write_table(
            folder.path / "drops" / f"part-{start // recipe.rows_per_part:05d}.parquet",
            pa.table(columns, _DROPS_SCHEMA),
        )
    num_read = sum(part.num_records for part in plan.parts)
    if num_read != kept.total() + dropped.total() or kept.total() != len(selection.numbers):
        raise IntegrityError(
            f"{num_read:,} rows read, {kept.total():,} kept and {dropped.total():,} dropped, {len(selection.numbers):,} "
            "selected; expected read = kept + dropped: remove the output folder and run again"
        )
    keep_names, drop_names = ("source", "kind", "language", "area", "category"), ("source", "stage", "reason")
    return {
        "num_read": num_read,
        "num_kept": kept.total(),
        "num_dropped": dropped.total(),
        "read": dict(Counter({source.name: plan.count(source.name) for source in recipe.sources})),
        "kept": [
            dict(zip(keep_names, key, strict=True)) | {"rows": count} for key, count in sorted(kept.items())
        ],
        "dropped": [
            dict(zip(drop_names, key, strict=True)) | {"rows": count}
            for key, count in sorted(dropped.items())
        ],
        "splits": {name: len(rows) for name, rows in selection.splits.items()},
    }
