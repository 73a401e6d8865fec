"""Disks that are full at any write: one line, nothing half-written is left, and the same call works later.

A full disk is played by a limit on the size of files, which the system enforces like one, and where the
machine allows it by a small file system of its own.
"""

import ast
import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner
from upath import UPath

from safe_r1.cli import app
from safe_r1.errors import StorageError
from safe_r1.evaluation.panels import judge_again
from safe_r1.evaluation.publish import rewrite_report
from safe_r1.evaluation.rejudge import RejudgeConfig
from safe_r1.evaluation.repair import repair
from safe_r1.evaluation.results import completion_key
from safe_r1.inference.reply_cache import Reply, ReplyCache
from safe_r1.report.export import FORMATS, export_run
from safe_r1.runs import TEMPORARY_SUFFIX, RunFolder, write_table
from safe_r1.schema import COMPLETION_SCHEMA
from tests.unit.compare.runs import refusal_samples, write_run

ROOT = Path(__file__).parents[2]
# Modules that write files by other means, each for a reason.
OWN_WRITERS = {
    "safe_r1/runs/files.py",  # what all others use
    "safe_r1/report/export_files.py",  # into the temporary file of `runs.writing`
    "safe_r1/locks/run_lock.py",  # a file of a few bytes, which is taken over where it is left
    "safe_r1/models/fetch.py",  # parts of a download, which are gone on with
    "safe_r1/models/file_hashes.py",  # a cache that costs time alone
    "safe_r1/models/files.py",  # a staged folder in the cache
    "safe_r1/benchmarks/fetch.py",  # a staged folder
    "safe_r1/train/weight_stream.py",  # one object of a store, in a transaction
    "safe_r1/sandbox/container.py",  # inside the sandbox
    "safe_r1/sandbox/child.py",  # inside the sandbox
    "safe_r1/filing/workbook.py",  # into the temporary file of `runs.writing`
    "safe_r1/filing/bank_card.py",  # of the developers
    "safe_r1/reference.py",  # of the developers
    "safe_r1/judge/gold_errors.py",  # of the developers
    "safe_r1/judge/train_prompt_risk.py",  # of the developers
    "safe_r1/judge/train_lexicon.py",  # of the developers
}


