import random
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from upath import UPath

from safe_r1.errors import IntegrityError, RunConflictError, StorageError
from safe_r1.runs import Key, Row, RunFolder, check_complete, diff, latest, read_table, write_table
from safe_r1.schema import COMPLETION_SCHEMA, VERDICT_SCHEMA, Completion, Sample


def verdict(
    sample_id: str = "b/mcq/1", repeat: int = 0, label: str | None = "correct", reason: str | None = None
) -> dict[str, Any]:
    return {
        "sample_id": sample_id,
        "variant": "v",
        "repeat": repeat,
        "part": "answer",
        "label": label,
        "degree": 1,
        "judge": "answer-key",
        "unscored_reason": reason,
        "choice": "A",
        "explanation": "",
        "confidence": None,
    }


def key(row: Row) -> Key:
    return row["sample_id"], row["repeat"], row["part"]


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    output = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}-{request.node.name}"
    return RunFolder.locate(output, "main", "v", "b")


def test_rows_come_back_from_any_filesystem(folder: RunFolder):
    rows = [verdict(), verdict("b/mcq/2")]
    folder.write_shard("verdicts", rows, VERDICT_SCHEMA, key)
    assert folder.read_rows("verdicts", VERDICT_SCHEMA) == rows


def test_a_repeated_write_replaces_itself(folder: RunFolder):
    for _ in range(2):
        folder.write_shard("verdicts", [verdict()], VERDICT_SCHEMA, key)
    assert len(folder.read_rows("verdicts", VERDICT_SCHEMA)) == 1


def test_a_half_written_shard_is_never_read(tmp_path: Path):
    folder = RunFolder.locate(str(tmp_path), "main", "v", "b")
    folder.write_shard("verdicts", [verdict()], VERDICT_SCHEMA, key)
    (tmp_path / "main/v/b/verdicts/part-0123.parquet.abcd.tmp").write_bytes(b"PAR1 half")
    assert len(folder.read_rows("verdicts", VERDICT_SCHEMA)) == 1


def test_the_same_settings_open_again(folder: RunFolder):
    folder.open({"seed": 1}, {"started_at": "then"})
    folder.open({"seed": 1}, {"started_at": "now"})
    run = folder.read_json("run.json")
    assert run is not None
    assert run["started_at"] == "then"


def test_other_settings_are_refused_with_the_difference(folder: RunFolder):
    folder.open({"generation": {"temperature": 0.6}, "seed": 1}, {})
    with pytest.raises(RunConflictError, match=r"generation\.temperature: 0\.6 → 0\.7") as caught:
        folder.open({"generation": {"temperature": 0.7}, "seed": 1}, {})
    assert "seed:" not in str(caught.value)


def test_a_mutable_part_may_change(folder: RunFolder):
    folder.open({"judge": {"kind": "lexicon"}, "seed": 1}, {"started_at": "then"})
    folder.open({"judge": {"kind": "llm"}, "seed": 1}, {"started_at": "now"}, mutable=("judge",))
    run = folder.read_json("run.json")
    assert run is not None
    assert (run["fingerprint"]["judge"]["kind"], run["started_at"]) == ("llm", "then")
    with pytest.raises(RunConflictError):
        folder.open({"judge": {"kind": "llm"}, "seed": 2}, {}, mutable=("judge",))


def test_complete_only_with_the_marker(folder: RunFolder):
    folder.open({}, {})
    assert not folder.is_complete
    folder.publish()
    assert folder.is_complete


def test_an_unwritable_output_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        RunFolder(UPath(tmp_path / "file" / "run")).write_text("run.json", "{}")


def test_a_damaged_run_file_is_named(tmp_path: Path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(StorageError, match=r"run\.json is damaged"):
        RunFolder(UPath(tmp_path)).open({}, {})


def test_a_final_row_wins_over_one_to_be_tried_again():
    rows = [verdict(label=None, reason="judge_error"), verdict(), verdict(label=None, reason="judge_error")]
    kept = latest(rows, key, lambda row: row["unscored_reason"] != "judge_error")
    assert [row["label"] for row in kept.values()] == ["correct"]


def test_missing_and_foreign_rows_are_named():
    with pytest.raises(IntegrityError, match=r"1 of 2 rows are missing, e\.g\. a/1"):
        check_complete("stage", [("a", 0), ("a", 1)], [("a", 0)])
    with pytest.raises(IntegrityError, match="not of this run"):
        check_complete("stage", [("a", 0)], [("a", 0), ("b", 0)])


def test_diff_walks_into_groups():
    assert diff({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == ["a.c: 2 → 3", "d: None → 4"]


def test_a_sample_survives_its_row():
    sample = Sample(
        "b/mcq/1",
        "b",
        "mcq",
        "values",
        "x",
        [{"role": "user", "content": "问"}],
        {"A": "是"},
        {"answer": "A"},
    )
    assert Sample.from_row(sample.to_row()) == sample


def test_columns_that_came_later_are_null_in_older_shards(folder: RunFolder):
    completion = Completion("b/mcq/1", "v", 0, 3, 4, "", "", "A", "stop", None)
    earlier = pa.schema([field for field in COMPLETION_SCHEMA if field.name not in ("blocked", "served_by")])
    row = {name: value for name, value in asdict(completion).items() if name in earlier.names}
    folder.write_shard("completions", [row], earlier, key=lambda row: (row["sample_id"],))
    assert [Completion(**row) for row in folder.read_rows("completions", COMPLETION_SCHEMA)] == [completion]


@pytest.mark.parametrize("num_bytes", [0, 1, 200])
def test_a_cut_off_shard_is_one_clear_line(tmp_path: Path, num_bytes: int):
    shard = UPath(tmp_path / "part.parquet")
    write_table(shard, pa.table({"text": ["a" * 500]}))
    assert len(read_table(shard)) == 1
    shard.write_bytes(shard.read_bytes()[:num_bytes])
    with pytest.raises(StorageError, match=r"part\.parquet: no whole Parquet file"):
        read_table(shard)


def test_equal_rows_are_equal_bytes_however_they_are_chunked(tmp_path: Path):
    rng = random.Random(5)
    rows = [
        {
            "text": None if rng.random() < 0.1 else "字" * rng.randint(0, 300),
            "turns": [{"role": "user", "content": str(number)}] * rng.randint(0, 3),
            "number": None if rng.random() < 0.5 else number,
        }
        for number in range(3000)
    ]
    table = pa.Table.from_pylist(rows)
    found: set[bytes] = set()
    for trial in range(10):
        cuts = sorted(rng.sample(range(1, len(rows)), rng.randint(0, 40)))
        pieces = [table.slice(start, end - start) for start, end in pairwise([0, *cuts, len(rows)])]
        if trial % 2:
            # Other buffers: rows of a file, rows from Python.
            pieces = [pa.Table.from_pylist(piece.to_pylist(), schema=table.schema) for piece in pieces]
        path = UPath(tmp_path / f"{trial}.parquet")
        write_table(path, pa.concat_tables(pieces))
        found.add(path.read_bytes())
        assert read_table(path).to_pylist() == rows
    assert len(found) == 1


def test_a_copied_log_has_no_credentials(tmp_path: Path):
    log = tmp_path / "job.log"
    log.write_bytes("拒绝 https://user:geheim@host/v1?key=geheim again\n".encode() + b"\xff\n")
    folder = RunFolder(UPath(tmp_path / "run"))
    folder.keep_log(log)
    kept = (tmp_path / "run" / "logs" / "job.log").read_text("utf-8")
    assert "geheim" not in kept
    assert kept.startswith("拒绝 https://host/v1")
    assert kept.endswith("\ufffd\n")
