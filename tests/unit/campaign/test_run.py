import itertools
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from safe_r1.campaign.graph import make_steps
from safe_r1.campaign.jobs import JobView
from safe_r1.campaign.run import Campaign
from safe_r1.campaign.view import read_snapshot, take_snapshot, to_table, write_snapshot
from safe_r1.errors import EngineLostError, ModelError, StorageError
from safe_r1.runs import RunFolder
from tests.unit.campaign.test_recipe import small

SEVEN, BASE = "r1-distill-qwen-7b", "qwen2.5-math-7b"


class Cluster:
    """Jobs that run until they are told how they end."""

    def __init__(self) -> None:
        self.views: dict[str, JobView] = {}
        self.argv: dict[str, Sequence[str]] = {}
        self.labels: dict[str, Mapping[str, str]] = {}

    def submit(
        self, name: str, argv: Sequence[str], labels: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        assert name not in self.argv, "submitted twice"
        self.views[name], self.argv[name], self.labels[name] = (
            JobView("running", started_at=1000.0),
            argv,
            labels,
        )

    def view(self, name: str) -> JobView:
        return self.views.get(name, JobView("lost"))

    def end(self, step: str, phase: Any = "done", exit_code: int | None = 0, last_line: str = "") -> None:
        [name] = [name for name in self.running() if f"-{step.replace('/', '-').replace('.', '-')}-" in name]
        self.views[name] = JobView(phase, exit_code, 1000.0, 4600.0, last_line=last_line)

    def running(self) -> list[str]:
        return [name for name, view in self.views.items() if view.phase == "running"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def campaign(folder: Path, cluster: Cluster, clock: Clock | None = None, **changes: Any) -> Campaign:
    recipe = small(**changes)
    return Campaign(
        recipe, make_steps(recipe, "/out"), RunFolder(UPath(folder)), cluster, now=clock or Clock()
    )


def statuses(one: Campaign) -> dict[str, str]:
    return {name: state.status for name, state in one.states.items()}


def test_steps_follow_each_other(tmp_path: Path):
    cluster = Cluster()
    one = campaign(tmp_path, cluster)
    one.tick()
    assert len(cluster.running()) == 3
    for step in ("corpus", f"evaluate/{SEVEN}", f"evaluate/{BASE}"):
        cluster.end(step)
    one.tick()
    assert statuses(one)[f"finetune/{SEVEN}"] == "starting"
    cluster.end(f"finetune/{SEVEN}")
    one.tick()
    cluster.end(f"evaluate-after/{SEVEN}")
    one.tick()
    assert not one.is_over
    cluster.end("compare")
    one.tick()
    assert one.is_over
    assert set(statuses(one).values()) == {"done"}
    [name] = [name for name in cluster.argv if "finetune" in name]
    assert cluster.labels[name] == {}
    assert {"safe-r1/group": "eval"} in cluster.labels.values()


def test_one_variant_that_fails_does_not_stop_the_others(tmp_path: Path):
    cluster = Cluster()
    one = campaign(tmp_path, cluster)
    one.tick()
    cluster.end("corpus", "failed", 2, "build_corpus: no such recipe")
    cluster.end(f"evaluate/{SEVEN}")
    cluster.end(f"evaluate/{BASE}", "failed", 2, "evaluate: out of luck")
    one.tick()
    assert statuses(one) == {
        "corpus": "failed",
        f"evaluate/{SEVEN}": "done",
        f"evaluate/{BASE}": "failed",
        f"finetune/{SEVEN}": "skipped",
        f"evaluate-after/{SEVEN}": "skipped",
        "compare": "starting",
    }
    assert one.states[f"evaluate/{BASE}"].reason == "evaluate: out of luck"
    assert "needs corpus" in one.states[f"finetune/{SEVEN}"].reason


def test_a_lost_machine_is_tried_again_after_a_while_and_not_for_ever(tmp_path: Path):
    cluster, clock = Cluster(), Clock()
    one = campaign(tmp_path, cluster, clock, max_attempts=3, retry_minutes=1)
    one.tick()
    for wait in (60, 120):
        cluster.end("corpus", "failed", None, "the node died")
        one.tick()
        assert statuses(one)["corpus"] == "waiting"
        clock.now += wait - 1
        one.tick()
        assert statuses(one)["corpus"] == "waiting"
        clock.now += 1
        one.tick()
        assert statuses(one)["corpus"] == "starting"
    cluster.end("corpus", "failed", 137, "killed")
    one.tick()
    assert statuses(one)["corpus"] == "failed"
    assert one.states["corpus"].reason == "killed"
    assert len(one.states["corpus"].attempts) == 3


def test_a_campaign_whose_cluster_is_gone_begins_its_jobs_again_however_often(tmp_path: Path):
    clock = Clock()
    for number in range(1, 6):
        one = campaign(tmp_path, Cluster(), clock)  # of a local Ray that died with the campaign
        one.tick()
        assert statuses(one)["corpus"] == "starting"
        assert len(one.states["corpus"].attempts) == number
        one.tick()
        clock.now += 86_400  # it lay there for a day


def test_a_lost_job_held_its_gpus_until_it_was_seen_last(tmp_path: Path):
    clock, folder = Clock(), tmp_path / "campaign"
    one = campaign(folder, Cluster(), clock)
    one.tick()
    clock.now += 3600
    one.tick()
    snapshot = take_snapshot(small(), one.steps, one.states).model_copy(update={"updated_at": clock.now})
    write_snapshot(str(tmp_path), snapshot)
    clock.now += 86_400
    one = campaign(folder, Cluster(), clock)
    one.tick()
    assert one.states["corpus"].attempts[0].hours(clock.now) == pytest.approx(1.0)


def test_a_job_that_says_a_machine_was_lost_is_tried_again(tmp_path: Path):
    cluster = Cluster()
    one = campaign(tmp_path, cluster)
    one.tick()
    cluster.end("corpus", "failed", EngineLostError.exit_code, "build_corpus: the engine died")
    cluster.end(f"evaluate/{BASE}", "failed", ModelError.exit_code, "evaluate: no such model")
    one.tick()
    assert (statuses(one)["corpus"], statuses(one)[f"evaluate/{BASE}"]) == ("waiting", "failed")


@pytest.mark.parametrize(
    ("exit_code", "status"),
    [
        (1, "failed"),
        (2, "failed"),
        (3, "waiting"),
        (4, "failed"),
        (130, "failed"),
        (143, "failed"),
        (None, "waiting"),
        (-9, "waiting"),
        (137, "waiting"),
    ],
)
def test_what_was_lost_is_tried_again_and_nothing_else(tmp_path: Path, exit_code: int | None, status: str):
    cluster = Cluster()
    one = campaign(tmp_path, cluster)
    one.tick()
    cluster.end("corpus", "failed", exit_code, "build_corpus: the end")
    one.tick()
    assert statuses(one)["corpus"] == status


def test_a_job_that_was_stopped_by_hand_is_not_tried_again(tmp_path: Path):
    cluster = Cluster()
    one = campaign(tmp_path, cluster)
    one.tick()
    cluster.end("corpus", "stopped", None)
    one.tick()
    assert (one.states["corpus"].status, one.states["corpus"].reason) == ("failed", "it was stopped by hand")


def test_the_same_command_adopts_what_runs_and_repeats_nothing_that_is_done(tmp_path: Path):
    cluster = Cluster()
    campaign(tmp_path, cluster).tick()
    cluster.end("corpus")
    running = set(cluster.argv)
    two = campaign(tmp_path, cluster)
    two.tick()
    assert statuses(two)["corpus"] == "done"
    assert statuses(two)[f"evaluate/{SEVEN}"] == "running"
    assert {name for name in cluster.argv if name not in running} == {
        name for name in cluster.argv if "finetune" in name
    }
    # Another cluster knows none of the jobs: those that were running are begun again, those that were done
    # are not.
    other, clock = Cluster(), Clock()
    three = campaign(tmp_path, other, clock)
    three.tick()
    clock.now += 3600
    three.tick()
    assert not [name for name in other.argv if "corpus" in name]
    assert all(name.endswith("-2") for name in other.argv if "evaluate-" in name)


def test_what_failed_is_tried_again_by_the_same_command(tmp_path: Path):
    cluster = Cluster()
    one = campaign(tmp_path, cluster)
    one.tick()
    cluster.end("corpus", "failed", 2, "no")
    one.tick()
    two = campaign(tmp_path, cluster)
    two.tick()
    assert statuses(two)["corpus"] == "starting"
    assert statuses(two)[f"finetune/{SEVEN}"] == "waiting"


def test_no_group_holds_more_than_its_room(tmp_path: Path):
    cluster = Cluster()
    variants = [SEVEN, BASE, "r1-distill-llama-8b", "r1-distill-qwen-14b", "llama-3.1-8b"]
    one = campaign(tmp_path, cluster, stages__evaluate__variants=variants, groups__eval__gpus_per_node=1)
    one.tick()
    assert sum("-evaluate-" in name for name in cluster.running()) == 2


@pytest.mark.slow
def test_whatever_happens_each_job_is_submitted_once_and_the_campaign_ends(tmp_path: Path):
    for seed in range(30):
        dice, cluster, clock = random.Random(seed), Cluster(), Clock()
        folder = tmp_path / str(seed)
        one = campaign(folder, cluster, clock)
        for _ in itertools.count():
            one.tick()
            if one.is_over:
                break
            for name in cluster.running():
                ends = [
                    JobView("done", 0, 1.0, 2.0),
                    JobView("failed", None, 1.0, 2.0),
                    JobView("failed", 2, 1.0, 2.0),
                ]
                cluster.views[name] = dice.choice([*ends, cluster.views[name]])
            if dice.random() < 0.2:
                one = campaign(folder, cluster, clock)  # killed and begun again
            clock.now += 600
        done = {name for name, status in statuses(one).items() if status == "done"}
        assert all(set(one.steps[name].needs) <= done for name in done if name != "compare")


def test_the_page_begins_with_what_the_comparison_found(tmp_path: Path):
    cluster = Cluster()
    one = campaign(tmp_path / "book", cluster)
    for _ in range(8):
        one.tick()
        for name in cluster.running():
            cluster.views[name] = JobView("done", 0, 1.0, 2.0)
    assert one.is_over
    tables = tmp_path / "comparison" / "tables"
    tables.mkdir(parents=True)
    (tables / "chisafetybench-harm_rate.csv").write_text(
        "variant,compared_with,benchmark,metric,scope,key,numerator,denominator,rate,low,high\n"
        "<b>a</b>,,chisafetybench,harm_rate,overall,all,1,4,0.25,0.05,0.7\n"
        "<b>a</b>,,chisafetybench,harm_rate,area,values,1,4,0.99,0.05,0.7\n",
        "utf-8",
    )
    write_snapshot(str(tmp_path), take_snapshot(small(), one.steps, one.states))
    page = (tmp_path / "campaign" / "campaign.html").read_text("utf-8")
    assert page.index("&lt;b&gt;a&lt;/b&gt;") < page.index("进度")
    assert re.search(r'25\.0\s<span class="en"[^>]*>\[5\.0, 70\.0\]', page)
    assert "99.0" not in page
    assert 'href="../comparison/report.html"' in page


def test_the_snapshot_is_read_from_anywhere_and_hostile_text_stays_text(tmp_path: Path):
    from rich.console import Console

    cluster = Cluster()
    recipe = small()
    one = campaign(tmp_path / "book", cluster)
    one.tick()
    cluster.end(f"evaluate/{BASE}", "failed", 2, "<script>alert(1)</script> [red]x[/red]")
    cluster.end(f"evaluate/{SEVEN}")
    cluster.end("corpus")
    one.tick()
    write_snapshot(str(tmp_path), take_snapshot(recipe, one.steps, one.states))
    found = read_snapshot(str(tmp_path))
    assert [cell.name for cell in found.missing] == [f"evaluate/{BASE}"]
    held = {name: row[1] for name, *row in found.costs("stage")}
    assert held["evaluate"] == pytest.approx(2.0)  # two GPUs, an hour from start to end
    console = Console(width=200, record=True)
    console.print(to_table(found))
    text = console.export_text()
    assert "[red]x[/red]" in text
    page = (tmp_path / "campaign" / "campaign.html").read_text("utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    with pytest.raises(StorageError, match="no campaign in"):
        read_snapshot(str(tmp_path / "nowhere"))
