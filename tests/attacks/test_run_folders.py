"""Run folders with damaged shards: all are named, moved aside by one command, and alone done again."""

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from upath import UPath

from safe_r1.benchmarks import Benchmark
from safe_r1.benchmarks.base import BaseBenchmark, Workload
from safe_r1.cli import app
from safe_r1.config import EvaluateConfig
from safe_r1.errors import DamagedFileError, RunConflictError, SafeR1Error
from safe_r1.evaluation.missing import missing_requests
from safe_r1.evaluation.panels import judge_again
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.publish import rewrite_report
from safe_r1.evaluation.rejudge import RejudgeConfig
from safe_r1.evaluation.repair import repair
from safe_r1.evaluation.results import completion_key, sample_key, verdict_key
from safe_r1.evaluation.run_rows import read_results_hash
from safe_r1.evaluation.sample_index import index_samples, store_samples
from safe_r1.evaluation.stage_index import index_completions, index_verdicts
from safe_r1.evaluation.units import scoring_units
from safe_r1.locks import run_lock
from safe_r1.locks.run_lock import NAME
from safe_r1.runs import STAGE_SCHEMAS, Key, Row, RunFolder, judge_folders, read_table, write_table
from safe_r1.schema import Sample
from tests.unit.compare.runs import refusal_samples, write_run

NUM = 24
NUM_SHARDS = 4
KEYS: dict[str, Callable[[Row], Key]] = {
    "samples": sample_key,
    "completions": completion_key,
    "verdicts": verdict_key,
}


def reshard(folder: RunFolder, stage: str, num: int) -> None:
    """Spread the rows of a stage over several files."""
    [shard] = folder.shards(stage)
    rows = read_table(shard).to_pylist()
    shard.unlink()
    for start in range(num):
        folder.write_shard(stage, rows[start::num], STAGE_SCHEMAS[stage], KEYS[stage])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a further judge; each stage has several files."""
    root = tmp_path_factory.mktemp("whole")
    run = write_run(root, "m", "asked", samples=refusal_samples(NUM), skill=0.6)
    for stage in KEYS:
        reshard(RunFolder(UPath(run)), stage, NUM_SHARDS)
    rewrite_report(str(run))
    judge_again(RejudgeConfig(run=str(run)), lambda _: None)
    return root


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> RunFolder:
    shutil.copytree(whole, tmp_path / "runs")
    return RunFolder.locate(str(tmp_path / "runs"), "main", "m", "asked")


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def without_ids(content: bytes) -> bytes:
    table = pq.read_table(pa.BufferReader(content))
    return parquet(table.drop_columns(["sample_id"]))


def as_numbers(content: bytes) -> bytes:
    table = pq.read_table(pa.BufferReader(content))
    return parquet(pa.table({name: pa.array([[0.5]] * len(table)) for name in table.column_names}))


def no_text(content: bytes) -> bytes:
    """Ids that are not UTF-8."""
    table = pq.read_table(pa.BufferReader(content))
    ids = pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string())
    return parquet(table.set_column(0, "sample_id", ids))


def flipped(content: bytes) -> bytes:
    """One bit of the first page's content."""
    place = 40
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated": lambda content: content[: len(content) * 2 // 3],
    "without its last byte": lambda content: content[:-1],
    "zeroed": lambda content: bytes(len(content)),
    "zeroed inside": lambda content: content[:8] + bytes(len(content) - 16) + content[-8:],
    "a page zeroed": lambda content: content[:30] + bytes(30) + content[60:],
    "a bit flipped": flipped,
    "text": lambda _: "不是 Parquet".encode(),
    "JSON": lambda _: b'{"sample_id": 1}',
    "deep JSON": lambda _: b"[" * 100_000,
    "magic alone": lambda _: b"PAR1PAR1",
    "no ids": without_ids,
    "numbers for texts": as_numbers,
    "no UTF-8": no_text,
    "another table": lambda _: parquet(pa.table({"a": [1, 2]})),
}


def damage(shard: UPath, way: str) -> None:
    shard.write_bytes(DAMAGE[way](shard.read_bytes()))


def below(run: RunFolder, shard: UPath) -> str:
    return shard.path.removeprefix(run.path.path + "/")


