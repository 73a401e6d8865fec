"""The fine-tuning job: plan → data → train → export → ``_SUCCESS``. The same command does what its folder
lacks.
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
from safe_r1.progress import ProgressCallback
from safe_r1.provenance import hardware, now, versions
from safe_r1.resources import Cluster, connect, disconnect
from safe_r1.runs import RunFolder, is_local, sha256, write_bytes
from safe_r1.train.config import FinetuneConfig
from safe_r1.train.data import DataInfo, prepare_data, read_corpus
from safe_r1.train.history import FAILURE, read_history
from safe_r1.train.job import Job, absolute, make_job, make_spec
from safe_r1.train.loop import TrainSpec

# Settings that change how a run is computed, not what comes out of it.
_FREE = {"output", "num_workers", "device", "gpu", "max_failures", "resume", "trackers", "parallel", "save"}
_FREE |= {"trust_remote_code"}


@dataclass
class Outcome:
    """What became of a run: its folder, the finished model, and the figures of ``run.json``."""

    folder: RunFolder
    model: UPath
    info: dict[str, Any]
    was_complete: bool = False


def finetune(config: FinetuneConfig, on_progress: ProgressCallback, log: Path | None = None) -> Outcome:
    """Fine-tune to a finished model, doing only what is missing.

    Raises:
        SafeR1Error: Anything a user can repair; what was finished until then is kept.
    """
    started = time.monotonic()
    read_corpus(UPath(config.corpus))
    cluster = connect()
    job = make_job(config, cluster)
    fingerprint = _fingerprint(job)
    _open(job, fingerprint, cluster)
    if job.folder.is_complete:
        return Outcome(
            job.folder, job.model_folder, job.folder.read_json("run.json") or {}, was_complete=True
        )
    try:
        data = _prepare(job, on_progress)
        _check_room(job)
        spec = make_spec(job, data)
        _train(job, spec, on_progress)
        return _publish(job, data, fingerprint, started, on_progress)
    finally:
        if log:
            job.folder.keep_log(log)


def _prepare(job: Job, on_progress: ProgressCallback) -> DataInfo:
    """Packed data lie beside the runs: variants of one tokenizer share them."""
    config = job.config
    folder = UPath(absolute(config.output)) / "data"
    return prepare_data(
        absolute(config.corpus), folder, job.variant, config.pack, on_progress, config.trust_remote_code
    )


def _fingerprint(job: Job) -> dict[str, Any]:
    settings = job.config.model_dump(mode="json", exclude=_FREE)
    return {
        "settings": settings | {"states": job.plan.layout.states, "dtype_bytes": job.plan.dtype_bytes},
        "variant": job.identity,
        "corpus": sha256(read_corpus(UPath(job.config.corpus))[0]),
        "versions": versions(("torch", "transformers")),
    }


def _open(job: Job, fingerprint: dict[str, Any], cluster: Cluster) -> None:
    config = job.config
    if config.resume and job.folder.read_json("run.json") is None:
        raise RunConflictError(
            f"--resume: there is no run in {job.folder.path}; leave the flag out to begin one"
        )
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


def _check_room(job: Job) -> None:
    """Two checkpoints, the one being written, and the export fit on a local disk."""
    if not is_local(job.folder.path):
        return
    needed = 3 * job.plan.checkpoint_gib + job.plan.export_gib
    free = shutil.disk_usage(job.folder.path.path).free / 2**30
    if free < needed:
        raise StorageError(
            f"{job.folder.path}: {free:.1f} GiB free, three checkpoints and the export take {needed:.1f}; free the disk or "
            "choose another --output"
        )


def _train(job: Job, spec: TrainSpec, on_progress: ProgressCallback) -> None:
    from safe_r1.train.workers import run_workers

    if not _is_trained(job, spec):
        run_workers(spec, job.workers, on_progress)
    _refuse_failure(job)


def _refuse_failure(job: Job) -> None:
    failure = job.folder.read_json(FAILURE)
    if failure:
        shown = ", ".join(failure["row_ids"][:8])
        raise TrainingError(
            f"step {failure['step']}: {failure['reason']}; stopped before it changed the model, the last checkpoint is kept. "
            f"Rows of the batch: {shown}{' ...' if len(failure['row_ids']) > 8 else ''} (all in {job.folder.path / FAILURE}). "
            "Lower optimizer.lr, or look at these rows"
        )


def _is_trained(job: Job, spec: TrainSpec) -> bool:
    """The last checkpoint is the run's end."""
    from safe_r1.train.checkpoint import list_checkpoints, read_state

    found = list_checkpoints(job.folder.path / "checkpoints")
    return bool(found) and (found[-1][0] == spec.num_steps or read_state(found[-1][1])["stopped"])


