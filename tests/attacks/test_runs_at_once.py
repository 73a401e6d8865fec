"""Two jobs on one folder at once, killed ones, ids that are used again, and other machines."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from safe_r1.errors import RunBusyError, StorageError
from safe_r1.locks import run_lock
from safe_r1.locks.run_lock import NAME, Holder, RunLocks, holding
from safe_r1.runs import RunFolder, latest
from safe_r1.schema import VERDICT_SCHEMA

_OTHER_JOB = """
import sys
from upath import UPath
from safe_r1.locks.run_lock import holding
from safe_r1.runs import RunFolder
with holding():
    RunFolder(UPath(sys.argv[1])).open({"seed": 1}, {})
    print("ready", flush=True)
    sys.stdin.readline()
"""
ELSEWHERE = Holder("t" * 32, "another-host", "another-host boot ns", 4242, 1, "2026-01-01T00:00:00+00:00")


def other_job(folder: Path) -> "subprocess.Popen[str]":
    job = subprocess.Popen(
        [sys.executable, "-c", _OTHER_JOB, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    return job


def run_here(folder: UPath) -> None:
    with holding():
        RunFolder(folder).open({"seed": 1}, {})
        assert (folder / NAME).exists()
    assert not (folder / NAME).exists()


def leave(folder: UPath, holder: Holder) -> None:
    if not folder.exists():
        folder.mkdir(parents=True)
    (folder / NAME).write_bytes(json.dumps(dataclasses.asdict(holder)).encode())


class Clock:
    """Time that passes while somebody sleeps, and what happens meanwhile."""

    def __init__(self, on_sleep: Callable[[], object] = lambda: None):
        self.now = 1e6
        self._on_sleep = on_sleep

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._on_sleep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(run_lock, "time", made)
    return made


def test_a_second_job_is_refused_in_one_line_until_the_first_ends(tmp_path: Path, clock: Clock):
    job = other_job(tmp_path / "run")
    with pytest.raises(RunBusyError) as caught, holding():
        RunFolder(UPath(tmp_path / "run")).open({"seed": 1}, {})
    line = caught.value.shown
    assert f"host {socket.gethostname()}, process {job.pid}, since 20" in line
    assert "\n" not in line
    # As of what is not there: a campaign tries again.
    assert caught.value.exit_code == 3
    # The refused job leaves the other one's file.
    assert (tmp_path / "run" / NAME).exists()
    job.communicate("\n")
    assert job.returncode == 0
    assert not (tmp_path / "run" / NAME).exists()
    run_here(UPath(tmp_path / "run"))


def test_a_job_whose_cluster_died_may_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its campaign has submitted it again before its process is gone."""
    job = other_job(tmp_path / "run")

    def end() -> None:
        if job.poll() is None:
            job.kill()
            job.communicate()

    monkeypatch.setattr(run_lock, "time", Clock(end))
    run_here(UPath(tmp_path / "run"))


def test_a_killed_job_is_taken_over_at_once(tmp_path: Path, clock: Clock):
    job = other_job(tmp_path / "run")
    job.kill()
    job.communicate()
    assert (tmp_path / "run" / NAME).exists()
    run_here(UPath(tmp_path / "run"))
    assert clock.now < 1e6 + run_lock._STALE_S
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"run.json"}


def test_an_id_that_is_used_again_is_another_process(tmp_path: Path, clock: Clock):
    parent = os.getppid()
    here = dataclasses.replace(ELSEWHERE, space=run_lock._space(), pid=parent, ticks=run_lock._ticks(parent))
    leave(UPath(tmp_path), here)
    with pytest.raises(RunBusyError):
        run_here(UPath(tmp_path))
    leave(UPath(tmp_path), dataclasses.replace(here, ticks=here.ticks + 1))
    run_here(UPath(tmp_path))


@pytest.mark.parametrize("place", ["{}", "memory://locks{}"])
def test_a_machine_that_is_gone_is_waited_for(tmp_path: Path, clock: Clock, place: str):
    folder = UPath(place.format(tmp_path))
    leave(folder, ELSEWHERE)
    run_here(folder)
    assert run_lock._STALE_S <= clock.now - 1e6 < 2 * run_lock._STALE_S


