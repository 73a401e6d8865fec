"""The end of a fine-tuning job: the best checkpoint as a model folder, ``run.json``, card, ``_SUCCESS``."""

import json
import time
from dataclasses import asdict, dataclass

from upath import UPath

from safe_r1.attacks.trained import RECORD
from safe_r1.errors import TrainingError
from safe_r1.models.registry import ORIGIN_FILE
from safe_r1.models.variant import Variant
from safe_r1.progress import ProgressCallback
from safe_r1.provenance import now
from safe_r1.redaction import hide_credentials
from safe_r1.runs import JsonObject, RunFolder
from safe_r1.train.card import RunInfo, render_card
from safe_r1.train.checkpoint_files import (
    DAMAGE_FILE,
    CheckpointState,
    best_checkpoint,
    list_checkpoints,
    pass_over,
    passed_over,
    read_state,
    scores_file,
)
from safe_r1.train.data import PreparedData
from safe_r1.train.history import StepRecord, read_history
from safe_r1.train.job import TrainJob
from safe_r1.train.run import Fingerprint, find_damage_on_cluster
from safe_r1.train.spec import TrainSpec
from safe_r1.train.spread import run_on_cluster


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


def read_finished(job: TrainJob, fingerprint: Fingerprint) -> TrainResult | None:
    """The result of an earlier job that trained for as long; None if there is something to do."""
    if not job.folder.is_complete:
        return None
    info = job.folder.read_json("run.json") or {}
    wanted = {"length": fingerprint["length"], "choice": _choice(job)}
    # A run of an earlier release says nothing of either.
    if any(info.get(name, value) != value for name, value in wanted.items()):
        return None
    return TrainResult(job.folder, job.model_folder, info, was_complete=True)


def extend(job: TrainJob, spec: TrainSpec) -> TrainResult | None:
    """The result of a finished run that has as many steps as are asked for now.

    Returns:
        None if there is something to do. The run counts as finished, with its model, until ``publish``.

    Raises:
        TrainingError: Its checkpoints are gone.
    """
    if not job.folder.is_complete:
        return None
    info = job.folder.read_json("run.json") or {}
    if info["num_steps"] >= spec.num_steps and info.get("choice", _choice(job)) == _choice(job):
        return TrainResult(job.folder, job.model_folder, info, was_complete=True)
    if not list_checkpoints(job.folder.path / "checkpoints"):
        raise TrainingError(
            f"cannot go on from step {info['num_steps']}, or export another one: the checkpoints of "
            f"{job.folder.path} were removed; begin another run with --set run=NAME"
        )
    return None


def _choice(job: TrainJob) -> dict[str, object]:
    """What decides which step is exported, and in what data type."""
    save = job.config.save
    return {"by": scores_file(job.config) or "validation", "patience": save.patience, "dtype": save.dtype}


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
    # The model and run.json are written anew: until that is done they are of no finished run.
    job.folder.unpublish()
    best, state = _best_sound(job)
    steps = _all_steps(job)
    records = [record for record in steps if record["step"] > 0]
    info = (job.folder.read_json("run.json") or {}) | {
        "finished_at": now(),
        "length": fingerprint["length"],
        "choice": _choice(job),
        "num_steps": records[-1]["step"],
        "stopped_early": records[-1].get("stopped", False),
        "exported_step": state["step"],
        "validation": state["validation"],
        "first_validation": steps[0].get("validation", {}) if steps[0]["step"] == 0 else {},
        "data": dict(data.content["splits"]),
        "corpus_sha256": fingerprint["corpus"],
        "plan": {"layout": asdict(job.plan.layout), "memory_gib": job.plan.memory.total},
        "peak_memory_gib": max(record.get("memory_gib", 0.0) for record in records),
        # One entry if every start of the workers chose the same.
        "attention": sorted({record["attention"] for record in records if "attention" in record}),
        "safety_checks": _safety_checks(job),
        "damaged_checkpoints": passed_over(job.folder.path / "checkpoints"),
        "wall_s": round(time.monotonic() - started, 1),
    }
    job.folder.write_json("run.json", info)
    card = render_card(job.variant, job.config, info, records)
    export_model(job, best, job.model_folder, on_progress, card)
    job.folder.publish()
    return TrainResult(job.folder, job.model_folder, info)


def export_model(
    job: TrainJob, checkpoint: UPath, model: UPath, on_progress: ProgressCallback, card: str = ""
) -> None:
    """Export a checkpoint to a model folder that is prompted and sampled like the model that was trained."""
    import torch

    from safe_r1.train.export import export
    from safe_r1.train.export_weights import ExportSpec

    config = job.config
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    dtype = dtypes.get(config.save.dtype)
    origin: dict[str, object] = {
        "base": _table_name(job.variant),
        "run": hide_credentials(str(job.folder.path)),
    }
    if attacks := (job.folder.read_json("run.json") or {}).get(RECORD):
        origin[RECORD] = attacks
    spec = ExportSpec(
        checkpoint,
        job.variant,
        model,
        card,
        config.lora,
        config.trust_remote_code,
        dtype,
        others={ORIGIN_FILE: json.dumps(origin).encode()},
    )
    export(spec, on_progress, run_on_cluster)


def _best_sound(job: TrainJob) -> tuple[UPath, CheckpointState]:
    """The best checkpoint whose files are as they were written, and its state."""
    folder = job.folder.path / "checkpoints"
    while best := best_checkpoint(folder, scores_file(job.config)):
        damage = find_damage_on_cluster(best)
        state = read_state(best)
        if damage is None and state is not None:
            return best, state
        pass_over(best, damage or "")
    raise TrainingError(
        f"no checkpoint of {job.folder.path} is sound, see {folder}/*/{DAMAGE_FILE}; run the same command "
        "again to train from the beginning"
    )


def _safety_checks(job: TrainJob) -> JsonObject:
    name = scores_file(job.config)
    return (job.folder.read_json(name) if name else None) or {}


def _all_steps(job: TrainJob) -> list[StepRecord]:
    """The history as the latest checkpoint holds it: a crash may have cut the file."""
    for _, path in reversed(list_checkpoints(job.folder.path / "checkpoints")):
        if steps := (read_state(path) or {}).get("history"):
            return steps
    if steps := read_history(job.folder.path):
        return steps
    raise TrainingError(
        f"{job.folder.path} has no history of its steps any more; begin another run with --set run=NAME"
    )


def _table_name(variant: Variant) -> str | None:
    """The table entry that a model is prompted like; None for a model outside the table."""
    if variant.kind == "custom":
        return None
    # A model that was fine-tuned before has a name of its own.
    return variant.base if variant.is_exported else variant.name
