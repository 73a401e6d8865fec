"""The workers of ``test_train_parallel``: some steps on fixed batches per case; rank 0 writes the results.

They are forked from one process, so that torch and transformers are imported once and not thirteen times.
"""

import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.multiprocessing.spawn import start_processes
from upath import UPath

from safe_r1.models.registry import States
from safe_r1.train.batches import Batch, make_batch
from safe_r1.train.checkpoint import Checkpoints
from safe_r1.train.config import Fp8Recipe, OptimizerConfig
from safe_r1.train.model import ModelSpec, load_model
from safe_r1.train.optim import make_optimizer
from safe_r1.train.packed import IGNORE_INDEX
from safe_r1.train.parallel import ParallelDims, dp_rank, init_distributed
from safe_r1.train.step import train_step
from tests.serving import ports

NUM_STEPS, BATCH, SEQ = 3, 4, 48
_FIRST_DOCUMENT = 20
# Adam divides by the gradient's own size: without a large eps it makes a rounding error of a tiny gradient a
# full step.
_LR, _EPS = 3e-2, 1e-2
# What a worker would import later; nothing of it computes, so that a fork is safe.
PRELOADED = (
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torchao.float8",
    "torchao.optim",
    *(f"transformers.models.{arch}.modeling_{arch}" for arch in ("qwen2", "llama", "deepseek_v3")),
)


class Case(TypedDict):
    """One way to spread a model.

    With ``checkpoints``, it starts from the checkpoint in that folder; ``save_after`` is the step after which
    it writes one there. ``per_node`` is the number of workers of a node, if there are several nodes. With
    ``fp8`` all else is computed in bf16.
    """

    folder: str
    sizes: Mapping[str, int]
    micro: NotRequired[int]
    defer: NotRequired[bool]
    recompute_every: NotRequired[int]
    states: NotRequired[States]
    save_after: NotRequired[int]
    checkpoints: NotRequired[str]
    per_node: NotRequired[int]
    keep_routed_rows: NotRequired[bool]
    fp8: NotRequired[Fp8Recipe]


class Result(TypedDict):
    """The step that the case started from, (loss, gradient norm) of each step, and the final parameters."""

    start: int
    steps: list[tuple[float, float]]
    state: dict[str, Tensor]


class Rows(NamedTuple):
    """Sequences of a step, each of shape (rows, SEQ); the labels are not shifted."""

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor


def rows_of_step(step: int) -> Rows:
    """All sequences of a step: two documents in each, every third token not learned."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(10, 1500, (BATCH, SEQ), generator=generator)
    positions = torch.cat([torch.arange(_FIRST_DOCUMENT), torch.arange(SEQ - _FIRST_DOCUMENT)])
    positions = positions.expand(BATCH, SEQ)
    is_ignored = (torch.arange(SEQ) % 3 == step % 3) | (positions == 0)
    labels = torch.where(is_ignored, IGNORE_INDEX, tokens)
    labels[0, :30] = IGNORE_INDEX  # uneven over the workers
    return Rows(tokens, positions, labels)


def batch_of(rows: Rows, start: int, count: int) -> Batch:
    """A micro-batch of some of the sequences."""
    part = slice(start, start + count)
    return make_batch(rows.input_ids[part], rows.position_ids[part], rows.labels[part], count * SEQ, "cpu")


def run_case(case: Case, rank: int) -> Result:
    dims = ParallelDims(**case["sizes"])
    micro = case.get("micro", 1)
    # What a launcher says of each node.
    os.environ["LOCAL_WORLD_SIZE"] = str(case.get("per_node", dims.world_size))
    spec = ModelSpec(
        case["folder"],
        recompute_every=case.get("recompute_every", 1),
        keep_routed_rows=case.get("keep_routed_rows", False),
        bf16="fp8" in case,
        fp8=case.get("fp8"),
    )
    model = load_model(spec, dims, "cpu")
    assert isinstance(model, FSDPModule) or not case.get("defer"), "there is no reduction to defer"
    config = OptimizerConfig(lr=_LR, eps=_EPS)
    optimizer = make_optimizer(model.parameters(), config, case.get("states", "fp32"))
    checkpoints = Checkpoints(UPath(case.get("checkpoints", "")), rank)
    saved = checkpoints.load_latest(model, optimizer) if "checkpoints" in case else None
    start = saved["step"] if saved else 0
    per_worker = BATCH // dims.dp
    first = dp_rank(dims, rank) * per_worker
    steps: list[tuple[float, float]] = []
    for step in range(start, NUM_STEPS):
        rows = rows_of_step(step)
        parts = [batch_of(rows, row, micro) for row in range(first, first + per_worker, micro)]
        result = train_step(model, optimizer, parts, dims, _LR, 1.0, defer_reduction=case.get("defer", False))
        steps.append((result.loss, result.grad_norm))
        if case.get("save_after") == step + 1:
            checkpoints.save(model, optimizer, step + 1, {"validation_loss": 1.0})
    checkpoints.finish()
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        state[name] = (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
    return {"start": start, "steps": steps, "state": state}


def run_rank(rank: int, world_size: int, port: int, cases: Mapping[str, Case], output: str) -> None:
    """All cases of one worker."""
    torch.set_num_threads(1)
    if world_size > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    assert init_distributed("cpu") == (rank, world_size)
    for name, case in cases.items():
        assert ParallelDims(**case["sizes"]).world_size == world_size
        result = run_case(case, rank)
        if rank == 0:
            torch.save(result, Path(output) / f"{name}.pt")
    if world_size > 1:
        torch.distributed.destroy_process_group()


def main(runs: str, output: str) -> None:
    """Runs one after the other, each of a number of workers and their cases."""
    for module in PRELOADED:
        importlib.import_module(module)
    for world_size, cases in json.loads(runs):
        [port] = ports(1)
        start_processes(run_rank, (world_size, port, cases, output), nprocs=world_size, start_method="fork")


if __name__ == "__main__":
    main(*sys.argv[1:])
