"""The corpus job: ingestion, deduplication, response generation, mixing, export, dataset card, in this order.

Each step does only what the output folder lacks, so that the same command finishes an interrupted job. The
counts are conserved: rows read = rows kept + rows dropped by reason, or the job fails.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from upath import UPath

from safe_r1.attacks.trained import RECORD
from safe_r1.corpus.accounting import CorpusInfo, account, check_losses
from safe_r1.corpus.candidates import sum_costs
from safe_r1.corpus.card import measure_lengths, render_card, write_figures
from safe_r1.corpus.decontaminate import Decontaminator
from safe_r1.corpus.export import WORK, export, record_attacks
from safe_r1.corpus.index import RowIndex
from safe_r1.corpus.ingest import STAGE, Ingest, read_counts, shared_grams
from safe_r1.corpus.plan import CorpusPlan, fingerprint, make_plan
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.corpus.selection import select_rows
from safe_r1.corpus.sketches import SharedGrams
from safe_r1.errors import DataError
from safe_r1.judge.factory import JudgePlan, plan_judge
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.provenance import hardware, now, versions
from safe_r1.records.sources import SourcePart
from safe_r1.resources import MIN_LOGICAL_CPUS, connect
from safe_r1.runs import RunFolder, as_path, read_table
from safe_r1.settings import public_settings

if TYPE_CHECKING:
    from ray import ObjectRef

_INFO_FILE = "corpus.json"


@dataclass
class CorpusResult:
    """A finished corpus.

    Attributes:
        folder: The output folder.
        info: Content of ``corpus.json``.
        was_complete: True if the corpus was finished before this job.
    """

    folder: RunFolder
    info: CorpusInfo
    was_complete: bool = False


def build(recipe: CorpusRecipe, on_progress: ProgressCallback) -> CorpusResult:
    """Build a corpus up to its publication, doing only what is missing.

    Raises:
        SafeR1Error: Anything that the user can repair; what is finished by then is kept.
    """
    return build_plan(make_plan(recipe), on_progress)


def build_plan(plan: CorpusPlan, on_progress: ProgressCallback) -> CorpusResult:
    """Build a corpus whose sources are found and checked; see ``build``."""
    started = time.monotonic()
    recipe = plan.recipe
    judge = plan_judge(recipe.judge)
    judge.check_tells_refusals()
    folder = RunFolder(as_path(recipe.output))
    folder.open(
        fingerprint(plan, judge),
        {"recipe": public_settings(recipe), "started_at": now()},
        name=_INFO_FILE,
    )
    # After `open`, which refuses a folder of another recipe.
    if folder.is_complete:
        return CorpusResult(folder, _read_info(folder), was_complete=True)
    work = RunFolder(folder.path / WORK)
    # An engine's stream needs more logical CPUs than reading and filtering do.
    connect(MIN_LOGICAL_CPUS if recipe.teacher == "llm" else 1)
    _ingest(plan, judge, work, on_progress)
    index = RowIndex.read(work.path, plan.parts)
    # Before a teacher is asked for responses to the few rows that are left.
    check_losses(recipe, index.num_dropped(), index.table.num_rows, f"see {work.path / STAGE}")
    selection = select_rows(recipe, judge, index, work, on_progress)
    shards = export(recipe, folder, index, selection, on_progress)
    counts = account(plan, folder, index, selection)
    is_attacked = recipe.attacks.train or recipe.attacks.held_out
    attacks = {RECORD: record_attacks(recipe, folder, selection.splits)} if is_attacked else {}
    lengths, histogram = measure_lengths(folder, selection.splits)
    # What `open` wrote in the first of several sessions stays.
    before = _read_info(folder)
    info = cast(
        CorpusInfo,
        {
            **before,
            **counts,
            **attacks,
            "shards": shards,
            "lengths": lengths,
            "histogram": histogram,
            "teacher_costs": sum_costs(work),
            "versions": versions(),
            "hardware": hardware(),
            "finished_at": now(),
            "sessions": [*before.get("sessions", []), round(time.monotonic() - started, 1)],
        },
    )
    folder.write_json(_INFO_FILE, info)
    write_figures(folder, info)
    folder.write_text("README.md", render_card(recipe, info))
    folder.publish()
    return CorpusResult(folder, info)


def _read_info(folder: RunFolder) -> CorpusInfo:
    return cast(CorpusInfo, folder.read_json(_INFO_FILE) or {})


def _ingest(plan: CorpusPlan, judge: JudgePlan, work: RunFolder, on_progress: ProgressCallback) -> None:
    """Ingest every part that has no file yet.

    Raises:
        DataError: A source has more malformed records than the recipe allows.
    """
    import ray

    recipe = plan.recipe
    todo = [part for part in plan.parts if not _part_file(work, part).exists()]
    total = sum(part.num_records for part in plan.parts)
    done = total - sum(part.num_records for part in todo)
    dropped = 0
    on_progress(Progress("reading", done, total))
    if todo:
        decontaminator = Decontaminator(plan.questions, recipe.decontamination)
        shared = shared_grams(recipe, plan.parts)
        ingest_part = _IngestPart(recipe, str(work.path), judge, ray.put(decontaminator), shared, todo)
        items = [{"part": position} for position in range(len(todo))]
        # One block per part: a part is a task of its own, and its file is there as soon as it is done.
        dataset = ray.data.from_items(items, override_num_blocks=len(todo)).map(ingest_part)
        for batch in dataset.iter_batches(batch_size=1, prefetch_batches=0):
            counts = read_counts(batch)
            done += counts["rows"]
            dropped += counts["dropped"]
            on_progress(Progress("reading", done, total, dropped))
    _check_malformed(recipe, work, plan.parts)


def _part_file(work: RunFolder, part: SourcePart) -> UPath:
    return work.path / STAGE / f"{part.name}.parquet"


@dataclass(frozen=True)
class _IngestPart:
    """``Ingest`` as a step of Ray Data; the protected questions are sent once per node, not once per task."""

    recipe: CorpusRecipe
    folder: str
    judge: JudgePlan
    decontaminator: "ObjectRef[Decontaminator]"
    shared: SharedGrams
    parts: Sequence[SourcePart]

    def __call__(self, item: dict[str, int]) -> dict[str, int]:
        import ray

        decontaminator = ray.get(self.decontaminator)
        ingest = Ingest(self.recipe, self.folder, self.judge, decontaminator, self.shared)
        return ingest(self.parts[item["part"]])


def _check_malformed(recipe: CorpusRecipe, work: RunFolder, parts: Sequence[SourcePart]) -> None:
    # From the files, so that parts of earlier sessions count too.
    for source in recipe.sources:
        num_records = 0
        num_malformed = 0
        example = ""
        for part in (part for part in parts if part.source == source.name):
            table = read_table(_part_file(work, part), ["drop_reason", "drop_detail"])
            details = [row["drop_detail"] for row in table.to_pylist() if row["drop_reason"] == "malformed"]
            num_records += table.num_rows
            num_malformed += len(details)
            example = example or next(iter(details), "")
        if num_malformed > recipe.max_malformed_share * num_records:
            raise DataError(
                f"source {source.name}: {num_malformed:,} of {num_records:,} records are malformed, more "
                f"than max_malformed_share={recipe.max_malformed_share:g} allows; the first: {example}"
            )