def _publish(
    job: Job, data: DataInfo, fingerprint: dict[str, Any], started: float, on_progress: ProgressCallback
) -> Outcome:
    """Export the best checkpoint, write its figures and, last, the marker."""
    from safe_r1.train.card import render_card
    from safe_r1.train.checkpoint import best_checkpoint, read_state
    from safe_r1.train.export import ExportSpec, export

    best = best_checkpoint(job.folder.path / "checkpoints")
    assert best is not None, "training ends with a checkpoint"
    state, (before, *lines) = read_state(best), read_history(job.folder.path)
    info = (job.folder.read_json("run.json") or {}) | {
        "finished_at": now(),
        "num_steps": lines[-1]["step"],
        "exported_step": state["step"],
        "validation": state["validation"],
        "first_validation": before["validation"],
        "data": {name: data.content["splits"][name] for name in data.content["splits"]},
        "corpus_sha256": fingerprint["corpus"],
        "plan": {"layout": asdict(job.plan.layout), "memory_gib": job.plan.memory.total},
        "peak_memory_gib": max(line["memory_gib"] for line in lines),
        "wall_s": round(time.monotonic() - started, 1),
    }
    job.folder.write_json("run.json", info)
    card = render_card(job.variant, job.config, info, lines)
    lora, remote = job.config.lora, job.config.trust_remote_code
    export(ExportSpec(best, job.variant, job.model_folder, card, lora, remote), on_progress)
    # How the finished model is asked: as the one that it was made from, so that both can be compared.
    base = job.variant.name if job.variant.kind != "custom" else None
    write_bytes(
        job.model_folder / ORIGIN_FILE, json.dumps({"base": base, "run": str(job.folder.path)}).encode()
    )
    job.folder.publish()
    return Outcome(job.folder, job.model_folder, info)


def run_here(config: FinetuneConfig, show: Callable[[str], None]) -> None:
    """Fine-tune in the processes that ``torchrun`` started; see ``finetune``."""
    import os

    import torch

    from safe_r1.train.loop import Trainer

    started, rank, world = (
        time.monotonic(),
        int(os.environ.get("RANK", "0")),
        int(os.environ.get("WORLD_SIZE", "1")),
    )
    prepared = _prepare_here(config, world) if rank == 0 else None
    shared = [prepared and prepared[0]]
    if world > 1:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        torch.distributed.broadcast_object_list(shared)
    spec: Any = shared[0]
    Trainer(spec).run(lambda figures: show(json.dumps(figures)) if rank == 0 else None)
    if prepared:
        _, job, data, fingerprint = prepared
        _refuse_failure(job)
        show(f"model: {_publish(job, data, fingerprint, started, lambda *_: None).model}")
    if world > 1:
        torch.distributed.destroy_process_group()


def _prepare_here(config: FinetuneConfig, world: int) -> tuple[TrainSpec, Job, DataInfo, dict[str, Any]]:
    cluster = connect()
    job = make_job(config.model_copy(update={"num_workers": str(world)}), cluster)
    fingerprint = _fingerprint(job)
    _open(job, fingerprint, cluster)
    data = _prepare(job, lambda *_: None)
    _check_room(job)
    disconnect()
    return make_spec(job, data), job, data, fingerprint


def dry_run(config: FinetuneConfig, show: Callable[[str], None]) -> None:
    """Show the plan and the first batch as it is learned; trains nothing."""
    from safe_r1.models.chat import load_tokenizer
    from safe_r1.train.data import batch_indices
    from safe_r1.train.pack import PackedReader, describe_batch
    from safe_r1.train.plan_text import to_text

    job = make_job(config, connect())
    data = _prepare(job, lambda *_: None)
    spec, train = make_spec(job, data), data.content["splits"]["train"]
    plan = replace(
        job.plan,
        corpus_tokens=train["num_tokens"],
        document_tokens=round(train["num_tokens"] / train["num_documents"]),
    )
    show(to_text(job.variant.name, plan))
    show(
        f"\ndata      {train['num_rows_packed']:,} rows in {train['num_sequences']:,} sequences, {train['num_rows_dropped']:,} "
        f"dropped; {train['efficiency']:.1%} of {config.pack.seq_len} tokens used; {spec.num_steps:,} steps"
    )
    indices = batch_indices(train["num_sequences"], config.global_batch_size, config.seed, 0)
    tokenizer = load_tokenizer(job.variant.source, job.variant.revision, config.trust_remote_code)
    show("\nfirst batch; what is learned stands between 【 and 】")
    show(describe_batch(PackedReader(data.folder, "train").read(indices), tokenizer))
