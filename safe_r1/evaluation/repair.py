"""Moves damaged files of a run aside, with what depends on them, so that the same command does them again.

A verdict on a completion that is gone would count for the one that takes its place: verdicts and finished
answers go with their completion, also those of further judges. Nothing is deleted: what is moved lies in
``damaged/`` of the run, under its path.
"""

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
from upath import UPath

from safe_r1.errors import StorageError
from safe_r1.evaluation.results import completion_key, verdict_key
from safe_r1.locks.run_lock import hold, holding
from safe_r1.runs import (
    LAYOUT,
    STAGE_SCHEMAS,
    DamagedFile,
    RunFolder,
    as_path,
    find_damage,
    find_runs,
    is_local,
    judge_folders,
    read_table,
    storage_error,
)

DAMAGED = "damaged"
"""Folder in a run for what was moved aside."""
_KEYS = {"finished": completion_key, "verdicts": verdict_key}


@dataclass
class Repaired:
    """What was done to one run.

    Attributes:
        run: The run.
        damaged: Its damaged files, by their former paths.
        dropped: Rows that went with their completion, by stage.
        left: Rows of the run by stage, those that count twice included.
    """

    run: RunFolder
    damaged: list[DamagedFile] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)

    @property
    def lines(self) -> list[str]:
        """As it is printed."""
        path = self.run.path
        if not self.damaged and not self.dropped:
            return [f"{path}: no damaged file"]
        counts = ", ".join(f"{number} {stage}" for stage, number in self.left.items())
        return [
            f"{path}: {len(self.damaged)} damaged, moved to {path / DAMAGED}",
            *(f"  {_below(each.path, path)}: {each.problem}" for each in self.damaged),
            *(
                f"  {number} rows of {stage} dropped with their completion"
                for stage, number in self.dropped.items()
            ),
            f"  left: {counts}",
            "  run the same evaluation command, and rejudge where it was used: they do only what is missing",
        ]


def repair(path: str) -> list[Repaired]:
    """Move the damaged files of runs aside.

    May be stopped at any moment and repeated.

    Args:
        path: A run folder or one above it, see ``safe_r1.runs.LAYOUT``.

    Raises:
        StorageError: There is no run, or a file cannot be read or moved.
        RunBusyError: A job works on one of the runs, or on a further judge of one.
    """
    runs = find_runs(as_path(path))
    if not runs:
        raise StorageError(f"{path}: no run found; expected {LAYOUT}")
    with holding():
        for folder in (folder for run in runs for folder in (run.path, *judge_folders(run.path))):
            if folder.is_dir():
                hold(folder)
        return [_repair(run) for run in runs]


def _repair(run: RunFolder) -> Repaired:
    result = Repaired(run, list(find_damage(run.path)))
    damaged = {str(each.path) for each in result.damaged}
    completions = [shard for shard in run.shards("completions") if str(shard) not in damaged]
    samples = [shard for shard in run.shards("samples") if str(shard) not in damaged]
    result.left["samples"] = sum(_num_rows(shard) for shard in samples)
    result.left["completions"] = sum(_num_rows(shard) for shard in completions)
    kept = {key for shard in completions for key in _keys(read_table(shard, ["sample_id", "repeat"]))}
    # First what depends on the completions: were this stopped in between, new ones would meet old verdicts.
    for folder in [run, *map(RunFolder, judge_folders(run.path))]:
        if any(each.path.parent.parent == folder.path for each in result.damaged):
            folder.unpublish()
        for stage in _KEYS:
            for shard in folder.shards(stage):
                if str(shard) not in damaged:
                    _drop_orphans(result, folder, stage, shard, kept)
    for each in sorted(result.damaged, key=lambda each: each.stage == "completions"):
        _move(run, each.path)
    return result


def _num_rows(shard: UPath) -> int:
    return len(read_table(shard, ["sample_id"]))


def _keys(table: pa.Table) -> list[tuple[str, int]]:
    """Sample and repeat of each row."""
    return list(zip(*(table.column(name).to_pylist() for name in ("sample_id", "repeat")), strict=True))


def _drop_orphans(
    result: Repaired, folder: RunFolder, stage: str, shard: UPath, kept: set[tuple[str, int]]
) -> None:
    """Keep the rows of a file whose completion is there."""
    schema = STAGE_SCHEMAS[stage]
    table = read_table(shard, schema=schema)
    has_one = [key in kept for key in _keys(table)]
    is_own = folder is result.run
    num_kept = sum(has_one)
    if is_own:
        result.left[stage] += num_kept
    if num_kept == len(table):
        return
    folder.unpublish()
    name = stage if is_own else f"{stage} of {folder.path.name}"
    result.dropped[name] += len(table) - num_kept
    if num_kept:
        folder.write_shard(stage, table.filter(pa.array(has_one)).to_pylist(), schema, _KEYS[stage])
    _move(result.run, shard)


def _move(run: RunFolder, file: UPath) -> None:
    """Move a file of a run to ``damaged/``; an earlier one of that name stays."""
    target = run.path / DAMAGED / _below(file, run.path)
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f"{file.name}.{number}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_local(file):
            file.rename(target)
        else:
            file.fs.mv(file.path, target.path)
    except OSError as error:
        raise storage_error(target, error) from None


def _below(path: UPath, run: UPath) -> str:
    return path.path.removeprefix(run.path).lstrip("/")
