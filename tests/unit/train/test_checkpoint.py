import json
import math
import os
import random
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from upath import UPath

from safe_r1.errors import StorageError
from safe_r1.train.checkpoint import Checkpoints
from safe_r1.train.checkpoint_files import (
    best_checkpoint,
    find_damage,
    list_checkpoints,
    passed_over,
    read_state,
)
from safe_r1.train.history import FAILURE_FILE, HISTORY_FILE, History, read_history


class Model(torch.nn.Module):
    def __init__(self, value: float):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        torch.nn.init.constant_(self.layer.weight, value)


def pair(value: float) -> tuple[Model, torch.optim.Optimizer]:
    model = Model(value)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.layer(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, steps: dict[int, float | None]) -> Checkpoints:
    checkpoints = Checkpoints(UPath(folder), 0)
    for step, loss in steps.items():
        checkpoints.save(*pair(float(step)), step, {"validation_loss": loss})
    checkpoints.finish()
    return checkpoints


def test_what_was_saved_comes_back(tmp_path: Path):
    checkpoints = save(tmp_path, {5: 1.0})
    model, optimizer = pair(0.0)
    state = checkpoints.load_latest(model, optimizer)
    assert state is not None
    assert set(state.pop("files")) == {".metadata", "__0_0.distcp"}
    assert state == {"step": 5, "validation_loss": 1.0}
    assert torch.equal(model.layer.weight, pair(5.0)[0].layer.weight)


def test_it_is_complete_as_soon_as_it_is_written(tmp_path: Path):
    checkpoints = Checkpoints(UPath(tmp_path), 0)
    checkpoints.save(*pair(1.0), 1, {"validation_loss": None})
    end = time.monotonic() + 60
    while not list_checkpoints(UPath(tmp_path)):
        assert time.monotonic() < end
        time.sleep(0.05)
    checkpoints.finish()


def test_best_and_last_two_are_kept(tmp_path: Path):
    save(tmp_path, {1: 3.0, 2: 1.0, 3: 2.0, 4: 1.5, 5: 1.6})
    assert [step for step, _ in list_checkpoints(UPath(tmp_path))] == [2, 4, 5]
    assert sorted(place.name for place in tmp_path.iterdir()) == ["step-000002", "step-000004", "step-000005"]
    best = best_checkpoint(UPath(tmp_path))
    assert best is not None
    assert (read_state(best) or {})["step"] == 2


def test_without_validation_the_last_is_the_best(tmp_path: Path):
    save(tmp_path, {1: None, 2: None})
    assert best_checkpoint(UPath(tmp_path)) == UPath(tmp_path) / "step-000002"