def test_a_machine_that_is_gone_is_waited_for_once(tmp_path: Path, clock: Clock):
    """A job has a folder for each benchmark and attack; all of them fall silent together."""
    folders = [UPath(tmp_path / str(number)) for number in range(8)]
    for number, folder in enumerate(folders):
        leave(folder, dataclasses.replace(ELSEWHERE, token=str(number)))
    other = UPath(tmp_path / "other")
    leave(other, dataclasses.replace(ELSEWHERE, pid=ELSEWHERE.pid + 1))
    with holding():
        for folder in folders:
            RunFolder(folder).open({"seed": 1}, {})
        assert run_lock._STALE_S <= clock.now - 1e6 < 1.5 * run_lock._STALE_S
        RunFolder(other).open({"seed": 1}, {})
        assert clock.now - 1e6 >= 2 * run_lock._STALE_S


@pytest.mark.parametrize("place", ["{}", "memory://locks{}"])
@pytest.mark.parametrize("num_silent", [0, 20, 55])
def test_a_machine_that_lives_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, num_silent: int
):
    folder = UPath(place.format(tmp_path))
    leave(folder, ELSEWHERE)
    sleeps: list[int] = []

    def beat() -> None:
        sleeps.append(1)
        if len(sleeps) > num_silent:
            leave(folder, dataclasses.replace(ELSEWHERE, beat=len(sleeps)))

    monkeypatch.setattr(run_lock, "time", Clock(beat))
    with pytest.raises(RunBusyError, match="host another-host, process 4242, since 2026-01-01"):
        run_here(folder)


def test_one_that_ends_meanwhile_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    leave(UPath(tmp_path), ELSEWHERE)
    ending = Clock(lambda: (tmp_path / NAME).unlink(missing_ok=True))
    monkeypatch.setattr(run_lock, "time", ending)
    run_here(UPath(tmp_path))
    assert ending.now < 1e6 + 5


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff", b'{"token": 1, "x": 2}'])
def test_a_damaged_file_holds_nobody_up_for_good(tmp_path: Path, clock: Clock, content: bytes):
    (tmp_path / NAME).write_bytes(content)
    run_here(UPath(tmp_path))


@pytest.mark.parametrize("kind", ["file", "folder", "link to nowhere"])
@pytest.mark.parametrize("is_lock", [True, False])
def test_what_is_no_lock_is_not_waited_for_for_ever(tmp_path: Path, clock: Clock, kind: str, is_lock: bool):
    place = tmp_path / "run"
    if is_lock:
        place.mkdir()
        place = place / NAME
    if kind == "file":
        place.write_bytes(b"")
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(tmp_path / "nowhere")
    try:
        with holding():
            RunFolder(UPath(tmp_path / "run")).open({"seed": 1}, {})
        assert (tmp_path / "run" / "run.json").exists()
    except StorageError:
        assert not is_lock
        assert kind != "folder"
    assert clock.now - 1e6 < 2 * run_lock._STALE_S


def test_folders_are_renewed_while_another_one_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_lock, "_BEAT_S", 0.01)
    locks = RunLocks()
    locks.hold(UPath(tmp_path / "first"))
    leave(UPath(tmp_path / "second"), ELSEWHERE)
    beats: list[int] = []

    def look() -> None:
        deadline = time.monotonic() + 10 if not any(beats) else 0
        beats.append(beat())
        while not beats[-1] and time.monotonic() < deadline:
            time.sleep(0.01)
            beats.append(beat())

    def beat() -> int:
        found = run_lock._read(UPath(tmp_path / "first" / NAME))
        return found.beat if found else 0

    monkeypatch.setattr(run_lock, "time", Clock(look))
    try:
        locks.hold(UPath(tmp_path / "second"))
        assert max(beats) > 0
    finally:
        locks.release()


@pytest.mark.parametrize("place", ["{}/run", "memory://race{}"])
def test_one_of_many_gets_a_free_folder(tmp_path: Path, place: str):
    path = UPath(place.format(tmp_path)) / NAME

    def create(number: int) -> bool:
        return run_lock._create(path, dataclasses.replace(ELSEWHERE, pid=number, token=f"{number}" * 32))

    won = in_threads(create)
    assert sum(won) == 1
    found = run_lock._read(path)
    assert found is not None
    assert found.pid == won.index(True)


