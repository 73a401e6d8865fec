"""A run folder: its fingerprint, its shards, and the marker that says it is complete.

``OUTPUT/RUN/VARIANT/BENCHMARK/{samples,completions,verdicts}/*.parquet``, ``run.json``, ``metrics.json``, the
report, and ``_SUCCESS`` written last. Any fsspec URI serves as OUTPUT. A shard is named after the keys in it
and appears at once, so a write that is killed leaves nothing and one that is repeated replaces itself. What a
resume has to do is read from the shards: there is no second book of what was done.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from safe_r1.errors import IntegrityError, RunConflictError, StorageError

SUCCESS = "_SUCCESS"
Row = dict[str, Any]
Key = tuple[Any, ...]


def sha256(value: Any) -> str:
    """Hash of a value by its canonical JSON."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()
    ).hexdigest()


def is_local(path: UPath) -> bool:
    """True for a path of this machine's file system."""
    return path.protocol in ("", "file", "local")


def write_bytes(path: UPath, content: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    An object store shows an object when its upload is complete; on a file system a rename does the same.

    Raises:
        StorageError: The place cannot be written.
    """
    try:
        if is_local(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = f"{path.path}.{uuid.uuid4().hex[:8]}.tmp"
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path.path)
        else:
            path.write_bytes(content)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; choose another --output or free the place"
        ) from None


def write_table(path: UPath, table: pa.Table) -> None:
    """Write a Parquet file so that it is there whole or not at all; equal tables give equal bytes.

    Raises:
        StorageError: The place cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def read_table(path: UPath, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, or some of its columns."""
    with path.open("rb") as file:
        return pq.read_table(file, columns=list(columns) if columns else None)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class RunFolder:
    """One variant on one benchmark, on disk or in an object store."""

    path: UPath

    @classmethod
    def locate(cls, output: str, run: str, variant: str, benchmark: str) -> "RunFolder":
        """The folder of a run, whether it exists or not."""
        return cls(UPath(output) / run / variant / benchmark)

    @property
    def is_complete(self) -> bool:
        """True once everything is published."""
        return (self.path / SUCCESS).exists()

    def open(
        self,
        fingerprint: dict[str, Any],
        info: dict[str, Any],
        free: Sequence[str] = (),
        name: str = "run.json",
    ) -> None:
        """Create the folder, or check that it belongs to the same run.

        Args:
            fingerprint: Everything that could change a result, as nested dicts of plain values.
            info: What else the file shall hold.
            free: Parts of the fingerprint that nothing in the folder depends on yet, and that may therefore
                change.
            name: The file that holds both.

        Raises:
            RunConflictError: The folder holds a run with other settings; the message shows the difference.
            StorageError: The folder cannot be written.
        """
        old = self.read_json(name)
        if old is None:
            self.write_json(name, {**info, "fingerprint": fingerprint})
            return
        before, after = old.get("fingerprint", {}), json.loads(json.dumps(fingerprint, default=str))
        differences = diff({**before, **{name: after.get(name) for name in free}}, after)
        if differences:
            shown = "; ".join(differences[:6]) + (
                f"; and {len(differences) - 6} more" if len(differences) > 6 else ""
            )
            raise RunConflictError(
                f"{self.path} already holds a run with other settings ({shown}). Repeat it as it was, or give this one "
                "a name of its own: --set run=NAME, or another --output."
            )
        if before != after:
            self.write_json(name, {**old, **info, "started_at": old.get("started_at"), "fingerprint": after})

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder, or None where there is none."""
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except ValueError:
            raise StorageError(f"{path} is damaged (not JSON): remove the folder and run again") from None
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from None

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file at once."""
        self.write_text(name, json.dumps(value, ensure_ascii=False, indent=1, default=str) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file at once; lone surrogates in model output become replacement characters."""
        write_bytes(self.path / name, text.encode("utf-8", errors="replace"))

    def write_shard(
        self, stage: str, rows: Sequence[Row], schema: pa.Schema, key: Callable[[Row], Key]
    ) -> None:
        """Add rows to a stage as one Parquet shard, named after their keys."""
        name = sha256(sorted(key(row) for row in rows))[:16]
        write_table(
            self.path / stage / f"part-{name}.parquet", pa.Table.from_pylist(list(rows), schema=schema)
        )

    def shards(self, stage: str) -> list[UPath]:
        """The Parquet files of a stage by name; none where it has not begun."""
        # Not by glob: a folder's name may hold its special characters.
        folder = self.path / stage
        names = folder.iterdir() if folder.exists() else ()
        return sorted((path for path in names if path.name.endswith(".parquet")), key=lambda path: path.name)

    def read_rows(self, stage: str, schema: pa.Schema) -> list[Row]:
        """All rows of a stage, in no particular order."""
        return [row for shard in self.shards(stage) for row in read_table(shard, schema.names).to_pylist()]

    def keep_log(self, log: Path) -> None:
        """Copy a session's log beside the results; earlier sessions' logs stay."""
        write_bytes(self.path / "logs" / log.name, log.read_bytes())

    def publish(self) -> None:
        """Write the marker of a complete run; nothing is written after it."""
        self.write_text(SUCCESS, "")


def latest(rows: Iterable[Row], key: Callable[[Row], Key], is_final: Callable[[Row], bool]) -> dict[Key, Row]:
    """One row a key: a final one before one that may be tried again.

    A batch whose worker died after writing is computed again and may lie in two shards with the same content.
    """
    kept: dict[Key, Row] = {}
    for row in rows:
        known = kept.get(key(row))
        if known is None or (is_final(row) and not is_final(known)):
            kept[key(row)] = row
    return kept


def check_complete(stage: str, expected: Iterable[Key], found: Iterable[Key]) -> None:
    """Every expected key is there, and no other.

    Raises:
        IntegrityError: Keys are missing or foreign; some are named.
    """
    wanted, had = set(expected), set(found)
    for word, keys in (("missing", wanted - had), ("not of this run", had - wanted)):
        if keys:
            shown = ", ".join("/".join(map(str, key)) for key in sorted(keys)[:5])
            raise IntegrityError(
                f"{stage}: {len(keys)} of {len(wanted)} rows are {word}, e.g. {shown}; run the same command again"
            )


def diff(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The differences between two nested dicts, one ``name: old → new`` each."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += diff(before, after, f"{prefix}{name}.")
        elif before != after:
            lines.append(f"{prefix}{name}: {before!r} → {after!r}")
    return lines


def remove(folder: UPath) -> None:
    """Remove a folder and all in it; nothing where there is none."""
    if is_local(folder):
        shutil.rmtree(folder.path, ignore_errors=True)
    elif folder.exists():
        folder.fs.rm(folder.path, recursive=True)