def test_a_half_written_checkpoint_is_never_taken_up(tmp_path: Path):
    checkpoints = save(tmp_path, {3: 1.0})
    broken = tmp_path / "step-000009"
    broken.mkdir()
    (broken / "__0_0.distcp").write_bytes(b"half")
    state = checkpoints.load_latest(*pair(0.0))
    assert state is not None
    assert state["step"] == 3


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGE = {
    "one bit of a shard": lambda folder: flip(folder / "__0_0.distcp"),
    "random bytes of the same length": lambda folder: (folder / "__0_0.distcp").write_bytes(
        random.Random(0).randbytes((folder / "__0_0.distcp").stat().st_size)
    ),
    "a shard that is cut off": lambda folder: os.truncate(folder / "__0_0.distcp", 100),
    "an empty shard": lambda folder: (folder / "__0_0.distcp").write_bytes(b""),
    "a missing shard": lambda folder: (folder / "__0_0.distcp").unlink(),
    "one bit of the metadata": lambda folder: flip(folder / ".metadata"),
    "no metadata": lambda folder: (folder / ".metadata").unlink(),
    "half a state": lambda folder: os.truncate(folder / "state.json", 20),
    "a state that is a list": lambda folder: (folder / "state.json").write_text("[]"),
    "a deep state": lambda folder: (folder / "state.json").write_text("[" * 100_000),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(kind: str, tmp_path: Path):
    checkpoints = save(tmp_path, {3: 1.0, 6: 2.0})
    DAMAGE[kind](tmp_path / "step-000006")
    model, optimizer = pair(0.0)
    state = checkpoints.load_latest(model, optimizer)
    assert (state or {})["step"] == 3
    assert torch.equal(model.layer.weight, pair(3.0)[0].layer.weight)
    # It is told, and it is no checkpoint any more, also not the best.
    assert list(passed_over(UPath(tmp_path))) == ["step-000006"]
    assert best_checkpoint(UPath(tmp_path)) == UPath(tmp_path) / "step-000003"
    # The step is reached and written again.
    checkpoints.save(*pair(6.0), 6, {"validation_loss": 0.5})
    checkpoints.finish()
    assert passed_over(UPath(tmp_path)) == {}
    assert find_damage(UPath(tmp_path) / "step-000006") is None


def test_when_all_are_damaged_training_begins_anew(tmp_path: Path):
    checkpoints = save(tmp_path, {3: 1.0, 6: 2.0})
    for step in (3, 6):
        flip(tmp_path / f"step-{step:06d}" / "__0_0.distcp")
    assert checkpoints.load_latest(*pair(0.0)) is None
    assert len(passed_over(UPath(tmp_path))) == 2


def test_other_folders_and_files_beside_are_left_alone(tmp_path: Path):
    checkpoints = save(tmp_path, {3: 1.0})
    for name in ("step-", "step-abc", "step-000009-copy", "step-１２", "notes", "step-000012.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text("{}")
    (tmp_path / "step-000020").write_text("a file")
    assert [step for step, _ in list_checkpoints(UPath(tmp_path))] == [3]
    assert (checkpoints.load_latest(*pair(0.0)) or {})["step"] == 3
    assert (tmp_path / "step-abc" / "state.json").exists()


def test_workers_share_the_files_of_a_check(tmp_path: Path):
    save(tmp_path, {3: 1.0})
    folder = UPath(tmp_path) / "step-000003"
    flip(tmp_path / "step-000003" / "__0_0.distcp")
    found = [find_damage(folder, part, 2) for part in range(2)]
    assert sum(each is not None for each in found) == 1


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path):
    checkpoints = save(tmp_path, {})
    (tmp_path / "step-000001").write_text("in the way")
    with pytest.raises(StorageError, match="another --output"):
        checkpoints.save(*pair(1.0), 1, {})
    assert list_checkpoints(UPath(tmp_path)) == []


_FILL_THE_DISK = """
import sys, torch
from upath import UPath
from safe_r1.errors import StorageError
from safe_r1.train.checkpoint import Checkpoints
from safe_r1.train.checkpoint_files import list_checkpoints
folder = UPath(sys.argv[1])
checkpoints = Checkpoints(folder, 0)
for step, width in ((1, 64), (2, 1024)):
    model = torch.nn.Linear(width, width)
    optimizer = torch.optim.AdamW(model.parameters())
    try:
        checkpoints.save(model, optimizer, step, {"validation_loss": 1.0})
        checkpoints.finish()
    except StorageError as error:
        print(step, error)
print([step for step, _ in list_checkpoints(folder)])
"""


@pytest.mark.slow
def test_a_full_disk_is_one_clear_line_and_the_last_good_checkpoint_stays(tmp_path: Path):
    # A file system of one megabyte, in a name space of its own.
    mount = f"mount -t tmpfs -o size=1m none {tmp_path} && "
    if subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount + "true"], capture_output=True, check=False
    ).returncode:
        pytest.skip("user name spaces are not allowed here")
    command = mount + f"exec {shlex.quote(sys.executable)} -c {shlex.quote(_FILL_THE_DISK)} {tmp_path}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"2 cannot write a checkpoint to {tmp_path}"), done.stdout + done.stderr
    assert "No space left" in lines[0]
    assert lines[1] == "[1]"


