"""Models behind a URL in a campaign: no GPU, their tokens and cost in plan, budget and summary."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from upath import UPath

from safe_r1.campaign.endpoint_use import EndpointUse
from safe_r1.campaign.graph import make_steps
from safe_r1.campaign.plan_text import to_text
from safe_r1.campaign.recipe import CampaignRecipe
from safe_r1.campaign.run import Campaign
from safe_r1.campaign.view import campaign_folder, read_snapshot, take_snapshot, to_table, write_snapshot
from safe_r1.errors import ConfigError
from safe_r1.runs import RunFolder
from tests.unit.campaign.test_run import SEVEN, Cluster

ONE = "endpoint:https://one.example/v1#m"
TWO = "endpoint:https://two.example/v1#m"
PRICES = ("endpoint.input_price=10", "endpoint.output_price=100")
STEPS = ("evaluate/m--one.example", "evaluate/m--two.example")


def recipe(*settings: str, flags: dict[str, Any] | None = None, **changes: Any) -> CampaignRecipe:
    """Two endpoints with 10 questions each: 1,500 prompt and 7,000 completion tokens."""
    stage = {
        "job": "evaluate",
        "group": "cpu",
        "variants": [ONE, TWO],
        "benchmarks": ["chisafetybench"],
        "flags": {"limit": 10, **(flags or {})},
        "set": list(settings),
    }
    groups = {"cpu": {"max_nodes": 1, "jobs_per_node": 2}}
    return CampaignRecipe.model_validate(
        {"name": "x", "groups": groups, "stages": {"evaluate": stage}, **changes}
    )


def begin(made: CampaignRecipe, output: Path, cluster: Cluster) -> Campaign:
    return Campaign(made, make_steps(made, str(output)), campaign_folder(str(output)), cluster)


def report(output: Path, variant: str, cost: float) -> None:
    """What an evaluation that has ended reports."""
    folder = RunFolder.locate(f"{output}/runs", "main", variant, "chisafetybench")
    found = {"prompt_tokens": 1000, "completion_tokens": 9000, "cost": cost, "adapted": {}}
    folder.write_json("run.json", {"endpoint": found})


def test_the_plan_has_tokens_and_cost_and_no_gpu(tmp_path: Path):
    made = recipe(*PRICES)
    steps = make_steps(made, str(tmp_path))
    assert [steps[name].estimate.gpus for name in STEPS] == [0, 0]
    use = steps[STEPS[0]].estimate.endpoint
    assert use is not None
    assert (use.prompt_tokens, use.cost) == (1500, (1500 * 10 + use.completion_tokens * 100) / 1e6)
    text = to_text(made, steps)
    assert f"endpoint   {STEPS[0]}: 1,500 prompt and " in text
    assert f"{2 * (use.cost or 0):.4g} at the prices set" in text
    assert "no prices set" in to_text(recipe(), make_steps(recipe(), str(tmp_path)))


def test_a_limit_of_cost_bounds_the_plan(tmp_path: Path):
    made = recipe(*PRICES, flags={"max-cost": 0.01})
    assert "0.02 at the prices set" in to_text(made, make_steps(made, str(tmp_path)))
    with pytest.raises(ConfigError, match="max_cost needs prices"):
        make_steps(recipe(flags={"max-cost": 0.01}), str(tmp_path))


def test_a_plan_above_the_budget_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"endpoints cost about .* and budget_endpoint_cost is 0\.1"):
        make_steps(recipe(*PRICES, budget_endpoint_cost=0.1), str(tmp_path))
    with pytest.raises(ConfigError, match=f"needs prices, and {STEPS[0]} has none"):
        make_steps(recipe(budget_endpoint_cost=0.1), str(tmp_path))


def test_a_job_is_not_submitted_once_the_budget_is_spent(tmp_path: Path):
    made = recipe(*PRICES, budget_endpoint_cost=3.0)
    cluster = Cluster()
    one = begin(made, tmp_path, cluster)
    one.tick()
    assert [one.states[name].status for name in STEPS] == ["starting", "starting"]
    # The second one dies; meanwhile the first has cost more than was planned.
    cluster.end(STEPS[0])
    report(tmp_path, "m--one.example", 2.9)
    cluster.end(STEPS[1], "failed", None)
    one.tick()
    again = begin(made.model_copy(update={"retry_minutes": 0.0}), tmp_path, cluster)
    again._now = lambda: 1e12
    again.tick()
    state = again.states[STEPS[1]]
    assert state.status == "failed"
    assert state.reason.startswith("the budget of endpoints is spent: 2.9 of 3, this costs about ")


def test_the_summary_has_what_the_runs_report(tmp_path: Path):
    made = recipe(*PRICES)
    one = begin(made, tmp_path, Cluster())
    report(tmp_path, "m--one.example", 0.25)
    one.tick()
    assert one.endpoint_uses[STEPS[0]] == EndpointUse(1000, 9000, 0.25)
    snapshot = take_snapshot(made, one.steps, one.states, one.endpoint_uses)
    write_snapshot(str(tmp_path), snapshot)
    assert read_snapshot(str(tmp_path)) == snapshot
    assert (
        "1,000 prompt and 9,000 completion tokens of endpoints, 0.25 at the prices set" in snapshot.endpoints
    )
    page = (UPath(tmp_path) / "campaign" / "campaign.html").read_text()
    assert snapshot.endpoints in page
    shown = StringIO()
    Console(file=shown, width=300).print(to_table(snapshot))
    assert snapshot.endpoints in shown.getvalue()


def test_the_file_of_an_endpoint_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "api.toml").write_text('name = "api"\nurl = "https://one.example/v1"\nmodel = "m"\n')
    monkeypatch.chdir(tmp_path)
    stage = {"job": "evaluate", "group": "cpu", "variants": ["api.toml"], "benchmarks": ["chisafetybench"]}
    made = CampaignRecipe.model_validate(
        {"name": "x", "groups": {"cpu": {"max_nodes": 1}}, "stages": {"evaluate": stage}}
    )
    argv = make_steps(made, "/out")["evaluate/api"].argv
    assert argv[argv.index("--variant") + 1] == str(tmp_path / "api.toml")


@pytest.mark.parametrize(
    ("changes", "group", "gpus"),
    [
        ({}, "cpu", 0),
        # Where the recipe says so, or a judge needs them.
        ({"group_of": {ONE: "eval"}}, "eval", 0),
        ({"set": ["judge.kind=llm", "judge.model=r1-distill-qwen-7b"]}, "eval", 1),
    ],
)
def test_an_endpoint_keeps_no_gpu_idle(changes: dict[str, Any], group: str, gpus: int):
    groups = {"eval": {"gpu": "h100-80", "max_nodes": 1}, "cpu": {"max_nodes": 1}}
    stage = {"job": "evaluate", "group": "eval", "variants": [ONE, SEVEN], "benchmarks": ["chisafetybench"]}
    made = CampaignRecipe.model_validate(
        {"name": "x", "groups": groups, "stages": {"evaluate": {**stage, **changes}}}
    )
    steps = make_steps(made, "/out")
    assert (steps[STEPS[0]].group, steps[STEPS[0]].estimate.gpus) == (group, gpus)
    assert steps[f"evaluate/{SEVEN}"].group == "eval"
