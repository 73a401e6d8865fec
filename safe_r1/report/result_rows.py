"""The results of a run as rows, one a completion, joined from its shards in bounded memory.

A join needs the question and the verdicts of a completion, which lie in other shards. They pass through a
temporary SQLite database that spills to disk: memory stays the same for a thousand rows and for a million.
"""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from upath import UPath

from safe_r1.errors import IntegrityError, StorageError
from safe_r1.report.labels import BilingualName, benchmark_labels
from safe_r1.runs import STAGE_SCHEMAS, Row, RunFolder, damage_error, is_regular
from safe_r1.schema import COMPLETION_SCHEMA, SAMPLE_SCHEMA, TRIED_AGAIN, Message, Sample, Unscored

RESULT_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), False),
        pa.field("repeat", pa.int32(), False),
        pa.field("variant", pa.string(), False),
        pa.field("benchmark", pa.string(), False),
        pa.field("task", pa.string(), False),
        pa.field("area", pa.string(), False),
        ("area_zh", pa.string()),
        ("area_en", pa.string()),
        pa.field("category", pa.string(), False),
        ("category_zh", pa.string()),
        ("category_en", pa.string()),
        ("question", pa.string()),
        ("options", pa.string()),
        ("reasoning", pa.string()),
        ("answer", pa.string()),
        ("label", pa.string()),
        ("degree", pa.int8()),
        ("reasoning_label", pa.string()),
        ("choice", pa.string()),
        ("expected_answer", pa.string()),
        ("confidence", pa.float64()),
        ("judge", pa.string()),
        pa.field("truncated", pa.bool_(), False),
        pa.field("cut", pa.bool_(), False),
        pa.field("failed", pa.bool_(), False),
        pa.field("blocked", pa.bool_(), False),
        ("blocked_by", pa.string()),
        ("unscored_reason", pa.string()),
        ("error", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
    ]
)
"""Columns of an export, in order.

``question`` is the whole dialogue, ``options`` one a line; ``choice`` and ``expected_answer`` are letters of
these options, also where a repeat showed them in another order. ``confidence`` is null for judges that give
none. Of ``truncated``, ``failed`` and ``blocked`` at most one is true; ``cut`` is every completion that the
token limit ended, in its reasoning or its answer; ``blocked_by`` says which side the provider's filter took.
"""

