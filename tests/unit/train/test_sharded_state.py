"""8-bit moments in checkpoints: as codes, and on another number of workers with another sharding."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from upath import UPath

from safe_r1.train.checkpoint import Checkpoints
from safe_r1.train.config import OptimizerConfig
from safe_r1.train.optim import AdamWBf16, is_quantized, make_optimizer

REPOSITORY = Path(__file__).parents[3]
# The largest step between two codes, relative to the largest value of a block: (1 - 0.1) / 64.
LARGEST_STEP = 0.015


def pair(states: Any, value: float) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.ModuleDict({"rows": torch.nn.Linear(512, 16), "odd": torch.nn.Linear(96, 64)})
    generator = torch.Generator().manual_seed(0)
    optimizer = make_optimizer(model.parameters(), OptimizerConfig(lr=0.1), states)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
            parameter.grad = torch.randn(parameter.shape, generator=generator) * value
    with torch.compiler.set_stance("force_eager"):
        optimizer.step()
    return model, optimizer


def moments(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{moment}": value.dequantize() if is_quantized(value) else value
        for name, parameter in model.named_parameters()
        for moment, value in optimizer.state[parameter].items()
    }


def save(states: Any, folder: Path) -> dict[str, torch.Tensor]:
    checkpoints = Checkpoints(UPath(folder), 0)
    model, optimizer = pair(states, 1.0)
    checkpoints.save(model, optimizer, 1, {})
    checkpoints.finish()
    return moments(model, optimizer)


def test_moments_are_saved_as_codes_where_rows_are_whole_blocks(tmp_path: Path):
    pytest.importorskip("torchao")
    saved = save("8bit", tmp_path)
    entries = FileSystemReader(tmp_path / "step-000001").read_metadata().state_dict_metadata
    name = "optimizer.state.{}.weight.exp_avg"
    codes: Any = entries[name.format("rows") + ".codes"]
    scales: Any = entries[name.format("rows") + ".scales"]
    odd: Any = entries[name.format("odd")]
    assert (codes.size, codes.properties.dtype) == ((16, 512), torch.uint8)
    assert (scales.size, scales.properties.dtype) == ((16, 2), torch.float32)
    assert (odd.size, odd.properties.dtype) == ((64, 96), torch.float32)
    model, optimizer = pair("8bit", 0.5)
    before = optimizer.state[model.get_parameter("rows.weight")]["exp_avg"]
    assert Checkpoints(UPath(tmp_path), 0).load_latest(model, optimizer)
    for moment, value in moments(model, optimizer).items():
        assert torch.equal(value, saved[moment]), moment
    # In place: nothing is allocated for them.
    assert optimizer.state[model.get_parameter("rows.weight")]["exp_avg"] is before
    assert is_quantized(before)


@pytest.mark.parametrize("states", ["fp32", "8bit"])
def test_codes_are_read_as_numbers_and_numbers_as_codes(states: Any, tmp_path: Path):
    pytest.importorskip("torchao")
    saved = save(states, tmp_path)
    other = {"fp32": "8bit", "8bit": "fp32"}[states]
    model, optimizer = pair(other, 0.5)
    assert Checkpoints(UPath(tmp_path), 0).load_latest(model, optimizer)
    for moment, value in moments(model, optimizer).items():
        if states == "8bit":
            assert torch.equal(value, saved[moment]), moment
        else:
            assert (value - saved[moment]).abs().max() <= LARGEST_STEP * saved[moment].abs().max(), moment


def test_moments_in_bf16_stay_in_bf16(tmp_path: Path):
    saved = save("bf16", tmp_path)
    model, optimizer = pair("bf16", 0.5)
    assert isinstance(optimizer, AdamWBf16)
    assert Checkpoints(UPath(tmp_path), 0).load_latest(model, optimizer)
    for moment, value in moments(model, optimizer).items():
        assert value.dtype == saved[moment].dtype
        assert torch.equal(value, saved[moment])


_SHAPES = {"uneven": (33, 512), "wide": (80, 512), "two": (64, 256), "three": (4, 32, 256), "odd": (256, 96)}
_RESHARD = f"""
import os, socket, sys
import torch
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor.placement_types import _StridedShard
from torch.multiprocessing.spawn import start_processes
from upath import UPath
from safe_r1.train import checkpoint
from safe_r1.train.checkpoint import Checkpoints
from safe_r1.train.config import OptimizerConfig
from safe_r1.train.optim import is_quantized, make_optimizer
from safe_r1.train.parallel import init_distributed
import torchao.optim, torch.distributed.checkpoint

