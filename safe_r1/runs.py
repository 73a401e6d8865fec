"""A run folder: its fingerprint, its shards, and the marker that says it is complete.

``OUTPUT/RUN/VARIANT/BENCHMARK/{samples,completions,verdicts}/*.parquet``, ``run.json``, ``metrics.json``, the
report, and ``_SUCCESS`` written last. Any fsspec URI serves as OUTPUT. A shard is named after the keys in it
and written atomically: a write that is killed leaves nothing, and one that is repeated replaces itself. The
shards say what a resumed run has to do: there is no other record of what was done.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from safe_r1.errors import IntegrityError, RunConflictError, StorageError
from safe_r1.locks import run_lock
from safe_r1.redaction import hide_secrets

SUCCESS = "_SUCCESS"
_SHOWN_DIFFERENCES = 6
# Given, as another version's default would give the same rows other bytes.
_ROW_GROUP = 1 << 20
_SAMPLED_IDENTITY = re.compile("sha256:[0-9a-f]{64}")
_DEPTH = 3  # OUTPUT/RUN/VARIANT/BENCHMARK
LAYOUT = "OUTPUT, OUTPUT/RUN, OUTPUT/RUN/VARIANT or OUTPUT/RUN/VARIANT/BENCHMARK"
"""What ``find_runs`` takes, for messages."""
Row = dict[str, Any]
"""A row of a Parquet table."""
JsonObject = dict[str, Any]
"""Content of a JSON file."""
Key = tuple[Any, ...]
"""Identity of a row within a stage."""
TEMPORARY_SUFFIX = ".tmp"
"""Of a file that is being written, or was when its process was killed."""


def sha256(value: object) -> str:
    """Hash of a value by its canonical JSON, in hexadecimal."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()
    ).hexdigest()


def is_local(path: UPath) -> bool:
    """True for a path in this machine's file system."""
    return path.protocol in ("", "file", "local")


def write_bytes(path: UPath, content: bytes) -> None:
    """Write a file atomically.

    An object store shows an object when its upload is complete; on a file system a rename does the same.

    Raises:
        StorageError: The path cannot be written.
    """
    if is_local(path):
        with writing(path) as temporary, open(temporary, "wb") as file:
            file.write(content)
        return
    try:
        path.write_bytes(content)
    except OSError as error:
        raise _write_error(path, error) from None


@contextlib.contextmanager
def writing(path: UPath) -> Iterator[str]:
    """The name of a temporary file, which becomes a file of the local disk when the body has written it.

    Raises:
        StorageError: It cannot be written.
    """
    # A name of its own, as two workers may write the same shard; in the same folder, as a rename is atomic
    # only within a file system.
    temporary = f"{path.path}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path.path)
    except OSError as error:
        raise _write_error(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _write_error(path: UPath, error: OSError) -> StorageError:
    return StorageError(
        f"cannot write {path}: {error.strerror or error}; make it writable or choose another --output"
    )


def write_table(path: UPath, table: pa.Table) -> None:
    """Write a Parquet file atomically; equal tables give equal bytes.

    Raises:
        StorageError: The path cannot be written.
    """
    # Pages follow the chunks of a column, and these follow how the table came about.
    table = table.combine_chunks()
    # Through memory, so that the file is written by one call of `write_bytes`.
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=_ROW_GROUP)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_table(
    path: UPath, columns: Sequence[str] | None = None, schema: pa.Schema | None = None
) -> pa.Table:
    """A Parquet file, some of its columns, or those of a schema (null where an older file has none).

    Raises:
        StorageError: It is no Parquet file, is cut off, or lacks what every row has.
    """
    names = list(columns) if columns else None
    try:
        with path.open("rb") as file:
            table = pq.read_table(file, columns=names, schema=schema)  # pyright: ignore[reportArgumentType]
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise StorageError(f"cannot read {path}: {error.strerror}") from None
        raise StorageError(
            f"{path}: no whole Parquet file; restore it, or remove it and run what wrote it again"
        ) from None
    lacking = [each.name for each in schema or () if not each.nullable and table.column(each.name).null_count]
    if lacking := lacking + sorted(set(names or ()) - set(table.column_names)):
        raise StorageError(
            f"{path}: column {lacking[0]} is missing or has gaps; restore the file, or remove it and run "
            "what wrote it again"
        )
    return table


