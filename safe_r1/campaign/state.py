"""States of a campaign's steps, kept in its output folder: a small JSON file for each step, written before
anything is done.

A campaign that was killed reads them, asks the cluster for the jobs they name, and resumes.
"""

from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from safe_r1.campaign.graph import Step
from safe_r1.runs import RunFolder

# The newest snapshot of the whole campaign, beside the steps' files.
SNAPSHOT = "status.json"

Status = Literal["waiting", "starting", "running", "done", "failed", "skipped"]
ENDED: tuple[Status, ...] = ("done", "failed", "skipped")


def _renamed(name: str, old: str) -> AliasChoices:
    """A field's name and the one that it has in files of earlier versions."""
    return AliasChoices(name, old)


class Attempt(BaseModel):
    """One submission of a step's job; times are Unix seconds.

    Attributes:
        started_at: When its driver began; its machines may not have started yet.
        busy_since: When it was first seen at work, on its machines.
        last_line: The last line that it printed; empty where it succeeded.
        is_forgotten: The cluster that ran it was replaced by another, which does not count against it.
    """

    model_config = ConfigDict(extra="forbid")
    job: str
    submitted_at: float
    started_at: float | None = None
    busy_since: float | None = Field(default=None, validation_alias=_renamed("busy_since", "held_from"))
    ended_at: float | None = None
    exit_code: int | None = None
    last_line: str = Field(default="", validation_alias=_renamed("last_line", "said"))
    is_forgotten: bool = False

    def hours(self, now: float) -> float:
        """Hours for which it has held machines.

        They count from when it was first seen at work, or from its start where it ended before that.
        """
        since = self.busy_since or (self.started_at if self.ended_at else None)
        return max(0.0, (self.ended_at or now) - since) / 3600 if since else 0.0


class StepState(BaseModel):
    """State of one step.

    Attributes:
        reason: Why it failed, was skipped, or is tried again.
        progress: The newest progress of its job, see ``safe_r1.progress.Progress.format``.
        retry_at: Unix seconds before which it is not submitted again.
    """

    # A file of a later version is refused: its unknown fields could not be written back.
    model_config = ConfigDict(extra="forbid")
    status: Status = "waiting"
    reason: str = ""
    progress: str = ""
    attempts: list[Attempt] = []
    retry_at: float | None = None

    @property
    def is_active(self) -> bool:
        """The cluster may have a job of it."""
        return self.status in ("starting", "running")

    def hours(self, now: float) -> float:
        """Hours for which its jobs have held machines."""
        return sum(attempt.hours(now) for attempt in self.attempts)


class StateStore:
    """The states of all steps, on disk."""

    def __init__(self, folder: RunFolder):
        self._folder = folder

    def read(self, step: Step) -> StepState:
        """A step's state; a fresh one where none was written."""
        found = self._folder.read_json(_file(step))
        return StepState() if found is None else StepState.model_validate(found)

    def write(self, step: Step, state: StepState) -> None:
        """Write a step's state."""
        self._folder.write_json(_file(step), state.model_dump())


def _file(step: Step) -> str:
    # Variants' names may hold dots and single underscores, but no slash.
    return f"steps/{step.name.replace('/', '__')}.json"
