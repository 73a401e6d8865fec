"""Records of a run: ``history.jsonl``, one line per optimizer step, and ``failure.json`` if it failed.

Step 0 holds the validation of the original model. Rank 0 writes the files. A checkpoint holds the steps
before it too, with which a resumed run begins: no step occurs twice or is missing, whatever a crash left.
"""

import contextlib
import json
import time
from collections.abc import Sequence
from typing import Required, TypedDict

from upath import UPath

from safe_r1.report.trackers import Tracker
from safe_r1.runs import write_bytes

HISTORY_FILE = "history.jsonl"
FAILURE_FILE = "failure.json"
_WRITE_EVERY_S = 2.0


class StepRecord(TypedDict, total=False):
    """One line of ``history.jsonl``; step 0 and steps without a validation lack some fields.

    ``validation`` is the mean loss by kind of row, and over ``all``; ``num_labels`` and ``num_tokens`` are
    of all workers; ``memory_gib`` is the peak of rank 0. The first step after each start of the workers has
    ``attention``: rank 0's implementation, with the reason where it is a fallback.
    """

    step: Required[int]
    loss: float
    lr: float
    grad_norm: float
    num_labels: int
    num_tokens: int
    step_s: float
    tokens_per_s: float
    memory_gib: float
    mfu: float
    validation: dict[str, float]
    stopped: bool
    attention: str


class FailureRecord(TypedDict):
    """Content of ``failure.json``: the step that failed, why, and the corpus rows of its batch."""

    step: int
    reason: str
    row_ids: list[str]


def read_history(folder: UPath) -> list[StepRecord]:
    """All steps so far, in order; empty if training has not begun.

    Lines that a crash has cut off are left out, and of a step that is there twice the later line counts.
    """
    path = folder / HISTORY_FILE
    if not path.exists():
        return []
    records: dict[int, StepRecord] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            records[int(record["step"])] = record
    return [records[step] for step in sorted(records)]


class History:
    """Writes the records of a run; does nothing on other ranks than 0.

    Attributes:
        folder: Folder of the run.
        is_writer: True on rank 0.
        trackers: Receive every step's metrics as well.
        records: All steps so far.
    """

    def __init__(
        self,
        folder: UPath,
        rank: int,
        records: Sequence[StepRecord] = (),
        trackers: Sequence[Tracker] = (),
    ):
        self.folder = folder
        self.is_writer = rank == 0
        self.trackers = trackers
        self.records = list(records)
        self._next_write = 0.0
        if self.is_writer:
            (folder / FAILURE_FILE).unlink(missing_ok=True)

    def add(self, record: StepRecord, now: bool = False) -> None:
        """Add one step; it is written at once, or with another one within a few seconds."""
        if not self.is_writer:
            return
        self.records.append(record)
        for tracker in self.trackers:
            tracker.log(record["step"], _flatten_metrics(record))
        if now or time.monotonic() > self._next_write:
            self.flush()

    def flush(self) -> None:
        """Write the file."""
        if self.is_writer:
            # The whole file each time: an object store cannot append.
            text = "".join(json.dumps(record) + "\n" for record in self.records)
            write_bytes(self.folder / HISTORY_FILE, text.encode())
            self._next_write = time.monotonic() + _WRITE_EVERY_S

    def record_failure(self, step: int, reason: str, row_ids: Sequence[str]) -> None:
        """Record why training stopped, for the job to report."""
        if self.is_writer:
            failure = FailureRecord(step=step, reason=reason, row_ids=list(row_ids))
            write_bytes(self.folder / FAILURE_FILE, json.dumps(failure, ensure_ascii=False).encode())

    def close(self) -> None:
        """Write pending steps and close the trackers."""
        self.flush()
        for tracker in self.trackers if self.is_writer else ():
            tracker.close()


def _flatten_metrics(record: StepRecord) -> dict[str, float]:
    """A record as flat metrics for trackers: ``train/loss``, ``validation/safety``."""
    train = {
        f"train/{name}": float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and name != "step"
    }
    return train | {f"validation/{kind}": loss for kind, loss in record.get("validation", {}).items()}
