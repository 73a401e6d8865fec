"""What a run did, step by step: ``history.jsonl`` in its folder, a line for each step, and why it stopped if
it failed.

The line of step 0 holds the validation of the model as it came.

The first worker writes it. Steps after the checkpoint that a restart takes up are written again, so no step
is in it twice.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

from upath import UPath

from safe_r1.runs import write_bytes
from safe_r1.train.trackers import Tracker

HISTORY, FAILURE = "history.jsonl", "failure.json"
_WRITE_EVERY_S = 2.0

Line = dict[str, Any]


def read_history(folder: UPath) -> list[Line]:
    """All steps so far, in order; none where the run has not begun."""
    path = folder / HISTORY
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


class History:
    """The first worker's record; on the others it does nothing."""

    def __init__(self, folder: UPath, rank: int, start: int, trackers: Sequence[Tracker] = ()):
        self.folder, self.is_writer, self.trackers = folder, rank == 0, trackers
        self.lines = (
            [line for line in read_history(folder) if line["step"] <= start]
            if self.is_writer and start
            else []
        )
        self._due = 0.0
        if self.is_writer and (folder / FAILURE).exists():
            (folder / FAILURE).unlink()

    def add(self, line: Line, now: bool = False) -> None:
        """One step's figures; written at once or within a few seconds."""
        if not self.is_writer:
            return
        self.lines.append(line)
        for tracker in self.trackers:
            tracker.log(line["step"], _figures(line))
        if now or time.monotonic() > self._due:
            self.flush()

    def flush(self) -> None:
        """Write the file."""
        if self.is_writer:
            text = "".join(json.dumps(line) + "\n" for line in self.lines)
            write_bytes(self.folder / HISTORY, text.encode())
            self._due = time.monotonic() + _WRITE_EVERY_S

    def fail(self, step: int, reason: str, row_ids: Sequence[str]) -> None:
        """The run ends here for a reason of its own; the job reads it."""
        if self.is_writer:
            failure = {"step": step, "reason": reason, "row_ids": list(row_ids)}
            write_bytes(self.folder / FAILURE, json.dumps(failure, ensure_ascii=False).encode())

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        for tracker in self.trackers if self.is_writer else ():
            tracker.close()


def _figures(line: Line) -> dict[str, float]:
    """A line as flat names with numbers: ``train/loss``, ``validation/safety``."""
    flat = {
        f"train/{name}": float(value)
        for name, value in line.items()
        if isinstance(value, int | float) and name != "step"
    }
    return flat | {f"validation/{kind}": loss for kind, loss in line.get("validation", {}).items()}
