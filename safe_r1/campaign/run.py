"""Runs a campaign: looks at the jobs, decides, submits, writes down; until all steps have ended."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from safe_r1.campaign.graph import Step
from safe_r1.campaign.jobs import Jobs, JobView
from safe_r1.campaign.recipe import Recipe
from safe_r1.campaign.schedule import Order, choose, priority_of
from safe_r1.campaign.state import ENDED, SNAPSHOT, Attempt, Book, StepState
from safe_r1.errors import SafeR1Error
from safe_r1.runs import RunFolder, sha256

# The same command would end the same way; a `TransientError` and a job that died have other exit codes.
_USER_ERROR = SafeR1Error.exit_code
_NEEDED = ("failed", "skipped")


class Campaign:
    """One campaign on one cluster.

    Attributes:
        steps: Its steps by name.
        states: Theirs.
    """

    def __init__(
        self,
        recipe: Recipe,
        steps: Mapping[str, Step],
        folder: RunFolder,
        jobs: Jobs,
        order: Order = "largest",
        now: Callable[[], float] = time.time,
    ):
        """Read what is known of the steps.

        Raises:
            StorageError: The folder cannot be read.
        """
        self.recipe, self.steps, self._jobs, self._now = recipe, dict(steps), jobs, now
        self._folder, self._book, self._priority = folder, Book(folder), priority_of(order, steps)
        self.states = {name: self._book.read(step) for name, step in self.steps.items()}
        # A job that is gone with its cluster held GPUs until somebody saw it last.
        self._seen_at = float((folder.read_json(SNAPSHOT) or {}).get("updated_at", 0.0))
        self._name = f"{recipe.name}-{sha256(str(folder.path))[:8]}"
        for name, state in self.states.items():
            # Asked for again by the same command: what failed is tried anew, with a full number of attempts.
            if state.status in _NEEDED:
                self._set(name, status="waiting", reason="", retry_at=None)

    @property
    def is_over(self) -> bool:
        """Nothing is left to do."""
        return all(state.status in ENDED for state in self.states.values())

    def tick(self) -> None:
        """Look at every job, then start what can start."""
        for name, state in self.states.items():
            if state.is_active:
                self._look(name)
        for name, step in self.steps.items():
            if self._is_outdated(name, step):
                self._set(name, status="waiting")
            if self.states[name].status == "waiting" and (reason := self._hopeless(step)):
                self._set(name, status="skipped", reason=reason)
        for step in choose(self._ready(), self._free(), self._priority):
            self._start(step)
        self._seen_at = self._now()

    def _look(self, name: str) -> None:
        state, view = self.states[name], self._jobs.look(self.states[name].attempts[-1].job)
        is_over, is_lost = view.phase not in ("starting", "running"), view.phase == "lost"
        attempt, is_at_work = state.attempts[-1], view.phase == "running" and view.progress
        attempt = attempt.model_copy(
            update={
                "started_at": view.started_at or attempt.started_at,
                "held_from": attempt.held_from or (self._now() if is_at_work else None),
                "exit_code": view.exit_code,
                "said": view.said,
                "ended_at": (view.ended_at or (self._seen_at if is_lost else self._now()))
                if is_over
                else None,
                "is_forgotten": is_lost,
            }
        )
        attempts = [*state.attempts[:-1], attempt]
        progress = view.progress.format() if view.progress else state.progress
        if view.phase in ("starting", "running"):
            self._set(name, status=view.phase, attempts=attempts, progress=progress)
        elif view.phase == "done":
            self._set(name, status="done", attempts=attempts, progress=progress)
        else:
            self._failed(name, view, attempts)

    def _failed(self, name: str, view: JobView, attempts: list[Attempt]) -> None:
        """Try again where a machine was lost, not where the job itself said what is wrong or somebody stopped
        it.
        """
        reasons = {"lost": "the cluster does not know its job any more", "stopped": "it was stopped by hand"}
        reason = reasons.get(view.phase) or view.said or f"exit code {view.exit_code}"
        if view.phase == "lost":
            self._set(
                name,
                status="waiting",
                attempts=attempts,
                reason=f"again after: {reason}",
                retry_at=self._now(),
            )
            return
        lost = sum(
            attempt.exit_code not in (0, _USER_ERROR) and not attempt.is_forgotten for attempt in attempts
        )
        if view.phase == "stopped" or view.exit_code == _USER_ERROR or lost % self.recipe.max_attempts == 0:
            self._set(name, status="failed", attempts=attempts, reason=reason)
            return
        wait = 60 * self.recipe.retry_minutes * 2 ** (lost % self.recipe.max_attempts - 1)
        self._set(
            name,
            status="waiting",
            attempts=attempts,
            reason=f"again after: {reason}",
            retry_at=self._now() + wait,
        )

    def _is_outdated(self, name: str, step: Step) -> bool:
        """It was done without a step that is tried again."""
        is_done = step.takes_what_there_is and self.states[name].status == "done"
        return is_done and any(self.states[needed].status not in ENDED for needed in step.needs)

    def _hopeless(self, step: Step) -> str:
        """Why a step can never run; empty where it can."""
        lost = [name for name in step.needs if self.states[name].status in _NEEDED]
        if not lost or (step.takes_what_there_is and len(lost) < len(step.needs)):
            return ""
        return f"needs {', '.join(lost[:3])}{' and others' if len(lost) > 3 else ''}, which did not succeed"

    def _ready(self) -> list[Step]:
        return [step for name, step in self.steps.items() if self._is_ready(name, step)]

    def _is_ready(self, name: str, step: Step) -> bool:
        state, wanted = self.states[name], ENDED if step.takes_what_there_is else ("done",)
        is_time = state.retry_at is None or state.retry_at <= self._now()
        return (
            state.status == "waiting"
            and is_time
            and all(self.states[needed].status in wanted for needed in step.needs)
        )

    def _free(self) -> dict[str, int]:
        held = dict.fromkeys(self.recipe.groups, 0)
        for name, step in self.steps.items():
            held[step.group] += step.units if self.states[name].is_active else 0
        return {name: group.room - held[name] for name, group in self.recipe.groups.items()}

    def _start(self, step: Step) -> None:
        """Submit a step that the budget allows; another waits for what runs to end, and fails where that
        cannot help.
        """
        budget, (held, planned) = self.recipe.budget_gpu_hours, self._gpu_hours()
        if budget is None or not step.gpu_hours or held + planned + step.gpu_hours <= budget:
            self._submit(step)
        elif held + step.gpu_hours > budget:
            reason = f"the budget is spent: {held:,.1f} of {budget:,g} GPU-hours held, this takes {step.gpu_hours:,.1f}"
            self._set(step.name, status="failed", reason=reason)

    def _gpu_hours(self) -> tuple[float, float]:
        """Held by all jobs until now, and planned for the rest of those that run."""
        now, held, planned = self._now(), 0.0, 0.0
        for name, step in self.steps.items():
            state, gpus = self.states[name], step.estimate.gpus
            held += gpus * state.hours(now)
            if state.is_active:
                planned += gpus * max(0.0, step.estimate.hours - state.attempts[-1].hours(now))
        return held, planned

    def _submit(self, step: Step) -> None:
        """Write the job's name down, then submit it: killed between the two, the next campaign finds no such
        job.
        """
        state = self.states[step.name]
        job = f"{self._name}-{_readable(step.name)}-{sha256(step.name)[:8]}-{len(state.attempts) + 1}"
        attempts = [*state.attempts, Attempt(job=job, submitted_at=self._now())]
        self._set(step.name, status="starting", attempts=attempts, reason="", progress="", retry_at=None)
        about = {"campaign": self._name, "step": step.name}
        self._jobs.submit(job, step.words, self.recipe.groups[step.group].labels, about)

    def _set(self, name: str, **changes: Any) -> None:
        new = StepState.model_validate(self.states[name].model_dump() | _plain(changes))
        if new != self.states[name]:
            self.states[name] = new
            self._book.write(self.steps[name], new)


def _readable(name: str) -> str:
    """A step's name in the letters of a job's; two steps may read alike."""
    return re.sub(r"[^a-z0-9-]+", "-", name.lower())


def _plain(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: [each.model_dump() for each in value] if name == "attempts" else value
        for name, value in changes.items()
    }
