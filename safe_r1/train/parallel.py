"""How the workers of one run share the model: sizes of the dimensions, and this process's place among them."""

import datetime
import os
from dataclasses import dataclass

from safe_r1.errors import ConfigError
from safe_r1.models.registry import Layout
from safe_r1.train.config import ParallelConfig

# Loading a sharded checkpoint of 1.3 TB takes some ranks much longer than others.
_TIMEOUT = datetime.timedelta(hours=2)


@dataclass(frozen=True)
class Sizes:
    """Workers along each dimension; ``world`` = ``dp_replicate`` × ``fsdp`` × ``tp``. Experts are spread over
    ``ep`` of them.

    Attributes:
        dp_replicate: Copies of the sharded model.
        fsdp: Workers that share the parameters of one copy, each with a batch of its own.
        tp: Workers that share each layer's matrices, all with the same batch.
        ep: Workers that share the experts.
    """

    dp_replicate: int = 1
    fsdp: int = 1
    tp: int = 1
    ep: int = 1

    @property
    def world(self) -> int:
        """All workers."""
        return self.dp_replicate * self.fsdp * self.tp

    @property
    def dp(self) -> int:
        """Workers with batches of their own."""
        return self.dp_replicate * self.fsdp


def resolve_sizes(config: ParallelConfig, layout: Layout | None, world: int) -> Sizes:
    """The sizes for so many workers: as the settings say, else as the variant's layout does, the rest by
    sharding.

    Raises:
        ConfigError: The workers do not divide that way.
    """
    tp = config.tp_size or (layout.tp_size if layout else 1)
    ep = config.ep_size or (layout.ep_size if layout else 1)
    if world % tp:
        raise ConfigError(
            f"{world} workers do not divide into tensor-parallel groups of {tp}: choose another parallel.tp_size"
        )
    fsdp = config.fsdp_size or _sharding(layout, world // tp)
    if (world // tp) % fsdp:
        raise ConfigError(
            f"{world} workers with tp_size {tp} do not divide into shards of {fsdp}: choose another parallel.fsdp_size"
        )
    if ep > 1 and (ep % tp or (fsdp * tp) % ep):
        raise ConfigError(
            f"parallel.ep_size {ep} must be a multiple of tp_size {tp} and divide fsdp_size × tp_size = {fsdp * tp}"
        )
    return Sizes(world // tp // fsdp, fsdp, tp, ep)


def _sharding(layout: Layout | None, workers: int) -> int:
    """The layout's shards where the workers are a multiple of them, else one shard a worker."""
    return layout.fsdp_size if layout and workers % layout.fsdp_size == 0 else workers


def join(device: str) -> tuple[int, int]:
    """Join the process group that the launcher's environment names; a single process needs none.

    Args:
        device: ``cpu`` or ``cuda``.

    Returns:
        Rank and number of workers.
    """
    import torch

    world = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if world > 1 and not torch.distributed.is_initialized():
        # gloo beside nccl: checkpoints are written from host memory while the GPUs go on.
        backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
        torch.distributed.init_process_group(backend, timeout=_TIMEOUT)
    return int(os.environ.get("RANK", "0")), world


def dp_rank(sizes: Sizes, rank: int) -> int:
    """Which batch a worker computes: the workers of a tensor-parallel group lie side by side and share one."""
    return rank // sizes.tp
