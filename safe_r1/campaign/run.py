"""Runs a campaign: views the jobs, decides, submits and records, until all steps have ended."""

import re
import time
from collections.abc import Callable, Mapping

from safe_r1.campaign.endpoint_use import EndpointUse, read_use
from safe_r1.campaign.graph import Step
from safe_r1.campaign.jobs import Jobs, JobView
from safe_r1.campaign.recipe import CampaignRecipe
from safe_r1.campaign.schedule import Order, choose, priority_of
from safe_r1.campaign.state import ENDED, SNAPSHOT, Attempt, StateStore, Status, StepState
from safe_r1.errors import is_retried
from safe_r1.runs import RunFolder, sha256

_WITHOUT_RESULT: tuple[Status, ...] = ("failed", "skipped")


class Campaign:
    """One campaign on one cluster.

    Attributes:
        recipe: What it does.
        steps: Its steps by name.
        states: Their states by name.
        endpoint_uses: What the jobs of endpoints have taken, by name.
    """

    def __init__(
        self,
        recipe: CampaignRecipe,
        steps: Mapping[str, Step],
        folder: RunFolder,
        jobs: Jobs,
        order: Order = "largest",
        now: Callable[[], float] | None = None,
    ):
        """Read the states that earlier sessions recorded.

        Args:
            recipe: See the class.
            steps: See the class.
            folder: Where the states are kept.
            jobs: Runs the jobs.
            order: Which of the steps that are ready starts first.
            now: The clock, in Unix seconds; None: a steady one.

        Raises:
            StorageError: The folder cannot be read.
        """
        self.recipe = recipe
        self.steps = dict(steps)
        self._jobs = jobs
        self._now = now or steady_clock()
        self._store = StateStore(folder)
        self._priority = priority_of(order, steps)
        self.states = {name: self._store.read(step) for name, step in self.steps.items()}
        # The results lie beside the campaign's own folder.
        self._output = folder.path.parent
        self.endpoint_uses = self._read_uses()
        # A job that is gone with its cluster held GPUs until it was last seen.
        self._seen_at = float((folder.read_json(SNAPSHOT) or {}).get("updated_at", 0.0))
        # Of the folder too: two campaigns of one recipe may share a cluster.
        self._name = f"{recipe.name}-{sha256(str(folder.path))[:8]}"
        for name, state in self.states.items():
            # The same command again: a step that failed is tried again, with a full number of attempts.
            if state.status in _WITHOUT_RESULT:
                self._record(
                    name, state.model_copy(update={"status": "waiting", "reason": "", "retry_at": None})
                )

    @property
    def is_over(self) -> bool:
        """All steps have ended."""
        return all(state.status in ENDED for state in self.states.values())

    def tick(self) -> None:
        """View every job, then start what can start."""
        # Jobs first: what has just ended frees capacity for the steps below.
        for name, state in self.states.items():
            if state.is_active:
                self._refresh(name)
        self.endpoint_uses = self._read_uses()
        for name, step in self.steps.items():
            state = self.states[name]
            if self._is_outdated(name, step):
                state = state.model_copy(update={"status": "waiting"})
            if state.status == "waiting" and (reason := self._blocked_reason(step)):
                state = state.model_copy(update={"status": "skipped", "reason": reason})
            self._record(name, state)
        for step in choose(self._ready(), self._free_units(), self._priority):
            self._start(step)
        self._seen_at = self._now()

    def _refresh(self, name: str) -> None:
        """Bring a step's state up to date with its job."""
        state = self.states[name]
        view = self._jobs.view(state.attempts[-1].job)
        attempts = [*state.attempts[:-1], self._attempt(state.attempts[-1], view)]
        progress = view.progress.format() if view.progress else state.progress
        state = state.model_copy(update={"attempts": attempts, "progress": progress})
        if view.phase in ("starting", "running", "done"):
            self._record(name, state.model_copy(update={"status": view.phase}))
        else:
            self._record(name, self._after_failure(state, view))

    def _attempt(self, attempt: Attempt, view: JobView) -> Attempt:
        is_lost = view.phase == "lost"
        is_over = view.phase not in ("starting", "running")
        # Its driver runs on a small node at once; only progress shows that its GPU nodes have started.
        is_at_work = view.phase == "running" and view.progress is not None
        ended_at = (view.ended_at or (self._seen_at if is_lost else self._now())) if is_over else None
        return attempt.model_copy(
            update={
                "started_at": view.started_at or attempt.started_at,
                "busy_since": attempt.busy_since or (self._now() if is_at_work else None),
                "exit_code": view.exit_code,
                "last_line": view.last_line,
                "ended_at": ended_at,
                "is_forgotten": is_lost,
            }
        )

    def _after_failure(self, state: StepState, view: JobView) -> StepState:
        """Whether the step is tried again, and when.

        It is where a machine was lost, not where the same command would end the same way, nor where the job
        was stopped by hand.
        """
        if view.phase == "lost":
            # It did not fail: its cluster was replaced, so that nothing has to settle first.
            return _retry(state, "the cluster does not know its job any more", self._now())
        num_lost = sum(
            is_retried(attempt.exit_code) and not attempt.is_forgotten for attempt in state.attempts
        )
        # A step that failed in an earlier session has a full number of attempts again.
        num_lost_now = num_lost % self.recipe.max_attempts
        reason = view.last_line or f"exit code {view.exit_code}"
        if view.phase == "stopped":
            reason = "it was stopped by hand"
        if view.phase == "stopped" or not is_retried(view.exit_code) or num_lost_now == 0:
            return state.model_copy(update={"status": "failed", "reason": reason})
        wait_s = 60 * self.recipe.retry_minutes * 2 ** (num_lost_now - 1)
        return _retry(state, reason, self._now() + wait_s)

    def _is_outdated(self, name: str, step: Step) -> bool:
        """It was done without a step that is tried again."""
        is_done = step.tolerates_failures and self.states[name].status == "done"
        return is_done and any(self.states[needed].status not in ENDED for needed in step.needs)

    def _blocked_reason(self, step: Step) -> str:
        """Why a step can never run; empty where it can."""
        missing = [name for name in step.needs if self.states[name].status in _WITHOUT_RESULT]
        if not missing or (step.tolerates_failures and len(missing) < len(step.needs)):
            return ""
        others = " and others" if len(missing) > 3 else ""
        return f"needs {', '.join(missing[:3])}{others}, which did not succeed"

    def _ready(self) -> list[Step]:
        return [step for name, step in self.steps.items() if self._is_ready(name, step)]

    def _is_ready(self, name: str, step: Step) -> bool:
        state = self.states[name]
        if state.status != "waiting" or self._is_too_early(state):
            return False
        # A comparison waits for all evaluations to end, and leaves out those that failed.
        sufficient = ENDED if step.tolerates_failures else ("done",)
        return all(self.states[needed].status in sufficient for needed in step.needs)

    def _is_too_early(self, state: StepState) -> bool:
        """It is tried again later. One whose time is further off than any wait is due: the clock was set."""
        longest_s = 60 * self.recipe.retry_minutes * 2**self.recipe.max_attempts
        return state.retry_at is not None and 0 < state.retry_at - self._now() <= longest_s

    def _free_units(self) -> dict[str, int]:
        """Units of each group that no job holds, see ``NodeGroup.capacity``."""
        held = dict.fromkeys(self.recipe.groups, 0)
        for name, step in self.steps.items():
            held[step.group] += step.units if self.states[name].is_active else 0
        return {name: group.capacity - held[name] for name, group in self.recipe.groups.items()}

    def _start(self, step: Step) -> None:
        """Submit a step that the budget allows.

        Another one waits until running jobs have ended; it fails where what is held already is too much.
        """
        budget = self.recipe.budget_gpu_hours
        held, planned = self._gpu_hours()
        spent, pending = self._endpoint_costs(step)
        cost = (step.estimate.endpoint or EndpointUse()).cost or 0.0
        limit = self.recipe.budget_endpoint_cost
        reason = ""
        if budget is not None and step.gpu_hours and held + step.gpu_hours > budget:
            reason = (
                f"the budget is spent: {held:,.1f} of {budget:,g} GPU-hours held, this takes "
                f"{step.gpu_hours:,.1f}"
            )
        elif limit is not None and cost and spent + cost > limit:
            reason = (
                f"the budget of endpoints is spent: {spent:.4g} of {limit:g}, this costs about {cost:.4g}"
            )
        if reason:
            state = self.states[step.name]
            self._record(step.name, state.model_copy(update={"status": "failed", "reason": reason}))
            return
        is_within_hours = budget is None or not step.gpu_hours or held + planned + step.gpu_hours <= budget
        is_within_cost = limit is None or not cost or spent + pending + cost <= limit
        if is_within_hours and is_within_cost:
            self._submit(step)

    def _endpoint_costs(self, step: Step) -> tuple[float, float]:
        """What the other endpoints' jobs report, and what the running ones are planned to add."""
        spent = 0.0
        pending = 0.0
        for name, use in self.endpoint_uses.items():
            if name == step.name:
                continue
            reported = use.cost or 0.0
            spent += reported
            if self.states[name].is_active:
                planned = (self.steps[name].estimate.endpoint or EndpointUse()).cost or 0.0
                pending += max(0.0, planned - reported)
        return spent, pending

    def _read_uses(self) -> dict[str, EndpointUse]:
        return {
            name: read_use(self._output, name.partition("/")[2], self.recipe.stages[step.stage].runs)
            for name, step in self.steps.items()
            if step.estimate.endpoint
        }

    def _gpu_hours(self) -> tuple[float, float]:
        """GPU-hours that all jobs have held until now, and that the running ones are planned to add."""
        now = self._now()
        held = 0.0
        planned = 0.0
        for name, step in self.steps.items():
            state = self.states[name]
            gpus = step.estimate.gpus
            held += gpus * state.hours(now)
            # A job that runs longer than planned adds nothing here: it counts by what it holds.
            if state.is_active:
                planned += gpus * max(0.0, step.estimate.hours - state.attempts[-1].hours(now))
        return held, planned

    def _submit(self, step: Step) -> None:
        """Record the job's name, then submit it.

        After a kill between the two, the next session finds that the cluster has no such job.
        """
        state = self.states[step.name]
        # The hash keeps apart two steps with the same slug, and the number two attempts.
        job = f"{self._name}-{_slug(step.name)}-{sha256(step.name)[:8]}-{len(state.attempts) + 1}"
        attempts = [*state.attempts, Attempt(job=job, submitted_at=self._now())]
        self._record(step.name, StepState(status="starting", attempts=attempts))
        labels = self.recipe.groups[step.group].labels
        self._jobs.submit(job, step.argv, labels, {"campaign": self._name, "step": step.name})

    def _record(self, name: str, state: StepState) -> None:
        if state != self.states[name]:
            self.states[name] = state
            self._store.write(self.steps[name], state)


def steady_clock() -> Callable[[], float]:
    """Unix seconds that pass steadily: that the machine's clock is set meanwhile changes no duration."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


def _slug(name: str) -> str:
    """A step's name in the characters of a job's name; two steps may have the same."""
    return re.sub(r"[^a-z0-9-]+", "-", name.lower())


def _retry(state: StepState, reason: str, retry_at: float) -> StepState:
    return state.model_copy(
        update={"status": "waiting", "reason": f"again after: {reason}", "retry_at": retry_at}
    )
