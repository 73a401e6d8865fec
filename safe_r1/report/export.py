"""Exports finished runs as tables for other tools: ``results.parquet``, ``results.csv``, ``results.xlsx``.

One row a completion, with the columns of ``safe_r1.report.result_rows.RESULT_SCHEMA``. Rows are conserved: a
file has as many as the run has completions, or it is not written.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from upath import UPath

from safe_r1.errors import ConfigError, IntegrityError, StorageError
from safe_r1.metrics.counts import read_counts
from safe_r1.redaction import hide_credentials
from safe_r1.report.export_files import TABLES, TableFile, new_file
from safe_r1.report.result_rows import RESULT_SCHEMA, ResultRows
from safe_r1.runs import LAYOUT, RunFolder, as_path, find_runs

FORMATS = tuple(TABLES)
_BATCH_ROWS = 512


@dataclass(frozen=True)
class ExportedFile:
    """A written file.

    Attributes:
        path: Where it is.
        num_rows: Its rows, without the head.
        num_cut: Cells that were too long for the format and are cut, with a mark.
        num_replaced: Cells with characters that the format cannot hold, replaced visibly.
    """

    path: UPath
    num_rows: int
    num_cut: int
    num_replaced: int

    def to_text(self) -> str:
        """Path and numbers, for a terminal."""
        text = f"{hide_credentials(str(self.path))}: {self.num_rows:,} rows"
        if self.num_cut:
            text += f", {self.num_cut:,} cells cut at Excel's limit (parquet and csv have them whole)"
        if self.num_replaced:
            text += f", control characters of {self.num_replaced:,} cells replaced"
        return text


def export_run(folder: RunFolder, formats: Sequence[str], output: UPath | None = None) -> list[ExportedFile]:
    """Write the rows of a run whose verdicts are complete, in one pass for all formats.

    Args:
        folder: The run.
        formats: Of ``FORMATS``.
        output: Folder of the files; None: the run's own.

    Raises:
        ConfigError: A format is unknown.
        IntegrityError: The rows of the run do not add up.
        StorageError: A shard cannot be read or a file cannot be written.
    """
    check_formats(formats)
    paths = {name: (output or folder.path) / f"results.{name}" for name in formats}
    with ResultRows(folder) as rows:
        _check_counts(folder, rows.num_rows)
        tables: dict[str, TableFile] = {}
        num_written = 0
        with contextlib.ExitStack() as stack:
            for name, path in paths.items():
                tables[name] = TABLES[name](stack.enter_context(new_file(path)), RESULT_SCHEMA)
            stream = iter(rows)
            while batch := list(itertools.islice(stream, _BATCH_ROWS)):
                for table in tables.values():
                    table.write(batch)
                num_written += len(batch)
            for table in tables.values():
                table.close()
            # Before the stack ends, and with it the files become visible.
            if num_written != rows.num_rows:
                raise IntegrityError(
                    f"{folder.path}: {num_written} rows written for {rows.num_rows} completions; nothing is "
                    "exported: run the same command again"
                )
    return [
        ExportedFile(paths[name], num_written, table.num_cut, table.num_replaced)
        for name, table in tables.items()
    ]


def export_missing(folder: RunFolder, formats: Sequence[str]) -> list[ExportedFile]:
    """``export_run`` of the formats that are not in the run's folder yet."""
    missing = [name for name in formats if not (folder.path / f"results.{name}").exists()]
    return export_run(folder, missing) if missing else []


def export_runs(path: str, formats: Sequence[str], output: str | None = None) -> Iterator[ExportedFile]:
    """Export every finished run in a folder; yields the files as they are written.

    Args:
        path: A run folder or one above it, see ``safe_r1.runs.LAYOUT``.
        formats: Of ``FORMATS``.
        output: Folder of the files; several runs have their place below ``path`` in it. None: each run's own.

    Raises:
        StorageError: There is no finished run. Also see ``export_run``.
    """
    check_formats(formats)
    root = as_path(path)
    runs = find_runs(root)
    # A run of fine-tuning has a marker and no questions.
    finished = [folder for folder in runs if folder.is_complete and folder.shards("samples")]
    if not finished:
        state = f"{len(runs)} runs and none is finished (no _SUCCESS)" if runs else "no run"
        raise StorageError(f"{path}: {state}; expected {LAYOUT} of a finished evaluation")
    for folder in finished:
        below = folder.path.path.removeprefix(root.path).strip("/")
        target = as_path(output) / below if output and below else as_path(output) if output else None
        yield from export_run(folder, formats, target)


def check_formats(formats: Sequence[str]) -> None:
    """Refuse formats that do not exist.

    Raises:
        ConfigError: There is none, or an unknown one.
    """
    unknown = [name for name in formats if name not in TABLES]
    if unknown or not formats:
        raise ConfigError(f"export format {', '.join(unknown) or 'missing'}: expected {', '.join(FORMATS)}")


def _check_counts(folder: RunFolder, num_rows: int) -> None:
    """The metrics were computed from as many rows as there are now; absent metrics are not checked."""
    metrics = folder.read_json("metrics.json")
    if metrics:
        counted = sum(entry["num_rows"] for entry in read_counts(metrics).values())
        if counted != num_rows:
            raise IntegrityError(
                f"{folder.path}: {num_rows} completions, but metrics.json counts {counted} rows; shards were "
                "added or removed: restore them or run the evaluation again"
            )