def check_named(message: str, run: RunFolder, files: Sequence[UPath]) -> None:
    assert "\n" not in message
    assert f"safe-r1 repair {run.path}" in message
    others = [each for stage in KEYS for each in run.shards(stage) if each not in files]
    assert all(f" {below(run, each)} (" in message for each in files), message
    assert not [each for each in others if f" {below(run, each)} (" in message], message


def redo(whole: Path, run: RunFolder) -> None:
    """What the same evaluation does: exactly the rows that are missing, as they would come again."""
    source = RunFolder.locate(str(whole), "main", "m", "asked")
    store_samples(
        run, [Sample.from_row(row) for row in source.read_rows("samples", STAGE_SCHEMAS["samples"])]
    )
    for stage in ("completions", "verdicts"):
        known = {KEYS[stage](row) for row in run.read_rows(stage, STAGE_SCHEMAS[stage])}
        rows = [row for row in source.read_rows(stage, STAGE_SCHEMAS[stage]) if KEYS[stage](row) not in known]
        if rows:
            run.write_shard(stage, rows, STAGE_SCHEMAS[stage], KEYS[stage])
    run.publish()


@pytest.mark.parametrize("stage", KEYS)
@pytest.mark.parametrize("way", DAMAGE)
def test_a_damaged_shard_is_named_moved_and_done_again(whole: Path, run: RunFolder, stage: str, way: str):
    before = read_results_hash(run)
    shard = run.shards(stage)[1]
    damage(shard, way)
    with pytest.raises(DamagedFileError) as caught:
        read_results_hash(run)
    check_named(caught.value.shown, run, [shard])
    [repaired] = repair(str(run.path))
    assert [each.path for each in repaired.damaged] == [shard]
    assert not run.is_complete
    moved = run.path / "damaged" / below(run, shard)
    assert moved.exists()
    assert not shard.exists()
    per_shard = NUM // NUM_SHARDS
    assert repaired.left[stage] == NUM - per_shard
    # Verdicts go with their completion, as a verdict is about one text.
    lost = per_shard if stage == "completions" else 0
    assert repaired.dropped["verdicts"] == lost
    assert repaired.left["verdicts"] == NUM - (0 if stage == "samples" else per_shard)
    assert repair(str(run.path))[0].lines == [f"{run.path}: no damaged file"]
    redo(whole, run)
    assert read_results_hash(run) == before


@pytest.mark.parametrize("of_judge", [False, True])
def test_a_run_that_a_job_works_on_is_not_repaired(
    run: RunFolder, of_judge: bool, monkeypatch: pytest.MonkeyPatch
):
    damage(run.shards("verdicts")[0], next(iter(DAMAGE)))
    folder = judge_folders(run.path)[0] if of_judge else run.path
    now = iter(range(10**6))
    alive = {"token": "t", "host": "another-host", "space": "s", "pid": 1, "ticks": 1, "started_at": "2026"}

    def beat(seconds: float) -> None:
        (folder / NAME).write_text(json.dumps(alive | {"beat": next(now)}))

    monkeypatch.setattr(run_lock, "time", SimpleNamespace(monotonic=lambda: next(now), sleep=beat))
    beat(0)
    with pytest.raises(RunConflictError, match="another-host"):
        repair(str(run.path))
    assert not (run.path / "damaged").exists()


@pytest.mark.parametrize("kind", ["folder", "pipe"])
@pytest.mark.parametrize("stage", KEYS)
def test_what_is_no_file_is_not_waited_for(whole: Path, run: RunFolder, stage: str, kind: str):
    shard = run.shards(stage)[0]
    shard.unlink()
    make = {"folder": os.mkdir, "pipe": os.mkfifo}
    make[kind](shard.path)
    with pytest.raises(DamagedFileError, match="no regular file"):
        read_results_hash(run)
    repair(str(run.path))
    redo(whole, run)
    read_results_hash(run)


def commands(root: Path, run: RunFolder) -> dict[str, tuple[str, ...]]:
    path = str(run.path)
    other = str(write_run(root / "other", "base", "asked", samples=refusal_samples(NUM)))
    return {
        "report": ("report", path),
        "export": ("export", path, "--output", str(root / "tables")),
        "compare": ("compare", path, other, "--baseline", "base", "--output", str(root / "comparison")),
        "label-sample": ("label-sample", path, "--n", "4"),
        "gate": ("gate", path, "--min", "rr-1=1"),
    }


