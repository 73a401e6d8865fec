"""Runs the loop on workers: Ray Train starts them, and starts them again when one is lost."""

import contextlib
import os
import re
import threading
import uuid
from collections.abc import Iterator
from typing import Any

from upath import UPath

from safe_r1.errors import TrainingError, WorkersLostError
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.resources import node_labels
from safe_r1.runs import remove
from safe_r1.train.history import read_history

# The words of gloo, NCCL and torch's store where a peer is gone.
_BROKEN = re.compile(r"(?i)connection|timed? ?out|reset by peer|broken pipe|gloo|nccl")
# Nodes may still be starting when the first worker is there.
_START_TIMEOUT_S = 3600
_LOOK_EVERY_S = 1.0


def run_workers(spec: Any, workers: tuple[int, int], on_progress: ProgressCallback) -> None:
    """Train to the end; workers that are lost are replaced, and all go on from the last checkpoint.

    Args:
        spec: A ``loop.TrainSpec``.
        workers: Fewest and most of them; equal for a fixed number.
        on_progress: Called with the number of optimizer steps done.

    Raises:
        TrainingError: They failed more often than ``max_failures`` allows.
        WorkersLostError: They were lost more often than that.
    """
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_START_TIMEOUT_S))
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    low, high = workers
    # Ray's own record of the attempt; what a run resumes from is in its checkpoints.
    record = UPath(spec.folder) / "ray"
    scaling = ScalingConfig(
        num_workers=low if low == high else (low, high),
        use_gpu=spec.device == "cuda",
        label_selector=node_labels() or None,
    )
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"spec": spec},
        scaling_config=scaling,
        torch_config=TorchConfig(
            backend="gloo" if spec.device == "cpu" else "cpu:gloo,cuda:nccl", timeout_s=7200
        ),
        run_config=RunConfig(
            name=uuid.uuid4().hex[:8],
            storage_path=str(record),
            failure_config=FailureConfig(max_failures=spec.config.max_failures),
        ),
    )
    try:
        with _watched(UPath(spec.folder), spec.num_steps, on_progress):
            trainer.fit()
    except TrainingFailedError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        kind = WorkersLostError if _is_loss(error) else TrainingError
        raise kind(
            f"training stopped: {reason}; the same command goes on from the last checkpoint in {spec.folder}"
        ) from error
    finally:
        remove(record)


def _is_loss(error: Exception) -> bool:
    """Machines were lost, or did not come; not: the code of a worker raised something.

    The peers of a lost worker see a broken connection, often a plain RuntimeError, and often before its death
    is known.
    """
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import RayTrainError
    from torch.distributed import DistError

    own = getattr(error, "controller_failure", None)
    failures = [own] if own else list(getattr(error, "worker_failures", {}).values())
    if any(isinstance(each, (RayError, RayTrainError)) for each in failures):
        return True
    return all(
        isinstance(each, DistError) or (isinstance(each, RuntimeError) and _BROKEN.search(str(each)))
        for each in failures
    )


def _worker(settings: dict[str, Any]) -> None:
    import ray.train
    import torch

    from safe_r1.train.loop import Trainer

    spec = settings["spec"]
    if spec.device == "cpu":
        # Ray gives a worker as many threads as logical CPUs, which is one; the cores are there to be used.
        context = ray.train.get_context()
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    Trainer(spec).run(on_save=lambda figures: ray.train.report(figures))


@contextlib.contextmanager
def _watched(folder: UPath, num_steps: int, on_progress: ProgressCallback) -> Iterator[None]:
    """Tells the progress from the run's history while the body runs."""
    stop = threading.Event()
    shown = -1

    def look() -> None:
        nonlocal shown
        with contextlib.suppress(OSError, ValueError):
            lines = read_history(folder)
            if lines and lines[-1]["step"] != shown:
                shown = lines[-1]["step"]
                tokens = sum(line.get("num_tokens", 0) for line in lines)
                on_progress(Progress("training", shown, num_steps, tokens=tokens))

    def keep_looking() -> None:
        while not stop.wait(_LOOK_EVERY_S):
            look()

    thread = threading.Thread(target=keep_looking, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()