def test_one_of_many_takes_a_dead_one_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All have seen the dead one's file and written their own before any of them looks again."""
    leave(UPath(tmp_path), dataclasses.replace(ELSEWHERE, space=run_lock._space(), ticks=-2))
    written = threading.Barrier(8)
    monkeypatch.setattr(run_lock, "_is_stale", lambda path, found: written.wait() >= 0)
    monkeypatch.setattr(run_lock, "time", SimpleNamespace(sleep=lambda seconds: written.wait()))

    def take(number: int) -> bool:
        mine = dataclasses.replace(ELSEWHERE, token=f"{number}" * 32, pid=number, space=f"machine {number}")
        try:
            return run_lock._take(UPath(tmp_path) / NAME, mine)
        except RunBusyError:
            return False

    assert sum(in_threads(take)) == 1


def in_threads(function: Callable[[int], bool], number: int = 8) -> list[bool]:
    results = [False] * number

    def run(place: int) -> None:
        results[place] = function(place)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_holder_renews_its_file_and_sees_when_it_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    locks = RunLocks()
    first, second, third = (UPath(tmp_path / name) for name in "abc")
    for folder in (first, second, third):
        locks.hold(folder)
    before = run_lock._read(first / NAME)
    locks._renew(str(first))
    after = run_lock._read(first / NAME)
    assert before is not None
    assert after == dataclasses.replace(before, beat=1)
    leave(second, ELSEWHERE)
    locks._renew(str(second))
    assert "taken this folder over" in caplog.text
    # Its folder was removed, as that of a check between two parts of a training is.
    (tmp_path / "c" / NAME).unlink()
    (tmp_path / "c").rmdir()
    locks._renew(str(third))
    locks.release()
    assert not (first / NAME).exists()
    assert run_lock._read(second / NAME) == ELSEWHERE
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("error", [PermissionError(), NotImplementedError(), TypeError(), OSError(30, "ro")])
def test_a_place_without_locks_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    """A folder that can only be read, as of a finished run, or a store without conditional writes."""

    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(run_lock, "_create", fail)
    with holding():
        RunFolder(UPath(tmp_path)).open({"seed": 1}, {})
    assert (tmp_path / "run.json").exists()


def test_a_library_call_takes_none_and_a_job_takes_one_folder_twice(tmp_path: Path):
    RunFolder(UPath(tmp_path)).open({"seed": 1}, {})
    assert not (tmp_path / NAME).exists()
    with holding():
        for _ in range(2):
            RunFolder(UPath(tmp_path)).open({"seed": 1}, {})
        with holding():
            RunFolder(UPath(tmp_path)).open({"seed": 1}, {})
        assert (tmp_path / NAME).exists()
    assert not (tmp_path / NAME).exists()


@settings(max_examples=15, deadline=None)
@given(data=st.data(), num=st.integers(1, 12))
def test_rows_written_twice_are_the_rows(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, num: int
):
    """Where nothing keeps two jobs apart: both write all rows, in batches of their own, in any order."""
    folder = RunFolder(UPath(tmp_path_factory.mktemp("run")))
    rows = [_row(number) for number in range(num)]
    batches = []
    for _ in range(2):
        order = data.draw(st.permutations(rows))
        size = data.draw(st.integers(1, num))
        batches += [order[start : start + size] for start in range(0, num, size)]
    for batch in data.draw(st.permutations(batches)):
        folder.write_shard("verdicts", batch, VERDICT_SCHEMA, _key)
    found = latest(folder.read_rows("verdicts", VERDICT_SCHEMA), _key, lambda row: True)
    assert [found[key] for key in sorted(found)] == [{**_blank(), **row} for row in rows]


def _blank() -> dict[str, Any]:
    return dict.fromkeys(VERDICT_SCHEMA.names)


def _row(number: int) -> dict[str, Any]:
    row = {"sample_id": f"{number:03}", "variant": "v", "repeat": 0, "part": "answer", "judge": "lexicon"}
    return row | {"label": "refusal", "degree": 1}


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return (row["sample_id"],)