def message_of(arguments: Sequence[str]) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, SafeR1Error), (arguments, result.output, result.exception)
    assert result.exception.exit_code == 2
    return result.exception.shown


def test_every_command_names_all_damaged_files(run: RunFolder, tmp_path: Path):
    files = [run.shards(stage)[2] for stage in KEYS]
    for shard, way in zip(files, ("truncated", "empty", "no ids"), strict=True):
        damage(shard, way)
    for arguments in commands(tmp_path, run).values():
        check_named(message_of(arguments), run, files)
    with pytest.raises(DamagedFileError) as caught:
        judge_again(RejudgeConfig(run=str(run.path), judge_rule="strictest"), lambda _: None)
    check_named(caught.value.shown, run, files)
    result = CliRunner().invoke(app, ["repair", str(run.path)])
    assert result.exit_code == 0, result.output
    assert all(below(run, each) in result.output for each in files)


def test_a_further_judge_loses_what_the_run_lost_and_no_more(whole: Path, run: RunFolder):
    [folder] = [RunFolder(each) for each in (run.path / "judges").iterdir()]
    damage(run.shards("completions")[0], "truncated")
    [repaired] = repair(str(run.path))
    per_shard = NUM // NUM_SHARDS
    assert repaired.dropped == {"verdicts": per_shard, f"verdicts of {folder.path.name}": per_shard}
    assert not folder.is_complete
    redo(whole, run)
    rewrite_report(str(run.path))
    [again] = judge_again(RejudgeConfig(run=str(run.path)), lambda _: None)[0]
    assert not again.was_complete
    assert len(folder.read_rows("verdicts", STAGE_SCHEMAS["verdicts"])) == NUM


def test_a_run_stays_finished_when_a_further_judge_alone_is_damaged(run: RunFolder):
    [folder] = [RunFolder(each) for each in (run.path / "judges").iterdir()]
    shard = folder.shards("verdicts")[0]
    damage(shard, "zeroed")
    check_named(message_of(("report", str(run.path))), run, [shard])
    repair(str(run.path))
    assert run.is_complete
    assert not folder.is_complete
    judge_again(RejudgeConfig(run=str(run.path)), lambda _: None)
    assert folder.is_complete


def test_rows_of_another_run_are_damage(whole: Path, run: RunFolder, tmp_path: Path):
    before = read_results_hash(run)
    other = RunFolder(UPath(write_run(tmp_path / "other", "m", "math-500")))
    for stage in ("completions", "verdicts"):
        [shard] = other.shards(stage)
        target = run.path / stage / "part-of-another.parquet"
        target.write_bytes(shard.read_bytes())
        with pytest.raises(DamagedFileError, match="not of this run"):
            read_results_hash(run)
        [repaired] = repair(str(run.path))
        assert [each.path.name for each in repaired.damaged] == ["part-of-another.parquet"]
        assert not repaired.dropped
    redo(whole, run)
    assert read_results_hash(run) == before


def test_a_file_that_was_removed_by_hand_takes_its_verdicts_along(whole: Path, run: RunFolder):
    run.shards("completions")[0].unlink()
    [repaired] = repair(str(run.path))
    assert repaired.dropped["verdicts"] == NUM // NUM_SHARDS
    redo(whole, run)
    read_results_hash(run)


def test_a_repair_that_was_stopped_is_repeated(run: RunFolder, monkeypatch: pytest.MonkeyPatch):
    """After each move; a completion is never gone before its verdict."""
    damage(run.shards("completions")[0], "empty")
    damage(run.shards("verdicts")[0], "empty")
    moves = 0

    def move(source: RunFolder, file: UPath) -> None:
        nonlocal moves
        real(source, file)
        moves += 1
        raise KeyboardInterrupt

    from safe_r1.evaluation import repair as module

    real = module._move
    monkeypatch.setattr(module, "_move", move)
    for _ in range(100):
        try:
            repair(str(run.path))
            break
        except KeyboardInterrupt:
            assert not run.is_complete
            keys = {completion_key(row) for shard in intact(run, "completions") for row in shard}
            is_moved = len(run.shards("completions")) < NUM_SHARDS
            orphans = [
                row for rows in intact(run, "verdicts") for row in rows if completion_key(row) not in keys
            ]
            assert not (is_moved and orphans)
    else:
        raise AssertionError("it never ends")
    assert moves >= 3
    assert repair(str(run.path))[0].lines == [f"{run.path}: no damaged file"]


