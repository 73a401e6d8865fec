"""Reads Parquet files, and says which files of a run are damaged and what helps."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from safe_r1.errors import DamagedFileError, StorageError
from safe_r1.runs.files import is_regular
from safe_r1.schema import (
    COMPLETION_SCHEMA,
    FINISHED_SCHEMA,
    SAMPLE_SCHEMA,
    TURN_SCHEMA,
    VERDICT_SCHEMA,
    Sample,
)

Row = dict[str, Any]
"""A row of a Parquet table."""
STAGE_SCHEMAS: Mapping[str, pa.Schema] = {
    "samples": SAMPLE_SCHEMA,
    "turns": TURN_SCHEMA,
    "completions": COMPLETION_SCHEMA,
    "finished": FINISHED_SCHEMA,
    "verdicts": VERDICT_SCHEMA,
}
"""Stages of an evaluation that can be done again, and the columns of their rows."""
JUDGES = "judges"
"""Folder of the further judges in a run folder."""
_PARTS = {"answer", "reasoning"}
_SHOWN_FILES = 20


@dataclass(frozen=True)
class DamagedFile:
    """A file of a run that cannot be used.

    Attributes:
        path: The file.
        stage: Its stage.
        problem: What is wrong with it.
    """

    path: UPath
    stage: str
    problem: str


def read_table(
    path: UPath, columns: Sequence[str] | None = None, schema: pa.Schema | None = None
) -> pa.Table:
    """A Parquet file, some of its columns, or those of a schema (null where an older file has none).

    Raises:
        StorageError: It cannot be read.
        DamagedFileError: It is no Parquet file, is cut off or changed, or lacks what every row has. Of a file
            of a run, the message names all that are damaged.
    """
    if not is_regular(path):
        raise damage_error(path, "no regular file")
    try:
        with path.open("rb") as file:
            table, problem = _parse(file, list(columns) if columns else None, schema)
    except OSError as error:
        if error.strerror:
            raise StorageError(f"cannot read {path}: {error.strerror}") from None
        problem = "cannot be read"
        table = None
    if table is None or problem:
        raise damage_error(path, problem)
    return table


def _parse(file: Any, columns: Sequence[str] | None, schema: pa.Schema | None) -> tuple[pa.Table | None, str]:
    """The table of an open file, or what is wrong with it.

    Raises:
        OSError: The file could not be read, which says nothing of its content.
    """
    try:
        table = pq.read_table(file, columns=columns, schema=schema, page_checksum_verification=True)  # pyright: ignore[reportArgumentType]
        # Arrow itself does not look whether texts are UTF-8.
        table.validate(full=True)
    except pa.ArrowException:
        return None, "no whole Parquet file with the expected columns"
    except OSError as error:
        if error.strerror:
            raise
        return None, "no whole Parquet file"
    lacking = [each.name for each in schema or () if not each.nullable and table.column(each.name).null_count]
    lacking += sorted(set(columns or ()) - set(table.column_names))
    return table, f"column {lacking[0]} is missing or has gaps" if lacking else ""


def damage_error(path: UPath, problem: str) -> DamagedFileError:
    """The error for a damaged file.

    Of a file of a run, the message names every damaged file of that run and the command that moves them
    aside, which takes reading all of them.
    """
    run = run_of(path)
    found = [each for each in find_damage(run) if each.problem] if run is not None else []
    if run is None or not found:
        return DamagedFileError(f"{path}: {problem}; restore it, or remove it and run what wrote it again")
    shown = ", ".join(f"{_below(each.path, run)} ({each.problem})" for each in found[:_SHOWN_FILES])
    if len(found) > _SHOWN_FILES:
        shown += f" and {len(found) - _SHOWN_FILES} more"
    num = f"{len(found)} damaged file{'s' if len(found) > 1 else ''}"
    return DamagedFileError(
        f"{run}: {num}: {shown}; restore from a copy, or run `safe-r1 repair {shlex.quote(str(run))}`, which "
        "moves just these aside, and then the same evaluation or rejudge command, which does only what is "
        "missing"
    )


def _below(path: UPath, run: UPath) -> str:
    return path.path.removeprefix(run.path).lstrip("/")


def run_of(path: UPath) -> UPath | None:
    """The folder of the run that a file of one of its stages belongs to; None for another file."""
    stage = path.parent
    if stage.name not in STAGE_SCHEMAS:
        return None
    folder = stage.parent
    run = folder.parent.parent if folder.parent.name == JUDGES else folder
    return run if (run / "run.json").exists() else None


def list_shards(folder: UPath, stage: str) -> list[UPath]:
    """The Parquet files of a stage by name; empty before its first."""
    # Not by glob, as a folder's name may hold its special characters.
    names = (folder / stage).iterdir() if (folder / stage).exists() else ()
    return sorted((path for path in names if path.name.endswith(".parquet")), key=lambda path: path.name)


def judge_folders(run: UPath) -> list[UPath]:
    """The folders of a run's further judges and panels."""
    judges = run / JUDGES
    return sorted(judges.iterdir(), key=str) if judges.exists() else []


def find_damage(run: UPath) -> Iterator[DamagedFile]:
    """The damaged files of a run and of its further judges.

    Raises:
        StorageError: A file cannot be read at all, so that nobody knows what is in it.
    """
    known: set[str] = set()
    for shard in list_shards(run, "samples"):
        table, problem = _whole(shard, "samples")
        if table is None:
            yield DamagedFile(shard, "samples", problem)
        else:
            known.update(table.column("sample_id").to_pylist())
    # Where samples are missing, what belongs to none cannot be told.
    has_all = len(known) == _num_samples(run)
    for folder in [run, *judge_folders(run)]:
        for stage in ("turns", "completions", "finished", "verdicts"):
            for shard in list_shards(folder, stage):
                table, problem = _whole(shard, stage)
                if table is not None and has_all:
                    foreign = sorted(set(table.column("sample_id").to_pylist()) - known)
                    problem = f"{stage} of samples that are not of this run: {foreign[0]}" if foreign else ""
                if problem:
                    yield DamagedFile(shard, stage, problem)


def _num_samples(run: UPath) -> int | None:
    """Number of samples that ``run.json`` says the run has; None where it does not say."""
    try:
        return json.loads((run / "run.json").read_bytes())["fingerprint"]["samples"]["num"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def _whole(shard: UPath, stage: str) -> tuple[pa.Table | None, str]:
    """The rows of a file of a stage, or what is wrong with them."""
    if not is_regular(shard):
        return None, "no regular file"
    try:
        content = shard.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {shard}: {error.strerror or error}") from None
    table, problem = _parse(pa.BufferReader(content), None, STAGE_SCHEMAS[stage])
    if table is None or problem:
        return None, problem
    if stage == "samples":
        try:
            for row in table.to_pylist():
                Sample.from_row(row)
        except (TypeError, ValueError, LookupError):
            return None, "a row is no question"
    elif min(table.column("repeat").to_pylist(), default=0) < 0:
        return None, "a repeat is below 0"
    elif stage == "verdicts" and (unknown := set(table.column("part").to_pylist()) - _PARTS):
        return None, f"verdicts on {min(unknown)!r}"
    return table, ""