@dataclass(frozen=True)
class RunFolder:
    """One variant on one benchmark, on disk or in an object store."""

    path: UPath

    @classmethod
    def locate(cls, output: str, run: str, variant: str, benchmark: str) -> "RunFolder":
        """The folder of a run, which need not exist."""
        return cls(UPath(output) / run / variant / benchmark)

    @property
    def is_complete(self) -> bool:
        """True once the marker of a complete run is there."""
        return (self.path / SUCCESS).exists()

    def open(
        self,
        fingerprint: Mapping[str, object],
        info: Mapping[str, object],
        mutable: Sequence[str] = (),
        name: str = "run.json",
    ) -> None:
        """Create the folder, or check that it belongs to the same run.

        Args:
            fingerprint: Everything that could change a result, as nested dicts of plain values.
            info: Further content of the file.
            mutable: Parts of the fingerprint that may change, as nothing in the folder depends on them yet.
            name: The file that holds both.

        Raises:
            RunConflictError: The folder holds a run with other settings; the message shows the difference. Or
                another job works on it at this moment.
            StorageError: The folder cannot be written.
        """
        run_lock.hold(self.path)
        old = self.read_json(name)
        if old is None:
            self.write_json(name, {**info, "fingerprint": fingerprint})
            return
        before: JsonObject = hide_secrets(old.get("fingerprint", {}))
        if not isinstance(before, dict):
            raise StorageError(
                f"{self.path / name} is damaged (its fingerprint is no object): restore it, or remove the "
                "folder and run again"
            )
        # As it will be read again: tuples become lists, other values their text, secrets are hidden.
        after: JsonObject = hide_secrets(json.loads(json.dumps(fingerprint, default=str)))
        known = _complete_identities(before, after)
        differences = diff({**known, **{part: after.get(part) for part in mutable}}, after)
        if differences:
            shown = "".join(f"\n  {line}" for line in differences[:_SHOWN_DIFFERENCES])
            if len(differences) > _SHOWN_DIFFERENCES:
                shown += f"\n  and {len(differences) - _SHOWN_DIFFERENCES} more"
            raise RunConflictError(
                f"{self.path} already holds a run with other settings; repeat it with the same ones, or give "
                f"this one another name with --set run=NAME, or another --output. There → here:{shown}"
            )
        if old.get("fingerprint") != after and not (known == after and self.is_complete):
            # A mutable part changed, or what an earlier release wrote is completed, or freed of secrets; the
            # run still began when it began.
            self.write_json(name, {**old, **info, "started_at": old.get("started_at"), "fingerprint": after})

    def read_json(self, name: str) -> JsonObject | None:
        """Content of a JSON file of the folder; None where there is no such file.

        Raises:
            StorageError: The file is damaged or cannot be read.
        """
        path = self.path / name
        try:
            if not path.exists():
                return None
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            content = None
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from None
        if not isinstance(content, dict):
            raise StorageError(
                f"{path} is damaged (no JSON object): restore it, or remove the folder and run again"
            )
        return content

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON file atomically, without secrets."""
        # As JSON has it, so that whatever a settings object shows of itself is seen.
        value = hide_secrets(json.loads(json.dumps(value, default=str)))
        self.write_text(name, json.dumps(value, ensure_ascii=False, indent=1) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically; lone surrogates in model output become replacement characters."""
        write_bytes(self.path / name, text.encode("utf-8", errors="replace"))

    def write_shard(
        self, stage: str, rows: Sequence[Row], schema: pa.Schema, key: Callable[[Row], Key]
    ) -> None:
        """Add rows to a stage as one Parquet shard, named after their keys."""
        # Sorted: a batch that is computed again may have its rows in another order.
        name = sha256(sorted(key(row) for row in rows))[:16]
        write_table(
            self.path / stage / f"part-{name}.parquet", pa.Table.from_pylist(list(rows), schema=schema)
        )

    def shards(self, stage: str) -> list[UPath]:
        """The Parquet files of a stage by name; empty before its first."""
        # Not by glob, as a folder's name may hold its special characters.
        folder = self.path / stage
        names = folder.iterdir() if folder.exists() else ()
        return sorted((path for path in names if path.name.endswith(".parquet")), key=lambda path: path.name)

    def read_rows(self, stage: str, schema: pa.Schema) -> list[Row]:
        """All rows of a stage, in no particular order."""
        return [row for shard in self.shards(stage) for row in read_table(shard, schema=schema).to_pylist()]

    def keep_log(self, log: Path) -> None:
        """Copy a session's log into the folder, beside those of earlier sessions."""
        write_bytes(self.path / "logs" / log.name, log.read_bytes())

    def publish(self) -> None:
        """Write the marker of a complete run, which is the last write."""
        self.write_text(SUCCESS, "")

    def unpublish(self) -> None:
        """Open a complete run again: until it is published once more it counts as unfinished."""
        (self.path / SUCCESS).unlink(missing_ok=True)


