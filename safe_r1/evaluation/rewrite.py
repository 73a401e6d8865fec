"""Makes the reports of a finished run again: its own, and those by its further judges and panels.

Everything is computed from the rows as they are now, so that verdicts edited by hand never leave a report
with two truths. The folder of a further judge holds copies of the verdicts that no judge gave (answer keys,
checks): these are copied anew. A panel's verdicts follow from those of its judges, and are made anew.
"""

from collections.abc import Sequence

from safe_r1.errors import DataError, StorageError
from safe_r1.evaluation.attack_report import Written, rewrite_attacks
from safe_r1.evaluation.panels import rewrite_panel
from safe_r1.evaluation.publish import rewrite_from_rows
from safe_r1.evaluation.rejudge import COPY_PREFIX, copy_others, publish_verdicts
from safe_r1.evaluation.sample_index import index_samples
from safe_r1.judge.base import judge_label
from safe_r1.runs import JUDGES, JsonObject, RunFolder, as_path, judge_folders
from safe_r1.schema import Part

_RECORD = "judge.json"


def rewrite(path: str) -> list[str]:
    """Compute metrics and reports of a finished run, or of one further judge of it, again from the rows.

    Args:
        path: OUTPUT/RUN/VARIANT/BENCHMARK, or judges/NAME@IDENTITY in it.

    Returns:
        The pages that were written: the run's own comes first, then those of its further judges, then those
        of its panels; of a run under an attack then those of all attacks of its benchmark, by each judge.

    Raises:
        StorageError: The folder holds no finished run.
        IntegrityError: Rows are missing or surplus.
        NoResultError: A judge gave no label to any answer of a task.
    """
    folder = RunFolder(as_path(path))
    if folder.path.parent.name == JUDGES:
        page = _rewrite_further(RunFolder(folder.path.parent.parent), folder)
        return [page, *_pages(rewrite_attacks(folder))]
    page, rows = rewrite_from_rows(path)
    # A panel's verdicts are made of those of the others.
    further = sorted(_further_judges(folder), key=lambda each: "judges" in _record(each))
    pages = [page, *(_rewrite_further(folder, each) for each in further)]
    return [
        *pages,
        *_pages(rewrite_attacks(folder, rows)),
        *(attacks for each in further for attacks in _pages(rewrite_attacks(each))),
    ]


def _pages(written: Sequence[Written]) -> list[str]:
    return [str(page) for page, _ in written]


def _further_judges(run: RunFolder) -> list[RunFolder]:
    """The finished folders of further judges and panels."""
    return [RunFolder(each) for each in judge_folders(run.path) if RunFolder(each).is_complete]


def _rewrite_further(run: RunFolder, folder: RunFolder) -> str:
    if not folder.is_complete or not run.is_complete:
        raise StorageError(
            f"{folder.path}: no finished verdicts of a further judge here (no _SUCCESS in it, or in the run "
            "above it); run safe-r1 rejudge again"
        )
    record = _record(folder)
    if "judges" in record:
        return rewrite_panel(run, folder, record)
    judge = record["fingerprint"]["judge"]
    for shard in folder.shards("verdicts"):
        # Also those whose shard in the run is gone, or holds no such verdict any more.
        if shard.name.startswith(COPY_PREFIX):
            shard.unlink()
    copy_others(run, folder)
    # Judgements of earlier versions were recorded without the facts.
    label = judge_label(judge["name"], judge["identity"])
    facts = record.get("facts") or {"name": label, "identity": judge["identity"]}
    parts: tuple[Part, ...] = tuple(judge["parts"])
    publish_verdicts(run, folder, index_samples(run), parts, facts)
    return str(folder.path / "report.html")


def _record(folder: RunFolder) -> JsonObject:
    record = folder.read_json(_RECORD) or {}
    if not isinstance(record.get("fingerprint"), dict):
        raise DataError(f"{folder.path / _RECORD} is missing or damaged; run safe-r1 rejudge again")
    return record