_ALONE = """
import os, sys, time, types
import torch
import torch.distributed as dist
from upath import UPath
from safe_r1.train.checkpoint import Checkpoints
from safe_r1.train.history import History
from safe_r1.train.loop import Trainer, TrainState

class Alone(Trainer):
    def __init__(self, rank, folder):
        self.rank, self.spec = rank, types.SimpleNamespace(last_step=9, num_steps=9)
        parallel = types.SimpleNamespace(timeout_s=600)
        self.config = types.SimpleNamespace(optimizer=None, parallel=parallel)
        self.state = TrainState(step=1)
        self.batches = types.SimpleNamespace(close=lambda: None)
        self.checkpoints, self.history = Checkpoints(folder / "checkpoints", rank), History(folder, rank)
        self.model = torch.nn.Linear(4, 4)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.model(torch.ones(1, 4)).sum().backward()
        self.optimizer.step()
        self.checkpoints.save(self.model, self.optimizer, 1, {})

    def _train_step(self, lr):
        if self.rank == 1:
            raise ValueError("alone")
        dist.all_reduce(torch.ones(1))

import safe_r1.train.loop as loop
loop.learning_rate = lambda *args: 0.1
dist.init_process_group("gloo")
Alone(dist.get_rank(), UPath(sys.argv[1])).run()
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_worker_that_fails_alone_ends_at_once_with_its_own_error(tmp_path: Path):
    """With a pending checkpoint: it must not wait for workers that wait for it."""
    port = free_port()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _ALONE, str(tmp_path)],
            env=os.environ
            | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    # Rank 0 ends as well, as its peer is gone.
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert errors[1].strip().endswith("ValueError: alone")
    assert [worker.returncode for worker in workers] == [1, 1]
    assert find_damage(UPath(tmp_path) / "checkpoints" / "step-000001") is None


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.mark.parametrize(
    "content",
    [
        '{"step": 6, "files": null}',
        '{"step": 6, "files": {"a": "b"}}',
        '{"step": 6, "files": [1]}',
        "{}",
        "3",
    ],
)
def test_a_state_of_another_shape_is_damage(content: str, tmp_path: Path):
    checkpoints = save(tmp_path, {3: 1.0, 6: 2.0})
    (tmp_path / "step-000006" / "state.json").write_text(content)
    assert (checkpoints.load_latest(*pair(0.0)) or {})["step"] == 3


def test_a_checkpoint_of_an_earlier_release_has_no_hashes_and_is_passed_over_if_it_cannot_be_read(
    tmp_path: Path,
):
    checkpoints = save(tmp_path, {3: 1.0, 6: 2.0})
    (tmp_path / "step-000006" / "state.json").write_text('{"step": 6}')
    assert (checkpoints.load_latest(*pair(0.0)) or {})["step"] == 6
    (tmp_path / "step-000006" / ".metadata").write_bytes(b"x")
    assert (checkpoints.load_latest(*pair(0.0)) or {})["step"] == 3


def test_the_best_is_by_the_loss_or_by_the_scores_and_a_loss_that_is_no_number_is_never_best(tmp_path: Path):
    save(tmp_path / "checkpoints", {1: 1.0, 2: math.nan, 3: 0.5})
    folder = UPath(tmp_path) / "checkpoints"
    (tmp_path / "safety-x.json").write_text('{"2": {"value": 0.9}, "1": {"value": 0.2}}')
    best = {scores: best_checkpoint(folder, scores) for scores in (None, "safety-x.json", "safety-y.json")}
    assert {scores: path.name for scores, path in best.items() if path} == {
        None: "step-000003",
        "safety-x.json": "step-000002",
        "safety-y.json": "step-000003",
    }


def test_history_begins_again_where_the_checkpoint_stands(tmp_path: Path):
    first = History(UPath(tmp_path), 0)
    for step in (1, 2, 3):
        first.add({"step": step, "loss": 4.0 - step})
    first.record_failure(3, "loss nan", ["a/1"])
    first.close()
    assert json.loads((tmp_path / FAILURE_FILE).read_text())["row_ids"] == ["a/1"]
    again = History(UPath(tmp_path), 0, read_history(UPath(tmp_path))[:2])
    assert not (tmp_path / FAILURE_FILE).exists()
    again.add({"step": 3, "loss": 0.5})
    again.close()
    assert [(line["step"], line.get("loss")) for line in read_history(UPath(tmp_path))] == [
        (1, 3.0),
        (2, 2.0),
        (3, 0.5),
    ]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_history_that_a_crash_has_cut_is_read_as_far_as_it_goes(cut: int, tmp_path: Path):
    lines = "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(4))
    (tmp_path / HISTORY_FILE).write_bytes(lines.encode()[:-cut] + b"\x00\xff")
    steps = [record["step"] for record in read_history(UPath(tmp_path))]
    assert steps == list(range(len(steps)))
    assert len(steps) >= 4 - 1 - cut // 24
