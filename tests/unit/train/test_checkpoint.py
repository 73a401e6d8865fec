import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from upath import UPath

from safe_r1.errors import StorageError
from safe_r1.train.checkpoint import Checkpoints, best_checkpoint, list_checkpoints, read_state


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


def test_best_and_last_are_kept(tmp_path: Path):
    save(tmp_path, {1: 3.0, 2: 1.0, 3: 2.0, 4: 1.5})
    assert [step for step, _ in list_checkpoints(UPath(tmp_path))] == [2, 4]
    assert sorted(place.name for place in tmp_path.iterdir()) == ["step-000002", "step-000004"]
    best = best_checkpoint(UPath(tmp_path))
    assert best is not None
    assert read_state(best)["step"] == 2


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
from safe_r1.train.checkpoint import Checkpoints, list_checkpoints
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


def test_history_begins_again_where_the_checkpoint_stands(tmp_path: Path):
    from safe_r1.train.history import FAILURE_FILE, History, read_history

    first = History(UPath(tmp_path), 0, 0)
    for step in (1, 2, 3):
        first.add({"step": step, "loss": 4.0 - step})
    first.record_failure(3, "loss nan", ["a/1"])
    first.close()
    assert json.loads((tmp_path / FAILURE_FILE).read_text())["row_ids"] == ["a/1"]
    again = History(UPath(tmp_path), 0, 2)
    assert not (tmp_path / FAILURE_FILE).exists()
    again.add({"step": 3, "loss": 0.5})
    again.close()
    assert [(line["step"], line.get("loss")) for line in read_history(UPath(tmp_path))] == [
        (1, 3.0),
        (2, 2.0),
        (3, 0.5),
    ]