SHAPES = {_SHAPES!r}

def shard(full, mesh, placements):
    # Equal on all workers: nothing is sent.
    return distribute_tensor(full, mesh, placements, src_data_rank=None)

class Model(torch.nn.Module):
    def __init__(self, mesh, placements, value):
        super().__init__()
        for name, shape in SHAPES.items():
            full = torch.randn(shape, generator=torch.Generator().manual_seed(7)) * value
            self.register_parameter(name, torch.nn.Parameter(shard(full, mesh, placements)))

def full_moments(model, optimizer):
    found = {{}}
    for name, parameter in model.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            value = optimizer.state[parameter][moment]
            local = value.to_local()
            local = local.dequantize() if is_quantized(local) else local
            sizes = {{"shape": value.shape, "stride": value.stride()}}
            plain = DTensor.from_local(local, value.device_mesh, value.placements, **sizes)
            found[f"{{name}}.{{moment}}"] = plain.full_tensor()
    return found

def run(rank, world, port, sharding, folder, output):
    torch.set_num_threads(1)
    os.environ |= {{"RANK": str(rank), "WORLD_SIZE": str(world)}}
    os.environ |= {{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}}
    init_distributed("cpu")
    if world == 1:
        torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (world,))
    if sharding in ("waits", "stacked"):
        checkpoint.available_bytes = lambda: 0
    special = {{"columns": Shard(1), "copies": Replicate(), "stacked": _StridedShard(0, split_factor=2)}}
    placements = [special.get(sharding, Shard(0))]
    model = Model(mesh, placements, 1.0 if world == 4 else 0.5)
    optimizer = make_optimizer(model.parameters(), OptimizerConfig(), "8bit")
    for parameter in model.parameters():
        parameter.grad = parameter.detach().clone()
    optimizer.step()
    checkpoints = Checkpoints(UPath(folder), rank)
    if world == 4:
        checkpoints.save(model, optimizer, 1, {{}})
        checkpoints.finish()
    else:
        assert checkpoints.load_latest(model, optimizer)
    found = full_moments(model, optimizer)
    if rank == 0:
        torch.save(found, output)
    torch.distributed.destroy_process_group()

if __name__ == "__main__":
    root = sys.argv[1]
    for saved in ("goes on", "waits", "stacked"):
        folder = f"{{root}}/{{saved}}"
        for world, sharding in (
            (4, saved), (2, "rows"), (2, "columns"), (2, "stacked"), (2, "copies"), (1, "rows")
        ):
            with socket.socket() as opened:
                opened.bind(("127.0.0.1", 0))
                port = opened.getsockname()[1]
            output = f"{{root}}/{{saved}}-{{world}}-{{sharding}}.pt"
            start_processes(run, (world, port, sharding, folder, output), nprocs=world, start_method="fork")
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_moments_of_four_workers_are_read_with_any_sharding(tmp_path: Path):
    pytest.importorskip("torchao")
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "TORCHDYNAMO_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _RESHARD, str(tmp_path)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for saved in ("goes on", "waits", "stacked"):
        wanted = torch.load(tmp_path / f"{saved}-4-{saved}.pt")
        for setup in ("2-rows", "2-columns", "2-stacked", "2-copies", "1-rows"):
            for name, value in torch.load(tmp_path / f"{saved}-{setup}.pt").items():
                want = wanted[name]
                # The rows of these are whole blocks in both shardings; those of interleaved shards are fp32.
                is_coded = saved != "stacked" and setup not in ("2-columns", "2-stacked")
                if name.partition(".")[0] in ("wide", "three") and is_coded:
                    assert torch.equal(value, want), (saved, setup, name)
                assert (value - want).abs().max() <= LARGEST_STEP * want.abs().max(), (saved, setup, name)
