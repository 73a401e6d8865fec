"""One worker of ``test_train_parallel``: a few steps on fixed batches for each case; the first worker writes
what came out.
"""

import json
import sys
from pathlib import Path

import torch
from upath import UPath

from safe_r1.train.checkpoint import Checkpoints
from safe_r1.train.config import OptimizerConfig
from safe_r1.train.loss import IGNORE
from safe_r1.train.model import ModelSpec, load_model
from safe_r1.train.optim import make_optimizer
from safe_r1.train.parallel import Sizes, dp_rank, join
from safe_r1.train.step import train_step

NUM_STEPS, BATCH, SEQ = 3, 4, 48
_FIRST_DOCUMENT = 20
# Adam divides by the gradient's own size: without a large eps it makes a rounding error of a tiny gradient a
# full step.
_LR, _EPS = 3e-2, 1e-2


def batch_of(step: int) -> dict[str, torch.Tensor]:
    """The whole batch of a step: two documents in each sequence, every third token not learned."""
    dice = torch.Generator().manual_seed(step)
    tokens = torch.randint(10, 1500, (BATCH, SEQ), generator=dice)
    places = torch.cat([torch.arange(_FIRST_DOCUMENT), torch.arange(SEQ - _FIRST_DOCUMENT)]).expand(
        BATCH, SEQ
    )
    labels = torch.where((torch.arange(SEQ) % 3 == step % 3) | (places == 0), IGNORE, tokens)
    labels[0, :30] = IGNORE  # uneven over the workers
    return {"input_ids": tokens, "position_ids": places, "labels": labels}


def run_case(case: dict, rank: int) -> dict:
    sizes, micro = Sizes(**case["sizes"]), case.get("micro", 1)
    model = load_model(ModelSpec(case["folder"]), sizes, "cpu")
    optimizer = make_optimizer(
        model.parameters(), OptimizerConfig(lr=_LR, eps=_EPS), case.get("states", "fp32")
    )
    checkpoints = Checkpoints(UPath(case.get("checkpoints", "")), rank)
    start = (checkpoints.load_last(model, optimizer) or {"step": 0})["step"] if "checkpoints" in case else 0
    each = BATCH // sizes.dp
    first = dp_rank(sizes, rank) * each
    steps = []
    for step in range(start, NUM_STEPS):
        whole = batch_of(step)
        parts = [
            {name: value[place : place + micro] for name, value in whole.items()}
            | {"num_tokens": micro * SEQ}
            for place in range(first, first + each, micro)
        ]
        result = train_step(model, optimizer, parts, sizes, _LR, 1.0)
        steps.append([result.loss, result.grad_norm])
        if case.get("save_after") == step + 1:
            checkpoints.save(model, optimizer, step + 1, {"validation_loss": 1.0})
    checkpoints.finish()
    state = {}
    for name, value in model.state_dict().items():
        state[name] = (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
    return {"start": start, "steps": steps, "state": state}


def main(cases: str, output: str) -> None:
    torch.set_num_threads(1)
    rank, world = join("cpu")
    for name, case in json.loads(cases).items():
        assert Sizes(**case["sizes"]).world == world
        result = run_case(case, rank)
        if rank == 0:
            torch.save(result, Path(output) / f"{name}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
