"""Fine-tuning in processes that ``torchrun`` started, without Ray Train.

Rank 0 validates the settings and prepares the data, all ranks train, rank 0 exports.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from safe_r1.errors import ConfigError
from safe_r1.resources import connect, disconnect
from safe_r1.train.config import FinetuneConfig
from safe_r1.train.data import PreparedData
from safe_r1.train.finetune import check_disk_space, ignore_progress, prepare_job_data, raise_on_failure
from safe_r1.train.job import TrainJob, make_job, make_spec
from safe_r1.train.loop import Trainer
from safe_r1.train.parallel import COLLECTIVE_TIMEOUT
from safe_r1.train.publish import publish
from safe_r1.train.run import Fingerprint, make_fingerprint, open_run
from safe_r1.train.spec import TrainSpec


@dataclass(frozen=True)
class _Prepared:
    """What rank 0 keeps from preparation to export."""

    spec: TrainSpec
    job: TrainJob
    data: PreparedData
    fingerprint: Fingerprint


def finetune_with_torchrun(config: FinetuneConfig, show: Callable[[str], None]) -> None:
    """Fine-tune in the processes that ``torchrun`` started; see ``finetune``.

    Args:
        config: The settings; ``num_workers`` is replaced by the number of processes.
        show: Called on rank 0 with the metrics of each checkpoint and the exported model.

    Raises:
        SafeR1Error: An error that the user can fix.
    """
    import torch

    started = time.monotonic()
    rank = int(os.environ.get("RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    prepared = _prepare(config, world_size) if rank == 0 else None
    spec = prepared.spec if prepared else None
    if world_size > 1:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        # The other ranks wait here until rank 0 has prepared the data.
        torch.distributed.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
        shared = [spec]
        torch.distributed.broadcast_object_list(shared)
        spec = shared[0]
    assert spec is not None
    Trainer(spec).run(lambda metrics: show(json.dumps(metrics)) if rank == 0 else None)
    if prepared:
        raise_on_failure(prepared.job)
        result = publish(prepared.job, prepared.data, prepared.fingerprint, started, ignore_progress)
        show(f"model: {result.model}")
    if world_size > 1:
        torch.distributed.destroy_process_group()


def _prepare(config: FinetuneConfig, world_size: int) -> _Prepared:
    """Validate the settings and prepare the data with Ray, which is stopped again before training."""
    if config.save.keep_best == "safety":
        raise ConfigError(
            "save.keep_best=safety evaluates on Ray: use ray_jobs/finetune.py, or keep_best=validation"
        )
    cluster = connect()
    job = make_job(config.model_copy(update={"num_workers": str(world_size)}), cluster)
    fingerprint = make_fingerprint(job)
    open_run(job, fingerprint, cluster)
    data = prepare_job_data(job, ignore_progress)
    check_disk_space(job)
    # Training does not use Ray, whose processes would take memory from it.
    disconnect()
    return _Prepared(make_spec(job, data), job, data, fingerprint)
