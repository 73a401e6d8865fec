"""The fine-tuning job: plan → data → training → export → ``_SUCCESS``.

Repeating the same command does only what its run folder lacks.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from upath import UPath

from safe_r1.errors import RunConflictError, StorageError, TrainingError
from safe_r1.models.registry import ORIGIN_FILE
from safe_r1.models.variant import Variant
from safe_r1.progress import Progress, ProgressCallback
from safe_r1.provenance import hardware, now, versions
from safe_r1.resources import Cluster, connect
from safe_r1.runs import RunFolder, is_local, sha256, write_bytes
from safe_r1.train.card import RunInfo, render_card
from safe_r1.train.config import FinetuneConfig
from safe_r1.train.data import PreparedData, prepare_data, read_corpus
from safe_r1.train.history import FAILURE_FILE, read_history
from safe_r1.train.job import TrainJob, absolute, make_job, make_spec
from safe_r1.train.loop import TrainSpec

# Settings that may change when a run is resumed: they affect how it is computed, not its result.
_MUTABLE_SETTINGS = {
    "output",
    "num_workers",
    "device",
    "gpu",
    "max_failures",
    "resume",
    "trackers",
    "parallel",
    "save",
    "trust_remote_code",
}
_SHOWN_ROWS = 8

Fingerprint = dict[str, Any]
"""Everything that could change the result of a run, as ``run.json`` holds it."""


@dataclass
class TrainResult:
    """A finished run.

    Attributes:
        folder: Its folder.
        model: Folder of the exported model.
        info: Content of ``run.json``.
        was_complete: True if an earlier job had finished it.
    """

    folder: RunFolder
    model: UPath
    info: RunInfo
    was_complete: bool = False


def finetune(config: FinetuneConfig, on_progress: ProgressCallback, log: Path | None = None) -> TrainResult:
    """Fine-tune a model and export it; finished parts of the run are reused.

    Args:
        config: The settings.
        on_progress: Called with the progress of each stage.
        log: Log file of the job, copied into the run folder at the end.

    Raises:
        SafeR1Error: An error that the user can fix; what was finished before is kept.
    """
    started = time.monotonic()
    # Fails on a wrong corpus before Ray is started.
    read_corpus(UPath(config.corpus))
    cluster = connect()
    job = make_job(config, cluster)
    fingerprint = make_fingerprint(job)
    # A conflict with an earlier run shows before any time is spent on data.
    open_run(job, fingerprint, cluster)
    if job.folder.is_complete:
        info = job.folder.read_json("run.json") or {}
        return TrainResult(job.folder, job.model_folder, info, was_complete=True)
    try:
        data = prepare_job_data(job, on_progress)
        check_disk_space(job)
        spec = make_spec(job, data)
        _train(job, spec, on_progress)
        return publish(job, data, fingerprint, started, on_progress)
    finally:
        if log:
            job.folder.keep_log(log)


def prepare_job_data(job: TrainJob, on_progress: ProgressCallback) -> PreparedData:
    """Prepare the corpus in a folder beside the runs, which runs with the same tokenizer share."""
    config = job.config
    folder = UPath(absolute(config.output)) / "data"
    return prepare_data(
        absolute(config.corpus), folder, job.variant, config.pack, on_progress, config.trust_remote_code
    )


def make_fingerprint(job: TrainJob) -> Fingerprint:
    """Everything that could change the result of the run."""
    settings = job.config.model_dump(mode="json", exclude=_MUTABLE_SETTINGS)
    return {
        "settings": settings | {"states": job.plan.layout.states, "dtype_bytes": job.plan.dtype_bytes},
        "variant": job.identity,
        "corpus": sha256(read_corpus(UPath(job.config.corpus))[0]),
        "versions": versions(("torch", "transformers")),
    }


def open_run(job: TrainJob, fingerprint: Fingerprint, cluster: Cluster) -> None:
    """Create the run folder, or check that it holds the same run.

    Raises:
        RunConflictError: It holds another run, or with ``resume`` none.
    """
    config = job.config
    if config.resume and job.folder.read_json("run.json") is None:
        raise RunConflictError(f"--resume: there is no run in {job.folder.path}; omit the flag to start one")
    job.folder.open(
        fingerprint,
        {
            "variant": asdict(job.variant),
            "config": config.model_dump(mode="json"),
            "versions": versions(),
            "hardware": hardware() | {"device": job.device, "cluster_gpus": cluster.gpu_total},
            "started_at": now(),
        },
    )


def check_disk_space(job: TrainJob) -> None:
    """Check that three checkpoints (latest, best, pending) and the export fit on a local disk.

    Raises:
        StorageError: They do not.
    """
    if not is_local(job.folder.path):
        return
    needed = 3 * job.plan.checkpoint_gib + job.plan.export_gib
    free = shutil.disk_usage(job.folder.path.path).free / 2**30
    if free < needed:
        raise StorageError(
            f"{job.folder.path}: {free:.1f} GiB free, three checkpoints and the export need {needed:.1f}; "
            "free disk space or choose another --output"
        )


def _train(job: TrainJob, spec: TrainSpec, on_progress: ProgressCallback) -> None:
    from safe_r1.train.workers import run_workers

    # A run that was interrupted during its export is not trained again.
    if not _is_trained(job, spec):
        run_workers(spec, job.workers, on_progress)
    raise_on_failure(job)


def raise_on_failure(job: TrainJob) -> None:
    """Report why training stopped early, if it did.

    Raises:
        TrainingError: The loss is NaN or inf, or diverged.
    """
    failure = job.folder.read_json(FAILURE_FILE)
    if failure:
        row_ids = failure["row_ids"]
        shown = ", ".join(row_ids[:_SHOWN_ROWS]) + (" ..." if len(row_ids) > _SHOWN_ROWS else "")
        raise TrainingError(
            f"step {failure['step']}: {failure['reason']}; stopped before the model was updated, the latest "
            f"checkpoint is kept. Rows of the batch: {shown} (all in {job.folder.path / FAILURE_FILE}). "
            "Lower optimizer.lr, or inspect these rows"
        )


def _is_trained(job: TrainJob, spec: TrainSpec) -> bool:
    """True if the latest checkpoint is the end of training."""
    from safe_r1.train.checkpoint import list_checkpoints, read_state

    checkpoints = list_checkpoints(job.folder.path / "checkpoints")
    if not checkpoints:
        return False
    step, path = checkpoints[-1]
    return step == spec.num_steps or read_state(path)["stopped"]


def publish(
    job: TrainJob,
    data: PreparedData,
    fingerprint: Fingerprint,
    started: float,
    on_progress: ProgressCallback,
) -> TrainResult:
    """Export the best checkpoint, complete ``run.json``, and write the success marker last.

    Args:
        job: The job.
        data: Its prepared data.
        fingerprint: Its fingerprint.
        started: ``time.monotonic()`` at the job's start.
        on_progress: Called with the number of weight files written.
    """
    from safe_r1.train.checkpoint import best_checkpoint, read_state
    from safe_r1.train.export import ExportSpec, export

    best = best_checkpoint(job.folder.path / "checkpoints")
    assert best is not None, "training ends with a checkpoint"
    state = read_state(best)
    before, *records = read_history(job.folder.path)
    info = (job.folder.read_json("run.json") or {}) | {
        "finished_at": now(),
        "num_steps": records[-1]["step"],
        "exported_step": state["step"],
        "validation": state["validation"],
        "first_validation": before.get("validation", {}),
        "data": dict(data.content["splits"]),
        "corpus_sha256": fingerprint["corpus"],
        "plan": {"layout": asdict(job.plan.layout), "memory_gib": job.plan.memory.total},
        "peak_memory_gib": max(record.get("memory_gib", 0.0) for record in records),
        "wall_s": round(time.monotonic() - started, 1),
    }
    job.folder.write_json("run.json", info)
    card = render_card(job.variant, job.config, info, records)
    spec = ExportSpec(
        best, job.variant, job.model_folder, card, job.config.lora, job.config.trust_remote_code
    )
    export(spec, on_progress)
    # The exported model is prompted and sampled like its base, so that both can be compared.
    origin = {
        "base": _table_name(job.variant),
        "run": str(job.folder.path),
    }
    write_bytes(job.model_folder / ORIGIN_FILE, json.dumps(origin).encode())
    job.folder.publish()
    return TrainResult(job.folder, job.model_folder, info)


def _table_name(variant: Variant) -> str | None:
    """The table entry that a model is prompted like; None for a model outside the table."""
    if variant.kind == "custom":
        return None
    # A model that was fine-tuned before has a name of its own.
    return variant.base if variant.kind == "enhanced" and variant.is_local else variant.name


def dry_run(config: FinetuneConfig, show: Callable[[str], None]) -> None:
    """Show the plan and the first batch with its loss mask; nothing is trained."""
    from safe_r1.models.chat import load_tokenizer
    from safe_r1.train.packed import PackedReader
    from safe_r1.train.plan_text import to_text
    from safe_r1.train.preview import describe_batch
    from safe_r1.train.sampler import batch_indices

    job = make_job(config, connect())
    data = prepare_job_data(job, ignore_progress)
    spec = make_spec(job, data)
    train = data.content["splits"]["train"]
    # The corpus is known now, so its numbers replace the plan's assumptions.
    plan = replace(
        job.plan,
        corpus_tokens=train["num_tokens"],
        document_tokens=round(train["num_tokens"] / train["num_documents"]),
    )
    show(to_text(job.variant.name, plan))
    show(
        f"\ndata      {train['num_rows_packed']:,} rows in {train['num_sequences']:,} sequences, "
        f"{train['num_rows_dropped']:,} dropped; {train['efficiency']:.1%} of {config.pack.seq_len} tokens "
        f"used; {spec.num_steps:,} steps"
    )
    indices = batch_indices(train["num_sequences"], config.global_batch_size, config.seed, 0)
    tokenizer = load_tokenizer(job.variant.source, job.variant.revision, config.trust_remote_code)
    show("\nfirst batch, label tokens between 【 and 】")
    show(describe_batch(PackedReader(data.folder, "train").read(indices), tokenizer))


def ignore_progress(progress: Progress) -> None:
    """A progress callback that shows nothing."""