@contextlib.contextmanager
def room_of(num_bytes: int) -> Iterator[None]:
    """No file can be longer than this. Python ignores the signal, so that a write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    run = write_run(root, "m", "asked", samples=refusal_samples(12), skill=0.6, text="长" * 500)
    rewrite_report(str(run))
    rewrite_report(str(write_run(root, "base", "asked", samples=refusal_samples(12), skill=0.4)))
    return root


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> RunFolder:
    shutil.copytree(whole, tmp_path / "runs")
    return RunFolder.locate(str(tmp_path / "runs"), "main", "m", "asked")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def changes_of(folder: Path) -> dict[str, int]:
    return {
        str(each.relative_to(folder)): each.stat().st_mtime_ns for each in folder.rglob("*") if each.is_file()
    }


def again(run: RunFolder) -> None:
    rewrite_report(str(run.path))


def exported(run: RunFolder) -> None:
    export_run(run, FORMATS)


def rejudged(run: RunFolder) -> None:
    judge_again(RejudgeConfig(run=str(run.path)), lambda _: None)


def invoked(*arguments: str) -> Callable[[RunFolder], None]:
    def call(run: RunFolder) -> None:
        other = run.path.parent.parent / "base" / "asked"
        given = [each.format(run=run.path, other=other, out=run.path / "out") for each in arguments]
        result = CliRunner().invoke(app, given)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code in (0, 3, 4), result.output

    return call


COMMANDS: dict[str, Callable[[RunFolder], None]] = {
    "report": again,
    "export": exported,
    "rejudge": rejudged,
    "compare": invoked("compare", "{run}", "{other}", "--baseline", "base", "--output", "{out}"),
    "label-sample": invoked("label-sample", "{run}", "--n", "12"),
    "gate": invoked("gate", "{run}", "--min", "rr-1=1", "--json", "{out}.json"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_is_full_at_any_write(name: str, run: RunFolder, tmp_path: Path):
    command = COMMANDS[name]
    shutil.copytree(tmp_path / "runs", tmp_path / "undisturbed")
    undisturbed = RunFolder.locate(str(tmp_path / "undisturbed"), "main", "m", "asked")
    before = changes_of(Path(undisturbed.path.path))
    command(undisturbed)
    after = files_of(Path(undisturbed.path.path))
    changed = changes_of(Path(undisturbed.path.path)).items() - before.items()
    written = sorted({len(after[path]) for path, _ in changed})
    assert written, "it writes nothing"
    # One byte less than each file takes: the disk is full at that one, and not at those that are shorter.
    for size in [0, *(size - 1 for size in written if size > 1)]:
        with room_of(size), pytest.raises(StorageError) as caught:
            command(run)
        assert "\n" not in caught.value.shown
        assert "free space" in caught.value.shown, caught.value.shown
        assert not [path for path in files_of(tmp_path) if path.endswith(TEMPORARY_SUFFIX)]
    command(run)
    assert files_of(Path(run.path.path)).keys() == after.keys()
    shards = [path for path in after if path.endswith(".parquet")]
    assert [path for path in shards if files_of(Path(run.path.path))[path] != after[path]] == []


@pytest.mark.parametrize("room", [0, 1, 100, 5000])
def test_a_file_of_before_stays_whole(tmp_path: Path, room: int):
    path = UPath(tmp_path / "中文 folder" / "a.parquet")
    write_table(path, pa.table({"a": [1]}))
    before = files_of(tmp_path)
    numbers = pa.array(os.urandom(8) for _ in range(5000))
    with room_of(room), pytest.raises(StorageError, match="free space") as caught:
        write_table(path, pa.table({"a": numbers}))
    assert str(path) in caught.value.shown
    assert files_of(tmp_path) == before
    write_table(path, pa.table({"a": numbers}))
    assert files_of(tmp_path) != before


def test_a_repair_on_a_full_disk_loses_nothing(run: RunFolder):
    [verdicts] = run.shards("verdicts")
    rows = run.read_rows("completions", COMPLETION_SCHEMA)
    [shard] = run.shards("completions")
    for half in (rows[:6], rows[6:]):
        run.write_shard("completions", half, COMPLETION_SCHEMA, completion_key)
    shard.unlink()
    run.shards("completions")[0].write_bytes(b"")
    before = files_of(Path(run.path.path))
    with room_of(10), pytest.raises(StorageError, match="free space"):
        repair(str(run.path))
    # The marker is gone, and nothing else.
    assert before.items() - files_of(Path(run.path.path)).items() == {("_SUCCESS", b"")}
    assert verdicts.exists()
    [repaired] = repair(str(run.path))
    assert repaired.dropped["verdicts"] == 6


def test_paid_replies_are_not_to_be_deleted(tmp_path: Path):
    cache = ReplyCache(tmp_path / "journal", "journal")
    with cache.writing() as write:
        write("a", Reply("x"))
    with cache.writing() as write, room_of(2000), pytest.raises(StorageError) as caught:
        write("b", Reply(os.urandom(15_000).hex()))
    assert "free space" in caught.value.shown
    assert "delete" not in caught.value.shown
    with cache.writing() as write:
        write("b", Reply(os.urandom(15_000).hex()))
    assert cache.read(["a", "b"])["a"].text == "x"
    assert len(cache.read(["a", "b"])) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_file_system(small_disk: Path):
    output = small_disk / "runs"
    run = write_run(output, "m", "asked", samples=refusal_samples(12), skill=0.6)
    ballast = small_disk / "ballast"
    used = sum(each.stat().st_blocks * 512 for each in small_disk.rglob("*") if each.is_file())
    for spare in (0, 4096, 16384):
        ballast.write_bytes(bytes(max(0, (256 << 10) - used - spare - 8192)))
        with pytest.raises(StorageError, match="No space left on device; nothing of it is left; free space"):
            rewrite_report(str(run))
        assert not list(small_disk.rglob(f"*{TEMPORARY_SUFFIX}"))
    ballast.unlink()
    rewrite_report(str(run))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_what_cannot_be_printed_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "safe_r1.cli", "models"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "free space" in done.stderr


def test_files_are_written_by_one_function():
    """Each other place has to remove what it has begun by itself, and is listed here with its reason."""
    found: dict[str, list[int]] = {}
    for file in sorted((ROOT / "safe_r1").rglob("*.py")):
        name = str(file.relative_to(ROOT))
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and _writes(node) and name not in OWN_WRITERS:
                found.setdefault(name, []).append(node.lineno)
    assert found == {}


def _writes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    # `folder.write_text` of a run is our own.
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if name == "write_text":
        return owner not in ("folder", "self", "run.folder", "task.folder")
    if name == "write_bytes":
        return bool(owner)
    given = [*call.args, *(each.value for each in call.keywords)]
    modes = {each.value for each in given if isinstance(each, ast.Constant)}
    return name == "open" and bool(modes & {"w", "wb", "a", "ab", "x", "xb"})
