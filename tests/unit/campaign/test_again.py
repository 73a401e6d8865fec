import json
from pathlib import Path

from safe_r1.campaign.jobs import JobView
from tests.unit.campaign.test_run import BASE, SEVEN, Cluster, campaign, statuses


def test_what_was_compared_without_a_variant_is_compared_again_with_it(tmp_path: Path):
    cluster = Cluster()
    one = campaign(tmp_path, cluster, max_attempts=2)
    for _ in range(8):
        one.tick()
        for name in cluster.running():
            is_bad = f"-evaluate-{BASE.replace('.', '-')}-" in name
            cluster.views[name] = JobView("failed", 2, 1.0, 2.0) if is_bad else JobView("done", 0, 1.0, 2.0)
    assert one.is_over
    assert (statuses(one)[f"evaluate/{BASE}"], statuses(one)["compare"]) == ("failed", "done")
    two = campaign(tmp_path, cluster, max_attempts=2)
    two.tick()
    assert (statuses(two)[f"evaluate/{BASE}"], statuses(two)["compare"]) == ("starting", "waiting")
    cluster.end(f"evaluate/{BASE}")
    two.tick()
    assert statuses(two)["compare"] == "starting"
    cluster.end("compare", "failed", None)
    two.tick()
    assert statuses(two)["compare"] == "waiting", (
        "its first attempt succeeded and was none that lost its machine"
    )


def test_a_comparison_that_still_runs_as_its_variant_is_tried_again_is_repeated(tmp_path: Path):
    cluster = Cluster()
    one = campaign(tmp_path, cluster)
    one.tick()
    cluster.end("corpus", "failed", 2)
    cluster.end(f"evaluate/{SEVEN}")
    cluster.end(f"evaluate/{BASE}", "failed", 2)
    one.tick()
    assert statuses(one)["compare"] == "starting"
    two = campaign(tmp_path, cluster)  # the one before was killed
    cluster.end("compare")
    two.tick()
    assert statuses(two)["compare"] == "waiting"


def test_names_that_differ_only_in_what_a_jobs_name_cannot_hold_are_two_jobs(tmp_path: Path):
    folders = [tmp_path / name for name in ("模型甲", "模型乙", "Model", "model", "model_a", "model.a")]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_text("{}", "utf-8")
    cluster = Cluster()  # refuses a second job of a name
    one = campaign(
        tmp_path / "book",
        cluster,
        stages__evaluate__variants=[str(folder) for folder in folders],
        groups__eval={"max_nodes": 9},
    )
    one.tick()
    assert sum("-evaluate-" in name for name in cluster.running()) == len(folders)
    assert all(name.isascii() for name in cluster.running())


def test_states_of_an_earlier_version_are_read(tmp_path: Path):
    attempt = {
        "job": "small-1",
        "submitted_at": 900.0,
        "started_at": 910.0,
        "held_from": 1000.0,
        "ended_at": 4600.0,
        "exit_code": 2,
        "said": "evaluate: no such model",
        "is_forgotten": False,
    }
    state = {"status": "failed", "reason": "no such model", "progress": "completions: 3/48 rows"}
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / f"evaluate__{BASE}.json").write_text(json.dumps(state | {"attempts": [attempt]}))
    one = campaign(tmp_path, Cluster())
    [read] = one.states[f"evaluate/{BASE}"].attempts
    assert (read.busy_since, read.last_line, read.hours(9999.0)) == (1000.0, "evaluate: no such model", 1.0)
    one.tick()
    written = json.loads((tmp_path / "steps" / f"evaluate__{BASE}.json").read_text())
    assert [sorted({"last_line", "said"} & each.keys()) for each in written["attempts"]] == [
        ["last_line"]
    ] * 2
