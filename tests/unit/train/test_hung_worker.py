"""A worker that hangs ends the run within the limit, with an error that says so."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from safe_r1.train.parallel import hung_worker_error

TIMEOUT_S = 10

_HANGS = f"""
import sys, time, types
import torch
import torch.distributed as dist
from upath import UPath
from safe_r1.train import loop
from safe_r1.train.checkpoint import Checkpoints
from safe_r1.train.history import History
from safe_r1.train.parallel import init_distributed, limit_collectives

class Hangs(loop.Trainer):
    def __init__(self, folder):
        self.rank, _ = init_distributed("cpu")
        self.spec = types.SimpleNamespace(last_step=9, num_steps=9)
        parallel = types.SimpleNamespace(timeout_s={TIMEOUT_S})
        self.config = types.SimpleNamespace(optimizer=None, parallel=parallel)
        limit_collectives({TIMEOUT_S})
        self.state = loop.TrainState(step=1)
        self.batches = types.SimpleNamespace(close=lambda: None)
        self.checkpoints = Checkpoints(folder / "checkpoints", self.rank)
        self.history = History(folder, self.rank)

    def _train_step(self, lr):
        if self.rank == 1:
            time.sleep(3600)
        dist.all_reduce(torch.ones(1))

loop.learning_rate = lambda *args: 0.1
Hangs(UPath(sys.argv[1])).run()
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_that_hangs_is_named_within_the_limit(tmp_path: Path):
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    waiting, hanging = (
        subprocess.Popen(
            [sys.executable, "-c", _HANGS, str(tmp_path)],
            env=os.environ | shared | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    )
    try:
        error = waiting.communicate(timeout=240)[1]
        assert hanging.poll() is None
    finally:
        hanging.kill()
        hanging.communicate()
    last = error.strip().splitlines()[-1]
    assert "safe_r1.errors.WorkersLostError: a worker hangs" in last, error
    assert f"parallel.timeout_s={TIMEOUT_S}" in last


def test_other_errors_are_left_alone():
    assert hung_worker_error(RuntimeError("shapes do not match"), 5) is None
    assert hung_worker_error(ValueError("timed out"), 5) is None
