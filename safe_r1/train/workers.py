"""Training on Ray Train workers, which are restarted when they are lost."""

import contextlib
import os
import re
import threading
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from upath import UPath

from safe_r1.errors import SafeR1Error, StorageError, TrainingError, TransientError, WorkersLostError
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.redaction import hide_credentials
from safe_r1.resources import node_labels
from safe_r1.runs import remove, write_bytes
from safe_r1.train.history import read_history

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

    from safe_r1.train.spec import TrainSpec

# Messages of gloo, NCCL and torch's TCPStore when the other end of a connection is gone; plain RuntimeErrors.
_CONNECTION_LOST = re.compile(r"(?i)connection|timed? ?out|reset by peer|broken pipe|gloo|nccl")
# Autoscaled nodes may still be starting when the first worker is ready.
_START_TIMEOUT_S = 3600
_POLL_INTERVAL_S = 1.0
# Left by a worker whose error would come again: workers that are started after it do nothing.
_ERROR_FILE = "error.txt"
# Of a bad setting, damaged weights or a fault in the code; a lost machine or network is none of these.
_DETERMINISTIC = (
    SafeR1Error,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    ImportError,
    NotImplementedError,
)


def run_workers(spec: "TrainSpec", workers: tuple[int, int], on_progress: ProgressCallback) -> None:
    """Train to the end; lost workers are replaced, and all continue from the latest checkpoint.

    Args:
        spec: What the workers need.
        workers: Minimum and maximum number of workers; equal for a fixed number.
        on_progress: Called with the number of optimizer steps done.

    Raises:
        SafeR1Error: A worker found what is wrong with the model, the data or the settings.
        TrainingError: Workers failed more often than ``max_failures`` allows, or an error of the code.
        WorkersLostError: The same, because machines were lost or did not start.
    """
    # Ray Train has no argument for this limit.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_START_TIMEOUT_S))
    from ray.train.v2.api.exceptions import TrainingFailedError

    # Ray's own state of the attempt; a run is resumed from its checkpoints instead.
    ray_folder = UPath(spec.folder) / "ray"
    error_file = UPath(spec.folder) / _ERROR_FILE
    error_file.unlink(missing_ok=True)
    trainer = _make_trainer(spec, workers, ray_folder)
    try:
        with _report_progress(UPath(spec.folder), spec.num_steps, on_progress):
            trainer.fit()
        _raise_worker_error(error_file)
    except TrainingFailedError as error:
        _raise_worker_error(error_file)
        # The last line is the error itself; a worker's traceback is above it.
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        error_class = WorkersLostError if _is_worker_loss(error) else TrainingError
        raise error_class(
            f"training stopped: {reason}; run the same command again to resume from the latest checkpoint in "
            f"{spec.folder}"
        ) from error
    finally:
        remove(ray_folder)


def _make_trainer(spec: "TrainSpec", workers: tuple[int, int], ray_folder: UPath) -> "TorchTrainer":
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from safe_r1.train.parallel import COLLECTIVE_TIMEOUT

    minimum, maximum = workers
    return TorchTrainer(
        _train_worker,
        train_loop_config={"spec": spec},
        scaling_config=ScalingConfig(
            num_workers=minimum if minimum == maximum else (minimum, maximum),
            use_gpu=spec.device == "cuda",
            label_selector=node_labels() or None,
        ),
        torch_config=TorchConfig(
            backend="gloo" if spec.device == "cpu" else "cpu:gloo,cuda:nccl",
            timeout_s=int(COLLECTIVE_TIMEOUT.total_seconds()),
        ),
        run_config=RunConfig(
            # Ray Train would restore a run of the same name.
            name=uuid.uuid4().hex[:8],
            storage_path=str(ray_folder),
            failure_config=FailureConfig(max_failures=spec.config.max_failures),
        ),
    )


def _raise_worker_error(path: UPath) -> None:
    """Report the error that a worker has left, if one has."""
    if path.exists():
        reason = path.read_text(encoding="utf-8", errors="replace")
        path.unlink()
        raise TrainingError(reason)


def _is_worker_loss(error: Exception) -> bool:
    """True if machines were lost or did not start, False if the code of a worker raised an error.

    The peers of a lost worker see a broken connection, often a plain RuntimeError, and often before Ray
    reports the loss.
    """
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import RayTrainError
    from torch.distributed import DistError

    controller_failure = getattr(error, "controller_failure", None)
    worker_failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    failures = [controller_failure] if controller_failure else list(worker_failures.values())
    if any(isinstance(failure, RayError | RayTrainError) for failure in failures):
        return True
    return all(
        isinstance(failure, DistError | TransientError)
        or (isinstance(failure, RuntimeError) and _CONNECTION_LOST.search(str(failure)))
        for failure in failures
    )


def _train_worker(settings: "dict[str, TrainSpec]") -> None:
    """The training function of Ray Train; runs in each worker process."""
    import ray.train
    import torch

    from safe_r1.train.loop import Trainer

    spec = settings["spec"]
    if spec.device == "cpu":
        # Ray sets the threads of a worker to its logical CPUs, which is one; share the real cores instead.
        context = ray.train.get_context()
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    error_file = UPath(spec.folder) / _ERROR_FILE
    if error_file.exists():
        return
    try:
        Trainer(spec).run(on_save=lambda metrics: ray.train.report(metrics))
    except (*_DETERMINISTIC, torch.OutOfMemoryError) as error:
        # A full or unreachable disk may be well again.
        if not isinstance(error, StorageError | TransientError):
            write_bytes(error_file, _describe(error).encode("utf-8", errors="replace"))
        raise


def _describe(error: Exception) -> str:
    """An error as one line that begins with words."""
    if isinstance(error, SafeR1Error):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    reason = (str(error).strip() or "no message").splitlines()[0]
    return hide_credentials(
        f"training failed with {type(error).__name__} at {Path(place.filename).name}:{place.lineno}: "
        f"{reason}; the log holds the traceback"
    )


@contextlib.contextmanager
def _report_progress(folder: UPath, num_steps: int, on_progress: ProgressCallback) -> Iterator[None]:
    """Report progress from the run's history, which rank 0 writes, while the body runs."""
    stop = threading.Event()
    last_step = -1

    def poll() -> None:
        nonlocal last_step
        # The file may be unreadable for a moment on shared storage.
        with contextlib.suppress(OSError, ValueError):
            records = read_history(folder)
            if records and records[-1]["step"] != last_step:
                last_step = records[-1]["step"]
                tokens = sum(record.get("num_tokens", 0) for record in records)
                on_progress(Progress("training", last_step, num_steps, tokens=tokens))

    def poll_until_stopped() -> None:
        while not stop.wait(_POLL_INTERVAL_S):
            poll()

    thread = threading.Thread(target=poll_until_stopped, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        poll()