_BATCH_ROWS = 128
_CACHE_KIB = 32 << 10
# Of a verdict only what a row of the export holds; "confidence" where the run has it.
_VERDICT_COLUMNS = (
    "sample_id",
    "repeat",
    "part",
    "label",
    "degree",
    "judge",
    "unscored_reason",
    "choice",
    "confidence",
)
_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE samples (sample_id TEXT NOT NULL PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE completions (
  sample_id TEXT NOT NULL, repeat INTEGER NOT NULL, is_final INTEGER NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (sample_id, repeat)
);
CREATE TABLE verdicts (
  sample_id TEXT NOT NULL, repeat INTEGER NOT NULL, part TEXT NOT NULL, is_final INTEGER NOT NULL,
  body BLOB NOT NULL, PRIMARY KEY (sample_id, repeat, part)
);
"""
# As `safe_r1.runs.latest`: the first row of a key, unless that one may be tried again and this one is final.
_ADD = """
INSERT INTO {table} ({columns}, is_final, body) VALUES ({marks}) ON CONFLICT DO UPDATE
SET is_final = excluded.is_final, body = excluded.body WHERE excluded.is_final AND NOT {table}.is_final
"""
# CROSS JOIN holds SQLite to this order of loops, so that rows come sorted without being sorted.
_JOIN = """
SELECT samples.body, completions.body, answers.body, reasonings.body
FROM samples CROSS JOIN completions ON completions.sample_id = samples.sample_id
CROSS JOIN verdicts AS answers ON answers.sample_id = completions.sample_id
  AND answers.repeat = completions.repeat AND answers.part = 'answer'
LEFT JOIN verdicts AS reasonings ON reasonings.sample_id = completions.sample_id
  AND reasonings.repeat = completions.repeat AND reasonings.part = 'reasoning'
ORDER BY samples.sample_id, completions.repeat
"""
_KNOWN = "SELECT 1 FROM {table} AS known WHERE known.sample_id = of.sample_id"
_CHECKS = {
    "completions of unknown samples": "completions AS of WHERE NOT EXISTS "
    f"({_KNOWN.format(table='samples')})",
    "completions without a verdict on their answer": "completions AS of WHERE NOT EXISTS "
    f"({_KNOWN.format(table='verdicts')} AND known.repeat = of.repeat AND known.part = 'answer')",
    "verdicts without a completion": "verdicts AS of WHERE NOT EXISTS "
    f"({_KNOWN.format(table='completions')} AND known.repeat = of.repeat)",
    "samples without a completion in a repeat": "(SELECT sample_id, repeat FROM samples CROSS JOIN "
    "(SELECT DISTINCT repeat FROM completions)) AS of WHERE NOT EXISTS "
    f"({_KNOWN.format(table='completions')} AND known.repeat = of.repeat)",
}


class ResultRows:
    """The joined rows of one run; a context manager, as it owns a temporary database.

    Attributes:
        num_rows: Completions of the run, each once: as many rows as an iteration gives.
    """

    def __init__(self, folder: RunFolder, show: Callable[[Sequence[Message]], str] | None = None):
        """Open the database.

        Args:
            folder: The run.
            show: Makes the text of a question of its dialogue; None: ``dialogue_text``.
        """
        self.folder = folder
        self._show = show or dialogue_text
        self.num_rows = 0
        info = folder.read_json("run.json") or {}
        self._labels = benchmark_labels(str(info.get("benchmark", "")), info)
        # The empty name: a private file of SQLite's, in memory until it outgrows the cache.
        self._database = sqlite3.connect("")
        self._packer = zstandard.ZstdCompressor(level=1)
        self._unpacker = zstandard.ZstdDecompressor()

    def __enter__(self) -> "ResultRows":
        """Read the shards and check that every completion has its question and its verdict.

        Raises:
            IntegrityError: Rows are missing, doubled or surplus.
            StorageError: A shard cannot be read, or there is no room for temporary files.
        """
        try:
            with _temporary_room():
                self._database.executescript(f"PRAGMA cache_size = -{_CACHE_KIB};{_TABLES}")
                self._read()
                self._check()
        except BaseException:
            self._database.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def __iter__(self) -> Iterator[Row]:
        """The rows with the columns of ``RESULT_SCHEMA``, by sample id, then by repeat.

        That order depends on no shard: the same results give the same files, however they were written.
        """
        name_of = cache(self._labels.name)
        with _temporary_room():
            for sample, completion, answer, reasoning in self._database.execute(_JOIN):
                yield _result_row(
                    Sample.from_row(self._unpack(sample)),
                    self._unpack(completion),
                    self._unpack(answer),
                    self._unpack(reasoning) if reasoning else None,
                    name_of,
                    self._show,
                )

    def _read(self) -> None:
        for row in _read_stage(self.folder, "samples", SAMPLE_SCHEMA.names):
            # The tests of a programming problem may be megabytes.
            row["metadata"] = [entry for entry in row["metadata"] if entry["name"] == "answer"]
            try:
                self._database.execute(
                    "INSERT INTO samples (sample_id, body) VALUES (?, ?)", (row["sample_id"], self._pack(row))
                )
            except sqlite3.IntegrityError:
                raise IntegrityError(
                    f"{self.folder.path}: sample {row['sample_id']} is given twice; expected each key once"
                ) from None
        for row in _read_stage(self.folder, "completions", COMPLETION_SCHEMA.names):
            # The raw text is needed in one case only, and is otherwise the same text once more.
            if row["answer"] is not None or row["reasoning"]:
                del row["completion"]
            self._add("completions", ("sample_id", "repeat"), row, row["error"] is None)
        for row in _read_stage(self.folder, "verdicts", _VERDICT_COLUMNS):
            is_final = row["unscored_reason"] not in TRIED_AGAIN
            self._add("verdicts", ("sample_id", "repeat", "part"), row, is_final)

    def _add(self, table: str, key: Sequence[str], row: Row, is_final: bool) -> None:
        marks = ", ".join("?" * (len(key) + 2))
        statement = _ADD.format(table=table, columns=", ".join(key), marks=marks)
        self._database.execute(statement, (*(row[name] for name in key), is_final, self._pack(row)))

    def _check(self) -> None:
        for problem, source in _CHECKS.items():
            found = self._database.execute(f"SELECT of.sample_id FROM {source}").fetchmany(5)
            if found:
                shown = ", ".join(sample_id for (sample_id,) in found)
                raise IntegrityError(
                    f"{self.folder.path}: {problem}, e.g. {shown}; run safe-r1 repair on it, then the "
                    "same evaluation again"
                )
        [(self.num_rows,)] = self._database.execute("SELECT count(*) FROM completions")
        if not self.num_rows:
            raise IntegrityError(f"{self.folder.path}: no completions, so nothing to export")

    def _pack(self, row: Row) -> bytes:
        return self._packer.compress(json.dumps(row, ensure_ascii=False).encode())

    def _unpack(self, body: bytes) -> Row:
        return json.loads(self._unpacker.decompress(body))


def _read_stage(folder: RunFolder, stage: str, columns: Collection[str]) -> Iterator[Row]:
    """The rows of a stage, read a hundred or so at a time; a column that an old run lacks is absent."""
    schema = pa.schema([field for field in STAGE_SCHEMAS[stage] if field.name in columns])
    for shard in folder.shards(stage):
        yield from _read_shard(shard, schema)


def _read_shard(shard: UPath, schema: pa.Schema) -> Iterator[Row]:
    if not is_regular(shard):
        raise damage_error(shard, "no regular file")
    try:
        with shard.open("rb") as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            known = pa.schema([field for field in schema if field.name in parquet.schema_arrow.names])
            if lacking := [
                field.name for field in schema if not field.nullable and field.name not in known.names
            ]:
                raise damage_error(shard, f"column {lacking[0]} is missing")
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=known.names):
                table = pa.Table.from_batches([batch]).cast(known)
                table.validate(full=True)
                yield from table.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.strerror:
            raise StorageError(f"cannot read {shard}: {error.strerror}") from None
        raise damage_error(shard, "no whole Parquet file with the expected columns") from None


@contextlib.contextmanager
def _temporary_room() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(
            f"export: temporary data cannot be kept ({error}); set SQLITE_TMPDIR to a folder with more room"
        ) from None


def _result_row(
    sample: Sample,
    completion: Row,
    answer: Row,
    reasoning: Row | None,
    name_of: Callable[[str], BilingualName],
    show: Callable[[Sequence[Message]], str],
) -> Row:
    reason = answer["unscored_reason"]
    area = name_of(sample.area)
    category = name_of(sample.category)
    # Without reasoning tags the raw text of a truncated completion is all there is.
    thought = completion["reasoning"] or completion.get("completion") or ""
    return {
        "sample_id": sample.sample_id,
        "repeat": completion["repeat"],
        "variant": completion["variant"],
        "benchmark": sample.benchmark,
        "task": sample.task,
        "area": sample.area,
        "area_zh": area.zh,
        "area_en": area.en,
        "category": sample.category,
        "category_zh": category.zh,
        "category_en": category.en,
        "question": show(sample.messages),
        "options": "\n".join(f"{letter}. {text}" for letter, text in sample.options.items()),
        "reasoning": thought,
        "answer": completion["answer"],
        "label": answer["label"],
        "degree": answer["degree"],
        "reasoning_label": reasoning["label"] if reasoning else None,
        "choice": answer.get("choice"),
        "expected_answer": sample.metadata.get("answer"),
        "confidence": answer.get("confidence"),
        "judge": answer["judge"],
        "truncated": reason == Unscored.TRUNCATED,
        "cut": completion["finish_reason"] == "length",
        "failed": reason == Unscored.FAILED,
        "blocked": reason == Unscored.BLOCKED,
        "blocked_by": completion.get("blocked") if reason == Unscored.BLOCKED else None,
        "unscored_reason": reason,
        "error": completion["error"],
        "finish_reason": completion["finish_reason"],
        "prompt_tokens": completion["prompt_tokens"],
        "completion_tokens": completion["completion_tokens"],
    }


def dialogue_text(messages: Sequence[Message]) -> str:
    """A dialogue as one text: a single question as it is, several turns each below its role."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in messages)