def intact(run: RunFolder, stage: str) -> list[list[Row]]:
    return [read_table(each).to_pylist() for each in run.shards(stage) if each.stat().st_size]


def test_an_earlier_file_of_that_name_in_damaged_stays(run: RunFolder):
    shard = run.shards("verdicts")[0]
    content = shard.read_bytes()
    for number in range(3):
        shard.write_bytes(b"%d" % number)
        repair(str(run.path))
    shard.write_bytes(content)
    assert sorted(each.read_bytes() for each in (run.path / "damaged" / "verdicts").iterdir()) == [
        b"0",
        b"1",
        b"2",
    ]


def test_a_path_without_a_run_is_one_line(tmp_path: Path):
    assert "no run found" in message_of(("repair", str(tmp_path)))


class Scored(BaseBenchmark):
    name = "asked"
    title = "asked"
    workload = Workload(10, 10)


def test_the_same_evaluation_asks_only_what_is_missing(whole: Path, run: RunFolder):
    lost = {row["sample_id"] for row in read_table(run.shards("completions")[1]).to_pylist()}
    damage(run.shards("completions")[1], "truncated")
    damage(run.shards("samples")[0], "zeroed")
    unjudged = {row["sample_id"] for row in read_table(run.shards("verdicts")[3]).to_pylist()} | lost
    damage(run.shards("verdicts")[3], "empty")
    repair(str(run.path))
    source = RunFolder.locate(str(whole), "main", "m", "asked")
    questions = [Sample.from_row(row) for row in source.read_rows("samples", STAGE_SCHEMAS["samples"])]
    samples = store_samples(run, questions)
    plan = SimpleNamespace(
        benchmarks={"asked": cast(Benchmark, Scored())},
        folders={"asked": run},
        repeats=lambda _: 1,
        max_tokens=lambda *_: 8,
        config=EvaluateConfig(variant="demo"),
    )
    batches = missing_requests(cast(EvaluationPlan, cast(Any, plan)), {"asked": samples}, 5)
    asked = [request for batch in batches for request in batch.read()]
    assert {json.loads(each.key)["sample_id"] for each in asked} == lost
    assert len(asked) == len(lost)
    redo_completions(source, run, lost)
    completions = index_completions(run, samples)
    units = scoring_units("asked", samples, completions, index_verdicts(run, samples), 1, ("answer",))
    pending = [each.sample.sample_id for unit in units for each in unit.read()]
    assert sorted(pending) == sorted(unjudged)


def redo_completions(source: RunFolder, run: RunFolder, ids: set[str]) -> None:
    schema = STAGE_SCHEMAS["completions"]
    rows = [row for row in source.read_rows("completions", schema) if row["sample_id"] in ids]
    run.write_shard("completions", rows, schema, completion_key)


@settings(max_examples=60)
@given(place=st.integers(1_000, 99_000), change=st.integers(1, 255))
def test_a_changed_byte_of_texts_never_passes_for_the_text(place: int, change: int, long_texts: UPath):
    """By the checksum of its page; the first kilobyte has the page's header."""
    whole = long_texts.read_bytes()
    content = bytearray(whole)
    content[place] ^= change
    file = long_texts.with_name("changed.parquet")
    file.write_bytes(bytes(content))
    with pytest.raises(DamagedFileError, match="no whole Parquet file"):
        read_table(file)


@pytest.fixture(scope="module")
def long_texts(tmp_path_factory: pytest.TempPathFactory) -> UPath:
    """One page of more than 100 KB."""
    file = UPath(tmp_path_factory.mktemp("texts") / "whole.parquet")
    texts = [random.Random(number).randbytes(20).hex() for number in range(10_000)]
    write_table(file, pa.table({"text": texts}))
    assert file.stat().st_size > 100_000
    return file


def test_an_index_of_samples_needs_all_of_them(run: RunFolder):
    damage(run.shards("samples")[0], "numbers for texts")
    with pytest.raises(DamagedFileError, match="safe-r1 repair"):
        index_samples(run)
