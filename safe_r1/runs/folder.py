"""A run folder: its fingerprint, its shards, and the marker that says it is complete.

``OUTPUT/RUN/VARIANT/BENCHMARK/{samples,completions,verdicts}/*.parquet``, ``run.json``, ``metrics.json``, the
report, and ``_SUCCESS`` written last. Any fsspec URI serves as OUTPUT. A shard is named after the keys in it
and written atomically: a write that is killed leaves nothing, and one that is repeated replaces itself. The
shards say what a resumed run has to do: there is no other record of what was done.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from upath import UPath

from safe_r1.errors import IntegrityError, RunConflictError, StorageError
from safe_r1.locks import run_lock
from safe_r1.redaction import hide_credentials, hide_secrets
from safe_r1.runs.files import as_path, is_regular, sha256, write_bytes, write_table
from safe_r1.runs.tables import Row, list_shards, read_table

SUCCESS = "_SUCCESS"
_SHOWN_DIFFERENCES = 6
_SAMPLED_IDENTITY = re.compile("sha256:[0-9a-f]{64}")
_DEPTH = 3  # OUTPUT/RUN/VARIANT/BENCHMARK
LAYOUT = "OUTPUT, OUTPUT/RUN, OUTPUT/RUN/VARIANT or OUTPUT/RUN/VARIANT/BENCHMARK"
"""What ``find_runs`` takes, for messages."""
JsonObject = dict[str, Any]
"""Content of a JSON file."""
Key = tuple[Any, ...]
"""Identity of a row within a stage."""


@dataclass(frozen=True)
class RunFolder:
    """One variant on one benchmark, on disk or in an object store."""

    path: UPath

    @classmethod
    def locate(cls, output: str, run: str, variant: str, benchmark: str) -> "RunFolder":
        """The folder of a run, which need not exist."""
        return cls(as_path(output) / run / variant / benchmark)

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
            if not is_regular(path):
                # A pipe would be waited for.
                raise StorageError(f"cannot read {path}: no regular file")
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
    ) -> UPath:
        """Add rows to a stage as one Parquet shard, named after their keys; gives its path."""
        # Sorted: a batch that is computed again may have its rows in another order.
        name = sha256(sorted(key(row) for row in rows))[:16]
        path = self.path / stage / f"part-{name}.parquet"
        write_table(path, pa.Table.from_pylist(list(rows), schema=schema))
        return path

    def shards(self, stage: str) -> list[UPath]:
        """The Parquet files of a stage by name; empty before its first."""
        return list_shards(self.path, stage)

    def read_rows(self, stage: str, schema: pa.Schema) -> list[Row]:
        """All rows of a stage, in no particular order."""
        return [row for shard in self.shards(stage) for row in read_table(shard, schema=schema).to_pylist()]

    def keep_log(self, log: Path) -> None:
        """Copy a session's log into the folder, beside those of earlier sessions.

        Credentials in URLs are taken out: our own lines have none, those of libraries may.
        """
        text = log.read_text(encoding="utf-8", errors="replace")
        write_bytes(self.path / "logs" / log.name, hide_credentials(text).encode())

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