def find_runs(root: UPath) -> list[RunFolder]:
    """Run folders, finished or not, at the first level below ``root`` that has any; see ``LAYOUT``."""
    level = [root]
    for _ in range(_DEPTH + 1):
        found = [path for path in level if _is_run(path)]
        if found:
            return [RunFolder(path) for path in found]
        # Not by glob: a folder's name may hold its special characters.
        level = sorted(
            (child for path in level if path.is_dir() for child in path.iterdir() if child.is_dir()), key=str
        )
    return []


def _is_run(path: UPath) -> bool:
    # A run of fine-tuning has a run.json too; its reader tells it from an evaluation.
    return (path / "run.json").is_file() and ((path / "samples").is_dir() or (path / SUCCESS).exists())


def latest(rows: Iterable[Row], key: Callable[[Row], Key], is_final: Callable[[Row], bool]) -> dict[Key, Row]:
    """One row for each key, where a final one takes precedence over one that may be tried again.

    A batch whose worker died after writing is computed again, and its rows may be in two shards.
    """
    kept: dict[Key, Row] = {}
    for row in rows:
        known = kept.get(key(row))
        if known is None or (is_final(row) and not is_final(known)):
            kept[key(row)] = row
    return kept


def check_complete(stage: str, expected: Iterable[Key], found: Iterable[Key]) -> None:
    """Check that every expected key was found, and no other.

    Raises:
        IntegrityError: Keys are missing or foreign; the message names some.
    """
    expected_keys = set(expected)
    found_keys = set(found)
    for problem, keys in (
        ("missing", expected_keys - found_keys),
        ("not of this run", found_keys - expected_keys),
    ):
        if keys:
            shown = ", ".join("/".join(map(str, key)) for key in sorted(keys)[:5])
            raise IntegrityError(
                f"{stage}: {len(keys)} of {len(expected_keys)} rows are {problem}, e.g. {shown}; run the "
                "same command again"
            )


def _complete_identities(before: Any, after: Any) -> Any:
    """A fingerprint of before, its models' identities completed by the part that earlier releases lacked.

    They hashed blocks of the weights alone (``models.identity``): what they can tell apart stays apart.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return {name: _complete_identities(value, after.get(name)) for name, value in before.items()}
    if isinstance(before, str) and isinstance(after, str) and _SAMPLED_IDENTITY.fullmatch(before):
        return after if after.startswith(f"{before}+blake3:") else before
    return before


def diff(old: Mapping[str, object], new: Mapping[str, object], prefix: str = "") -> list[str]:
    """The differences between two nested dicts, one ``name: old → new`` each."""
    lines: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        before = old.get(name)
        after = new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += diff(before, after, f"{prefix}{name}.")
        elif before != after:
            lines.append(f"{prefix}{name}: {before!r} → {after!r}")
    return lines


def remove(folder: UPath) -> None:
    """Remove a folder and its content; no error where there is none."""
    if is_local(folder):
        shutil.rmtree(folder.path, ignore_errors=True)
    elif folder.exists():
        folder.fs.rm(folder.path, recursive=True)
