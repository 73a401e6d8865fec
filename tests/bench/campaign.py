"""``make bench-campaign``: 14 evaluations on an autoscaled cluster with 1, 2, 4 and 8 nodes at most.

The nodes are real raylets that Ray's autoscaler starts on this machine, the jobs real jobs of the campaign's
runner; an engine is a wait, in proportion to the planner's hours of the paper's 14 evaluations. Aim: at least
0.85 of linear speed-up with 8 nodes. The overhead of a job beside its wait is taken from the first run, and
the simulation of the others includes it. Other Rays on this machine keep running.
"""

import argparse
import dataclasses
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from upath import UPath

from safe_r1.campaign.graph import Step, make_steps
from safe_r1.campaign.jobs import RayJobs
from safe_r1.campaign.recipe import CampaignRecipe, NodeGroup, load_recipe
from safe_r1.campaign.run import Campaign
from safe_r1.campaign.simulate import simulate
from safe_r1.runs import RunFolder
from tests.bench.growing_cluster import GrowingCluster
from tests.bench.results import begin, make_parser, parse, show, write

_REPOSITORY = Path(__file__).parents[2]
_GROUP = "engines"

# Figures of one campaign, as in the results file.
Run = dict[str, Any]


def main() -> None:
    args = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="safe-r1-bench-"))
    results = begin(args)
    # Jobs start in the folder in which the cluster was started.
    os.chdir(_REPOSITORY)
    overhead = 0.0
    runs: list[Run] = []
    for nodes in args.nodes:
        run = _run(nodes, args.jobs, args.seconds, overhead, folder / str(nodes))
        runs.append(run)
        first = runs[0]
        overhead = (first["makespan_s"] - first["simulated_s"]) * first["nodes"] / len(first["spans"])
        run["share_of_linear"] = round(first["makespan_s"] * first["nodes"] / run["makespan_s"] / nodes, 3)
        show("campaign", {name: value for name, value in run.items() if name != "spans"})
    results |= {"runs": runs, "job_overhead_s": round(overhead, 1)}
    path = write(results, args.output, "campaign", folder)
    _draw(runs, path.with_suffix(".png"))


def _arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8], help="largest number of nodes")
    parser.add_argument("--jobs", type=int, help="number of evaluations; all 14 by default")
    parser.add_argument("--seconds", type=float, default=1600.0, help="sum of the waits of all jobs")
    return parse(parser, nodes=[1], jobs=2, seconds=2.0)


def _steps(recipe: CampaignRecipe, num_jobs: int | None, seconds: float, folder: Path) -> dict[str, Step]:
    """The paper's evaluations, one GPU each, their hours as waits."""
    paper = make_steps(load_recipe("paper"), str(folder))
    evaluations = [(name, step) for name, step in paper.items() if step.stage == "evaluate"][:num_jobs]
    total = sum(step.estimate.hours for _, step in evaluations)
    steps = {}
    for name, step in evaluations:
        wait = seconds * step.estimate.hours / total
        record = folder / f"{name.replace('/', '-')}.json"
        argv = ("-m", "tests.bench.latency_engine", f"{wait:.2f}", "1", str(record))
        estimate = dataclasses.replace(step.estimate, gpus=1, hours=wait / 3600)
        steps[name] = dataclasses.replace(step, argv=argv, group=_GROUP, estimate=estimate)
    return steps


def _run(nodes: int, num_jobs: int | None, seconds: float, overhead: float, folder: Path) -> Run:
    """One campaign on a cluster of its own that grows to ``nodes``, beside its simulation."""
    folder.mkdir(parents=True)
    paper = load_recipe("paper")
    group = NodeGroup(gpu="h100-80", gpus_per_node=1, max_nodes=nodes, start_minutes=0.1)
    recipe = CampaignRecipe(name="bench", stages=paper.stages | {}, groups=paper.groups | {_GROUP: group})
    steps = _steps(recipe, num_jobs, seconds, folder)
    with GrowingCluster(nodes, folder) as cluster:
        context = ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
        try:
            jobs = RayJobs(f"http://{context.dashboard_url}", None, sys.executable)
            started = time.time()
            campaign = Campaign(recipe, steps, RunFolder(UPath(folder)), jobs)
            peak = 0
            while not campaign.is_over:
                campaign.tick()
                peak = max(peak, _num_engine_nodes())
                time.sleep(1)
            ended = time.time()
            while _num_engine_nodes() and time.time() < ended + 180:
                time.sleep(1)
            left = _num_engine_nodes()
            down_s = time.time() - ended
        finally:
            ray.shutdown()
    assert all(state.status == "done" for state in campaign.states.values()), campaign.states
    planned = simulate({name: _longer(step, overhead) for name, step in steps.items()}, recipe.groups)
    return {
        "nodes": nodes,
        "makespan_s": round(ended - started, 1),
        "simulated_s": round(planned.makespan_hours * 3600, 1),
        "peak_nodes": peak,
        "nodes_after": left,
        "nodes_down_after_s": round(down_s, 1),
        "spans": [
            json.loads(file.read_text()) | {"step": file.stem, "at": started}
            for file in sorted(folder.glob("*.json"))
            if file.stem.startswith("evaluate-")
        ],
    }


def _longer(step: Step, seconds: float) -> Step:
    estimate = dataclasses.replace(step.estimate, hours=step.estimate.hours + seconds / 3600)
    return dataclasses.replace(step, estimate=estimate)


def _num_engine_nodes() -> int:
    return sum(node["Alive"] and node["Resources"].get("GPU", 0) > 0 for node in ray.nodes())


def _draw(runs: list[Run], path: Path) -> None:
    """Gantt chart of each run: a row for each node, a bar for each job."""
    import matplotlib.pyplot as plt

    figure, all_axes = plt.subplots(
        len(runs), 1, figsize=(10, 1.5 + 1.6 * len(runs)), sharex=False, squeeze=False
    )
    for run, axes in zip(runs, all_axes[:, 0], strict=True):
        rows = {node: row for row, node in enumerate(dict.fromkeys(span["node"] for span in run["spans"]))}
        for span in run["spans"]:
            left = span["started"] - span["at"]
            axes.barh(rows[span["node"]], span["ended"] - span["started"], left=left, edgecolor="white")
        axes.set_title(
            f"{run['nodes']} nodes: {run['makespan_s']:.0f} s, {run['share_of_linear']:.2f} of linear",
            fontsize=9,
        )
        axes.set_yticks(range(len(rows)), [f"node {row}" for row in rows.values()], fontsize=7)
    figure.supxlabel("seconds since the campaign began")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
