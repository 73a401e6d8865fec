"""The fine-tuning job: plan → data → training → export → ``_SUCCESS``.

Repeating the same command does only what its run folder lacks.
"""

import functools
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from safe_r1.errors import StorageError, TrainingError
from safe_r1.progress import NOTICES, Progress, ProgressCallback
from safe_r1.resources import connect
from safe_r1.runs import as_path, is_local, remove
from safe_r1.train.checkpoint_files import passed_over
from safe_r1.train.config import FinetuneConfig
from safe_r1.train.data import PreparedData, prepare_data, read_corpus
from safe_r1.train.history import FAILURE_FILE
from safe_r1.train.job import TrainJob, absolute, make_job, make_spec
from safe_r1.train.publish import TrainResult, export_model, extend, publish, read_finished
from safe_r1.train.run import is_trained, make_fingerprint, open_run
from safe_r1.train.selection import (
    MakeMeasure,
    check_stops,
    ends_early,
    score_checkpoint,
)
from safe_r1.train.spec import TrainSpec

notices = logging.getLogger(NOTICES)

_SHOWN_ROWS = 8


def finetune(
    config: FinetuneConfig,
    on_progress: ProgressCallback,
    log: Path | None = None,
    make_measure: MakeMeasure | None = None,
) -> TrainResult:
    """Fine-tune a model and export it; finished parts of the run are reused.

    Args:
        config: The settings.
        on_progress: Called with the progress of each stage.
        log: Log file of the job, copied into the run folder at the end.
        make_measure: How checkpoints are evaluated for ``save.keep_best=safety``.

    Raises:
        SafeR1Error: An error that the user can fix; what was finished before is kept.
    """
    started = time.monotonic()
    # Fails on a wrong corpus before Ray is started.
    read_corpus(as_path(config.corpus))
    cluster = connect()
    job = make_job(config, cluster)
    fingerprint = make_fingerprint(job)
    # A conflict with an earlier run shows before any time is spent on data.
    open_run(job, fingerprint, cluster)
    if finished := read_finished(job, fingerprint):
        return finished
    try:
        data = prepare_job_data(job, on_progress)
        check_disk_space(job)
        spec = make_spec(job, data)
        if finished := extend(job, spec):
            return finished
        if config.save.keep_best == "safety":
            train_and_check(job, spec, make_measure, on_progress)
        else:
            train_part(job, spec, on_progress)
        return publish(job, data, fingerprint, started, on_progress)
    finally:
        for name, damage in passed_over(job.folder.path / "checkpoints").items():
            notices.warning("checkpoint %s was damaged and passed over: %s", name, damage)
        if log:
            job.folder.keep_log(log)


def prepare_job_data(job: TrainJob, on_progress: ProgressCallback) -> PreparedData:
    """Prepare the corpus in a folder beside the runs, which runs with the same tokenizer share."""
    config = job.config
    folder = as_path(absolute(config.output)) / "data"
    return prepare_data(
        absolute(config.corpus), folder, job.variant, config.pack, on_progress, config.trust_remote_code
    )


def check_disk_space(job: TrainJob) -> None:
    """Check that four checkpoints (latest two, best, pending) and the export fit on a local disk.

    Raises:
        StorageError: They do not.
    """
    if not is_local(job.folder.path):
        return
    needed = job.plan.volume.written
    free = shutil.disk_usage(job.folder.path.path).free / 2**30
    if free < needed:
        raise StorageError(
            f"{job.folder.path}: {free:.3g} GiB free, four checkpoints and the export need {needed:.3g}; "
            "free disk space or choose another --output"
        )


def train_and_check(
    job: TrainJob, spec: TrainSpec, make_measure: MakeMeasure | None, on_progress: ProgressCallback
) -> None:
    """Train in parts, and evaluate the model after each, until the end or until it gets no better."""
    folder = job.folder.path / "safety-check"
    assert make_measure is not None, "the job gives it"
    measure = make_measure(job.config, folder, on_progress)
    for part in check_stops(spec, job.config.safety_check):
        train_part(job, part, on_progress)
        score_checkpoint(job, part.last_step, measure, functools.partial(export_model, job), on_progress)
        if ends_early(job):
            break
    remove(folder)


def train_part(job: TrainJob, spec: TrainSpec, on_progress: ProgressCallback) -> None:
    """Train up to the last step of a specification, unless that was done before."""
    from safe_r1.train.workers import run_workers

    # A run that was interrupted during its export is not trained again.
    if not is_trained(job, spec):
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
            "Inspect these rows, or lower optimizer.lr in a run of another name (--set run=NAME)"
        )


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
