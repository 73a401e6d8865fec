from pathlib import Path
from typing import Any

import pytest

from safe_r1.campaign.jobs import JobView
from safe_r1.campaign.run import Campaign
from safe_r1.progress import Progress
from tests.unit.campaign.test_run import BASE, SEVEN, Clock, Cluster, campaign, statuses

FINETUNE = f"finetune/{SEVEN}"


def begin(folder: Path, cluster: Cluster, budget: float, clock: Clock | None = None) -> Campaign:
    """After its first look. Planned: 1 + 1 + 8 + 1 GPU-hours."""
    hours: dict[str, Any] = {
        f"stages__{stage}__hours": 1 for stage in ("evaluate", "finetune", "evaluate-after")
    }
    begun = campaign(folder, cluster, clock, budget_gpu_hours=budget, stages__finetune__gpus=8, **hours)
    begun.tick()
    return begun


def end(cluster: Cluster, step: str, hours: float, phase: Any = "done", exit_code: int | None = 0) -> None:
    cluster.end(step)
    [name] = [name for name in cluster.views if f"-{step.replace('/', '-').replace('.', '-')}-" in name]
    cluster.views[name] = JobView(phase, exit_code, 1000.0, 1000.0 + 3600 * hours)


def test_a_job_is_not_submitted_once_the_budget_is_spent(tmp_path: Path):
    cluster = Cluster()
    one = begin(tmp_path, cluster, 12)
    end(cluster, "corpus", 50)
    end(cluster, f"evaluate/{SEVEN}", 2)
    end(cluster, f"evaluate/{BASE}", 3)
    one.tick()
    assert one.states[FINETUNE].status == "failed"
    assert one.states[FINETUNE].reason == "the budget is spent: 5.0 of 12 GPU-hours held, this takes 8.0"
    assert one.states[FINETUNE].attempts == []
    one.tick()
    assert statuses(one)[f"evaluate-after/{SEVEN}"] == "skipped"
    assert statuses(one)["compare"] == "starting", "it holds no GPU"
    more = begin(tmp_path, cluster, 20)
    assert statuses(more)[FINETUNE] == "starting"


def test_waiting_for_nodes_costs_nothing(tmp_path: Path):
    cluster, clock = Cluster(), Clock()
    one = begin(tmp_path, cluster, 12, clock)
    for name in cluster.views:
        cluster.views[name] = JobView("running", started_at=clock.now)
    clock.now += 3600 * 50
    one.tick()
    assert one._gpu_hours()[0] == 0
    for name in cluster.views:
        cluster.views[name] = JobView("running", started_at=1000.0, progress=Progress("evaluate", 1, 9))
    one.tick()
    clock.now += 3600
    assert one._gpu_hours()[0] == 2


def test_an_attempt_that_was_lost_counts(tmp_path: Path):
    cluster, clock = Cluster(), Clock()
    one = begin(tmp_path, cluster, 12, clock)
    end(cluster, f"evaluate/{BASE}", 11.5, "failed", None)
    one.tick()
    assert statuses(one)[f"evaluate/{BASE}"] == "waiting"
    clock.now += 60
    one.tick()
    assert one.states[f"evaluate/{BASE}"].reason.startswith("the budget is spent: 11.5 of 12 GPU-hours held")


def test_a_job_waits_while_what_runs_may_leave_enough(tmp_path: Path):
    cluster = Cluster()
    one = begin(tmp_path, cluster, 12)
    end(cluster, "corpus", 1)
    end(cluster, f"evaluate/{SEVEN}", 3.5)
    one.tick()
    assert statuses(one)[FINETUNE] == "waiting"
    end(cluster, f"evaluate/{BASE}", 0.5)
    one.tick()
    assert statuses(one)[FINETUNE] == "starting"


@pytest.mark.parametrize(("hours", "status"), [(3.4, "starting"), (4.1, "failed")])
def test_what_runs_longer_than_planned_counts_as_it_is(tmp_path: Path, hours: float, status: str):
    cluster, clock = Cluster(), Clock()
    one = begin(tmp_path, cluster, 12, clock)
    end(cluster, "corpus", 1)
    end(cluster, f"evaluate/{SEVEN}", 0.5)
    [name] = [name for name in cluster.running() if "evaluate" in name]
    cluster.views[name] = JobView("running", started_at=1000.0, progress=Progress("evaluate", 1, 9))
    one._refresh(f"evaluate/{BASE}")
    clock.now += 3600 * hours
    one.tick()
    assert statuses(one)[FINETUNE] == status
