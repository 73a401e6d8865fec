"""The run folder of a fine-tuning job: what makes a run the same run, and how far it is."""

import functools
import math
from dataclasses import asdict
from typing import Any

from upath import UPath

from safe_r1.attacks.trained import RECORD, TrainedAttacks, read_trained
from safe_r1.errors import RunConflictError
from safe_r1.provenance import hardware, now, versions
from safe_r1.resources import Cluster
from safe_r1.runs import RunFolder, sha256
from safe_r1.train.checkpoint_files import (
    find_damage,
    list_checkpoints,
    pass_over,
    read_state,
    recorded_files,
)
from safe_r1.train.data import read_corpus
from safe_r1.train.job import TrainJob
from safe_r1.train.spec import TrainSpec
from safe_r1.train.spread import run_on_cluster

# Settings that may change when a run is resumed: they affect how it is computed, not its result. Of corpus
# and model the content counts, wherever it lies.
_MUTABLE_SETTINGS = {
    "variant",
    "corpus",
    "output",
    "num_workers",
    "device",
    "gpu",
    "max_failures",
    "resume",
    "trackers",
    "parallel",
    "save",
    "safety_check",
    "trust_remote_code",
}
# How long a run trains: more continues it, from its latest checkpoint.
_LENGTH_SETTINGS = {"epochs", "max_steps"}
# Of a checkpoint that is verified, each 1 GiB at most.
_FILES_PER_TASK = 16

Fingerprint = dict[str, Any]
"""Everything that could change the result of a run, as ``run.json`` holds it."""


def make_fingerprint(job: TrainJob) -> Fingerprint:
    """Everything that could change the result of the run."""
    # A run of an earlier release says nothing of FP8.
    unset = {"fp8"} if job.config.fp8 is None else set()
    excluded = _MUTABLE_SETTINGS | _LENGTH_SETTINGS | unset
    settings = job.config.model_dump(mode="json", exclude=excluded)
    return {
        "length": job.config.model_dump(include=_LENGTH_SETTINGS),
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
    _bring_up_to_date(job)
    job.folder.open(
        fingerprint,
        mutable=("length",),
        info={
            "lengths": _lengths(job, fingerprint),
            "variant": asdict(job.variant),
            **_attacks(job),
            "config": config.model_dump(mode="json"),
            "versions": versions(),
            "hardware": hardware() | {"device": job.device, "cluster_gpus": cluster.gpu_total},
            "started_at": now(),
        },
    )


def _attacks(job: TrainJob) -> dict[str, object]:
    """The record of the attacks that the model was trained on, by this corpus or an earlier one; none where
    neither knows of any.
    """
    corpus = RunFolder(UPath(job.config.corpus)).read_json("corpus.json") or {}
    trained = TrainedAttacks.from_json(corpus.get(RECORD))
    earlier = read_trained(job.variant.source)
    found = trained.after(earlier) if trained else earlier
    return {RECORD: found.to_json()} if found else {}


def _bring_up_to_date(job: TrainJob) -> None:
    """Rewrite the fingerprint of a run of an earlier release, which held settings that may change."""
    info = job.folder.read_json("run.json") or {}
    settings = info.get("fingerprint", {}).get("settings", {})
    old = {name: settings.pop(name) for name in _MUTABLE_SETTINGS | _LENGTH_SETTINGS if name in settings}
    if old:
        info["fingerprint"]["length"] = {name: old.get(name) for name in _LENGTH_SETTINGS}
        job.folder.write_json("run.json", {**info, "length": info["fingerprint"]["length"]})


def _lengths(job: TrainJob, fingerprint: Fingerprint) -> list[object]:
    """Every length that the run was to have, in order: the learning rate fell to the end of each."""
    lengths: list[object] = (job.folder.read_json("run.json") or {}).get("lengths", [])
    return lengths if lengths[-1:] == [fingerprint["length"]] else [*lengths, fingerprint["length"]]


def is_trained(job: TrainJob, spec: TrainSpec) -> bool:
    """True if the latest sound checkpoint is where the workers are to end."""
    for step, path in reversed(list_checkpoints(job.folder.path / "checkpoints")):
        state = read_state(path)
        save = job.config.save
        stopped = save.keep_best == "validation" and state and save.ends_early(state["num_worse"])
        if state and step < spec.last_step and not stopped:
            # The workers verify it, each its share of the files.
            return False
        if step > spec.last_step:
            # A part of a run that is further on: nothing is read of this checkpoint.
            return True
        damage = find_damage_on_cluster(path)
        if damage is None:
            return True
        pass_over(path, damage)
    return False


def find_damage_on_cluster(checkpoint: UPath) -> str | None:
    """Like ``find_damage``, but the files are read on all nodes: a large checkpoint takes hours on one."""
    parts = max(1, math.ceil(len(recorded_files(checkpoint)) / _FILES_PER_TASK))
    check = functools.partial(_find_damage_of_part, checkpoint, parts)
    return next(filter(None, run_on_cluster(check, range(parts), memory=0)), None)


def _find_damage_of_part(checkpoint: UPath, parts: int, part: int) -> str | None:
    return find_damage(checkpoint, part, parts)
