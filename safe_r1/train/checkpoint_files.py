"""Files of a run's checkpoints: which are complete, which are damaged, which is the best.

``CHECKPOINTS/step-000050/`` holds the files of torch's distributed checkpoint, and ``state.json`` with the
size and SHA-256 of each, written when everything else is: a folder without that file is an interrupted write.
Whatever else lies in the folder of the checkpoints is left alone.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from upath import UPath

from safe_r1.runs import RunFolder, sha256, write_bytes
from safe_r1.train.config import FinetuneConfig

STATE_FILE = "state.json"
DAMAGE_FILE = "damaged.json"
# Eight digits of steps are more than any run has; `[0-9]`, as `\d` matches digits of other scripts too.
_NAME = re.compile(r"step-([0-9]{1,8})")

CheckpointState = dict[str, Any]
"""Content of ``state.json``: the fields of ``loop.TrainState``, the validation losses, and ``files``."""


class FileRecord(TypedDict):
    """Size and SHA-256 of one file of a checkpoint."""

    bytes: int
    sha256: str


def checkpoint_path(folder: UPath, step: int) -> UPath:
    """Folder of the checkpoint after a step."""
    return folder / f"step-{step:06d}"


def list_checkpoints(folder: UPath) -> list[tuple[int, UPath]]:
    """The complete checkpoints with their steps, oldest first."""
    paths = folder.iterdir() if folder.exists() else ()
    named = ((_NAME.fullmatch(path.name), path) for path in paths)
    return sorted((int(name[1]), path) for name, path in named if name and (path / STATE_FILE).is_file())


def read_state(checkpoint: UPath) -> CheckpointState | None:
    """The training state that was saved with a checkpoint; None if its file is damaged."""
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) else None


def file_records(checkpoint: UPath, names: Iterable[str]) -> dict[str, FileRecord]:
    """Size and SHA-256 of files of a checkpoint, as they are on the disk now."""
    return {name: _record(checkpoint / name) for name in names}


def _record(path: UPath) -> FileRecord:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            size += len(block)
    return FileRecord(bytes=size, sha256=digest.hexdigest())


def find_damage(checkpoint: UPath, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with the files of a checkpoint; None if they are as they were written.

    Args:
        checkpoint: Its folder.
        part: Which of its files to read, when several workers share them.
        parts: Number of these workers.
    """
    state = read_state(checkpoint)
    records = (state or {}).get("files", {})
    if state is None or "step" not in state or not _are_records(records):
        return f"{STATE_FILE} is no state of a checkpoint"
    for name in sorted(records)[part::parts]:
        path = checkpoint / name
        if not path.exists():
            return f"{name} is missing"
        # The size first: a file that is cut off need not be read.
        if path.stat().st_size != records[name]["bytes"] or _record(path) != records[name]:
            return f"{name} has other content than was written"
    return None


def recorded_files(checkpoint: UPath) -> list[str]:
    """Names of the files of a checkpoint, as its state says; none where that is damaged."""
    records = (read_state(checkpoint) or {}).get("files", {})
    return sorted(records) if _are_records(records) else []


def _are_records(records: object) -> bool:
    return isinstance(records, Mapping) and all(
        isinstance(record, Mapping) and record.keys() == FileRecord.__annotations__.keys()
        for record in records.values()
    )


def pass_over(checkpoint: UPath, damage: str) -> None:
    """Take a damaged checkpoint out of the list, and leave what is wrong with it in its folder."""
    write_bytes(checkpoint / DAMAGE_FILE, json.dumps({"damage": damage}).encode())
    (checkpoint / STATE_FILE).unlink(missing_ok=True)


def passed_over(folder: UPath) -> dict[str, str]:
    """The damage of each checkpoint that was passed over, by the name of its folder."""
    paths = folder.iterdir() if folder.exists() else ()
    files = {path.name: path / DAMAGE_FILE for path in paths if _NAME.fullmatch(path.name)}
    return {
        name: json.loads(file.read_text(encoding="utf-8"))["damage"]
        for name, file in sorted(files.items())
        if file.exists()
    }


def scores_file(config: FinetuneConfig) -> str | None:
    """Name of the file with the scores of a run's safety checks; None if these do not choose its checkpoint.

    Scores by other questions or another judge do not compare, and have a file of their own.
    """
    if config.save.keep_best != "safety":
        return None
    return f"safety-{sha256(config.safety_check.model_dump(mode='json', exclude={'every'}))[:8]}.json"


def best_checkpoint(folder: UPath, scores: str | None = None) -> UPath | None:
    """The complete checkpoint with the best safety score, else with the lowest validation loss.

    Of equals it is the latest one, and without both too; None if there is no checkpoint.

    Args:
        folder: Folder of the checkpoints.
        scores: Name of the file with their scores in the folder above; None: the validation loss chooses.
    """
    values = read_scores(folder.parent, scores)
    # A score counts before a loss, a loss before nothing; negative steps, so that the later one is smaller.
    ranked: list[tuple[int, float, int, UPath]] = []
    for step, path in list_checkpoints(folder):
        loss = (read_state(path) or {}).get("validation_loss")
        if step in values:
            ranked.append((0, -values[step], -step, path))
        elif loss is not None and math.isfinite(loss):
            ranked.append((1, loss, -step, path))
        else:
            ranked.append((2, 0.0, -step, path))
    return min(ranked)[3] if ranked else None


def read_scores(folder: UPath, scores: str | None) -> dict[int, float]:
    """Scores of the safety checks of a run by step."""
    content = (RunFolder(folder).read_json(scores) if scores else None) or {}
    return {int(step): score["value"] for step, score in content.items()}


def remove_checkpoint(checkpoint: UPath) -> None:
    """Remove a checkpoint; an interrupted removal leaves a folder that does not count as one."""
    (checkpoint / STATE_FILE).unlink(missing_ok=True)
    checkpoint.fs.rm(checkpoint.path, recursive=True)
