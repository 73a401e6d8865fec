"""What is known of a campaign's steps, kept in its output folder: one small JSON file a step, written before
anything is done.

A campaign that was killed reads them, asks the cluster for the jobs they name, and goes on.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from safe_r1.campaign.graph import Step
from safe_r1.runs import RunFolder

# The last look at the whole, beside the steps' files.
SNAPSHOT = "status.json"

Status = Literal["waiting", "starting", "running", "done", "failed", "skipped"]
ENDED: tuple[Status, ...] = ("done", "failed", "skipped")


class Attempt(BaseModel):
    """One submission of a step's job.

    Attributes:
        started_at: Its driver began; its machines may have yet to come.
        held_from: It was seen at work.
        is_forgotten: The cluster that had it is another one now, which is not its fault.
    """

    model_config = ConfigDict(extra="forbid")
    job: str
    submitted_at: float
    started_at: float | None = None
    held_from: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    said: str = ""
    is_forgotten: bool = False

    def hours(self, now: float) -> float:
        """That it has held machines: since it was at work, or since it began where it ended before anybody
        saw it so.
        """
        since = self.held_from or (self.started_at if self.ended_at else None)
        return max(0.0, (self.ended_at or now) - since) / 3600 if since else 0.0


class StepState(BaseModel):
    """One step."""

    model_config = ConfigDict(extra="forbid")
    status: Status = "waiting"
    reason: str = ""
    progress: str = ""
    attempts: list[Attempt] = []
    retry_at: float | None = None

    @property
    def is_active(self) -> bool:
        """A job of it may be there."""
        return self.status in ("starting", "running")

    def hours(self, now: float) -> float:
        """That its jobs have run."""
        return sum(attempt.hours(now) for attempt in self.attempts)


class Book:
    """The states of all steps, on disk."""

    def __init__(self, folder: RunFolder):
        self._folder = folder

    def read(self, step: Step) -> StepState:
        """A step's state; a fresh one where nothing is known."""
        found = self._folder.read_json(_file(step))
        return StepState() if found is None else StepState.model_validate(found)

    def write(self, step: Step, state: StepState) -> None:
        """Keep a step's state."""
        self._folder.write_json(_file(step), state.model_dump())


def _file(step: Step) -> str:
    return f"steps/{step.name.replace('/', '__')}.json"
