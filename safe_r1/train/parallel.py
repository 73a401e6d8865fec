"""Parallel dimensions of a run, and this process's rank in them."""

import datetime
import os
import re
from dataclasses import dataclass

from safe_r1.errors import ConfigError, WorkersLostError
from safe_r1.models.registry import Layout
from safe_r1.train.config import ParallelConfig

# Of everything but training steps: loading a sharded checkpoint of 1.3 TB takes some ranks much longer than
# others.
COLLECTIVE_TIMEOUT = datetime.timedelta(hours=2)

# gloo's and NCCL's messages of a collective that took too long.
_TIMED_OUT = re.compile(r"(?i)timed? ?out")


@dataclass(frozen=True)
class ParallelDims:
    """Number of workers along each dimension.

    The product of ``dp_replicate``, ``fsdp`` and ``tp`` is the world size; ``ep`` regroups workers of one
    replica.

    Attributes:
        dp_replicate: Replicas of the sharded model (HSDP).
        fsdp: Workers that share the parameters of one replica, each with its own batches.
        tp: Workers that share each layer's matrices, all with the same batches.
        ep: Workers that share the experts of each layer.
    """

    dp_replicate: int = 1
    fsdp: int = 1
    tp: int = 1
    ep: int = 1

    @property
    def world_size(self) -> int:
        """Number of all workers."""
        return self.dp_replicate * self.fsdp * self.tp

    @property
    def shards_experts(self) -> bool:
        """True where several workers own the same experts, whose weights are sharded over them."""
        return self.ep > 1 and self.fsdp * self.tp > self.ep

    @property
    def dp(self) -> int:
        """Number of workers with batches of their own."""
        return self.dp_replicate * self.fsdp


def resolve_dims(config: ParallelConfig, layout: Layout | None, world_size: int) -> ParallelDims:
    """The dimensions for a number of workers: from the settings, else from the variant's layout.

    The rest of the workers is used for sharding.

    Raises:
        ConfigError: The number of workers is not divisible in this way.
    """
    tp = config.tp_size or (layout.tp_size if layout else 1)
    ep = config.ep_size or (layout.ep_size if layout else 1)
    if world_size % tp:
        raise ConfigError(
            f"{world_size} workers do not divide into tensor-parallel groups of {tp}: choose another "
            "parallel.tp_size"
        )
    fsdp = config.fsdp_size or _default_fsdp(layout, world_size // tp)
    if (world_size // tp) % fsdp:
        raise ConfigError(
            f"{world_size} workers with tp_size {tp} do not divide into shards of {fsdp}: choose another "
            "parallel.fsdp_size"
        )
    if ep > 1 and (ep % tp or (fsdp * tp) % ep):
        raise ConfigError(
            f"parallel.ep_size {ep} must be a multiple of tp_size {tp} and divide fsdp_size × tp_size = "
            f"{fsdp * tp}"
        )
    return ParallelDims(world_size // tp // fsdp, fsdp, tp, ep)


def _default_fsdp(layout: Layout | None, workers: int) -> int:
    """The layout's number of shards if the workers are a multiple of it, else one shard per worker."""
    return layout.fsdp_size if layout and workers % layout.fsdp_size == 0 else workers


def local_world_size() -> int:
    """Workers of this node, as the launcher (torchrun or Ray Train) says; adjacent ranks share a node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def spans_nodes(ep_size: int, tp_size: int, per_node: int) -> bool:
    """True where the experts of a layer are spread over whole nodes of ``per_node`` workers.

    Tokens are then sent to each node once. Tensor parallelism, whose workers share their tokens, has
    transformers' own dispatch.
    """
    return tp_size == 1 and ep_size > per_node > 1 and ep_size % per_node == 0


def check_nodes(dims: ParallelDims) -> None:
    """Refuse workers that are spread over nodes in a way in which tokens cannot be sent by node.

    Every worker has to take the same way, and finds the workers of a node by their ranks.

    Raises:
        ConfigError: Experts are spread over nodes, and these have different numbers of workers, or workers
            whose ranks are not adjacent; on every worker alike.
    """
    if dims.ep == 1 or dims.world_size == 1:
        return
    import torch.distributed as dist

    own = (local_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    places = [own] * dims.world_size
    dist.all_gather_object(places, own)
    sizes = sorted({size for size, _ in places})
    if not any(spans_nodes(dims.ep, dims.tp, size) for size in sizes):
        return
    if len(sizes) > 1:
        raise ConfigError(
            f"parallel.ep_size {dims.ep} spreads experts over nodes, which have "
            f"{' and '.join(map(str, sizes))} workers: start equally many on each node, all of its GPUs "
            "(--num-workers)"
        )
    if any(local_rank != rank % sizes[0] for rank, (_, local_rank) in enumerate(places)):
        raise ConfigError(
            f"parallel.ep_size {dims.ep} spreads experts over nodes of {sizes[0]} workers, whose ranks are "
            "not adjacent: start them node by node, as torchrun and Ray Train do"
        )


def init_distributed(device: str) -> tuple[int, int]:
    """Initialize the default process group from the launcher's environment; a single process needs none.

    Args:
        device: ``cpu`` or ``cuda``.

    Returns:
        Rank and world size.
    """
    import torch

    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if world_size > 1 and not torch.distributed.is_initialized():
        # gloo beside nccl: checkpoints are written from host memory while the GPUs continue.
        backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
        torch.distributed.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    return int(os.environ.get("RANK", "0")), world_size


def limit_collectives(timeout_s: int) -> None:
    """Wait until all workers are here, and from then on limit how long each collective of training takes.

    Process groups that are made later, such as that of the checkpoints, have their own limit.

    Args:
        timeout_s: Limit in seconds; long enough for the slowest first step, in which kernels are compiled.
    """
    import torch.distributed as dist
    from torch.distributed import distributed_c10d

    if not dist.is_initialized():
        return
    dist.barrier()
    for group in list(distributed_c10d._world.pg_map):
        distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=timeout_s), group)


def hung_worker_error(error: BaseException, timeout_s: int) -> WorkersLostError | None:
    """What to raise for an error of torch that says that a worker did not come to a collective in time.

    NCCL ends the process instead, which Ray Train sees as a lost worker.

    Args:
        error: Of a training step.
        timeout_s: See ``limit_collectives``.

    Returns:
        None for any other error.
    """
    if not (isinstance(error, RuntimeError) and _TIMED_OUT.search(str(error))):
        return None
    reason = str(error).strip().splitlines()[0]
    return WorkersLostError(
        f"a worker hangs: it did not take part in a step for parallel.timeout_s={timeout_s} s ({reason}); it "
        "is the one whose log ends without an error. Run the same command again, or raise the limit"
    )


def dp_rank(dims: ParallelDims, rank: int) -> int:
    """Data-parallel rank; the workers of a tensor-parallel group have adjacent ranks and share batches."""
    return rank // dims.tp
