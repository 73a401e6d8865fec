"""``make bench-campaign``: 14 evaluations on a cluster that grows and shrinks, with 1, 2, 4 and 8 nodes at
most.

The nodes are real raylets that Ray's autoscaler starts on this machine, the jobs real jobs of the campaign's
runner; an engine is a wait, in proportion to the planner's hours of the paper's 14 evaluations. Aim: at least
0.85 of linear with 8 nodes. What a job costs beside its wait is taken from the first run, and the simulation
of the others counts it. Every Ray on this machine is stopped before each run.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.cluster_utils import AutoscalingCluster
from upath import UPath

from safe_r1.campaign.graph import Step, make_steps
from safe_r1.campaign.jobs import RayJobs
from safe_r1.campaign.recipe import NodeGroup, Recipe, load_recipe
from safe_r1.campaign.run import Campaign
from safe_r1.campaign.simulate import simulate
from safe_r1.runs import RunFolder
from tests.bench.results import begin, show, write

_REPOSITORY = Path(__file__).parents[2]
_GROUP = "engines"
# By its type it would ask for a file that Ray's wheel lacks.
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


class GrowingCluster(AutoscalingCluster):
    """Ray's own test cluster with a configuration that is not in its wheel."""

    def _generate_config(
        self, head_resources: Any, worker_node_types: Any, autoscaler_v2: bool = False, **more: Any
    ) -> Any:
        head = {"resources": head_resources, "node_config": {}, "max_workers": 0}
        return {
            "cluster_name": "growing",
            "max_workers": 8,
            "idle_timeout_minutes": 0.2,
            "upscaling_speed": 100,
            "provider": {
                "type": "external",
                "module": _PROVIDER,
                "head_node_id": FAKE_HEAD_NODE_ID,
                "launch_multiple": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "docker": {},
            "auth": {},
            "file_mounts": {},
            "available_node_types": {**worker_node_types, "ray.head.default": head},
            "head_node_type": "ray.head.default",
            "initialization_commands": [],
            "setup_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            "rsync_exclude": [],
            "rsync_filter": [],
            "no_restart": False,
        } | more


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("bench-results"))
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=1600.0, help="waits of all 14 together")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="safe-r1-bench-"))
    results = begin(args) | {"runs": []}
    # The cluster calls `ray` by its name; jobs start where it was started.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.chdir(_REPOSITORY)
    overhead = 0.0
    for nodes in args.nodes:
        run = _run(nodes, args.seconds, overhead, folder / str(nodes))
        results["runs"].append(run)
        first = results["runs"][0]
        overhead = (first["makespan_s"] - first["simulated_s"]) * first["nodes"] / len(first["spans"])
        run["share_of_linear"] = round(first["makespan_s"] * first["nodes"] / run["makespan_s"] / nodes, 3)
        show("campaign", {name: value for name, value in run.items() if name != "spans"})
    results["job_overhead_s"] = round(overhead, 1)
    path = write(results, args.output, "campaign", folder)
    _draw(results["runs"], path.with_suffix(".png"))


def _steps(recipe: Recipe, seconds: float, folder: Path) -> dict[str, Step]:
    """The paper's evaluations, one GPU each, their hours as waits."""
    paper = make_steps(load_recipe("paper"), str(folder))
    chosen = {name: step for name, step in paper.items() if step.stage == "evaluate"}
    total = sum(step.estimate.hours for step in chosen.values())
    steps = {}
    for name, step in chosen.items():
        wait = seconds * step.estimate.hours / total
        words = (
            "-m",
            "tests.bench.latency_engine",
            f"{wait:.2f}",
            "1",
            str(folder / f"{name.replace('/', '-')}.json"),
        )
        estimate = dataclasses.replace(step.estimate, gpus=1, hours=wait / 3600)
        steps[name] = dataclasses.replace(step, words=words, group=_GROUP, estimate=estimate)
    return steps


def _run(nodes: int, seconds: float, overhead: float, folder: Path) -> dict[str, Any]:
    import ray

    folder.mkdir(parents=True)
    recipe = Recipe(
        name="bench",
        stages=load_recipe("paper").stages | {},
        groups=load_recipe("paper").groups
        | {_GROUP: NodeGroup(gpu="h100-80", gpus_per_node=1, max_nodes=nodes, start_minutes=0.1)},
    )
    steps = _steps(recipe, seconds, folder)
    worker = {
        "engine": {
            "resources": {"CPU": 1, "GPU": 1},
            "node_config": {},
            "min_workers": 0,
            "max_workers": nodes,
        }
    }
    cluster = GrowingCluster({"CPU": 16}, worker, autoscaler_v2=True)
    cluster.start()
    try:
        context = ray.init(address="auto", log_to_driver=False, logging_level="warning")
        jobs = RayJobs(f"http://{context.dashboard_url}", None, sys.executable)
        started = time.time()
        campaign = Campaign(recipe, steps, RunFolder(UPath(folder)), jobs)
        peak = 0
        while not campaign.is_over:
            campaign.tick()
            peak = max(peak, _engines(ray))
            time.sleep(1)
        ended = time.time()
        while _engines(ray) and time.time() < ended + 180:
            time.sleep(1)
        left, down = _engines(ray), time.time() - ended
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert all(state.status == "done" for state in campaign.states.values()), campaign.states
    planned = simulate({name: _longer(step, overhead) for name, step in steps.items()}, recipe.groups)
    return {
        "nodes": nodes,
        "makespan_s": round(ended - started, 1),
        "simulated_s": round(planned.makespan_hours * 3600, 1),
        "peak_nodes": peak,
        "nodes_after": left,
        "nodes_down_after_s": round(down, 1),
        "spans": [
            json.loads(file.read_text()) | {"step": file.stem, "at": started}
            for file in sorted(folder.glob("*.json"))
            if file.stem.startswith("evaluate-")
        ],
    }


def _longer(step: Step, seconds: float) -> Step:
    return dataclasses.replace(
        step, estimate=dataclasses.replace(step.estimate, hours=step.estimate.hours + seconds / 3600)
    )


def _engines(ray: Any) -> int:
    return sum(node["Alive"] and node["Resources"].get("GPU", 0) > 0 for node in ray.nodes())


def _draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Each node a row, each job a bar."""
    import matplotlib.pyplot as plt

    figure, all_axes = plt.subplots(
        len(runs), 1, figsize=(10, 1.5 + 1.6 * len(runs)), sharex=False, squeeze=False
    )
    for run, axes in zip(runs, all_axes[:, 0], strict=True):
        rows = {node: row for row, node in enumerate(dict.fromkeys(span["node"] for span in run["spans"]))}
        for span in run["spans"]:
            left, width = span["started"] - span["at"], span["ended"] - span["started"]
            axes.barh(rows[span["node"]], width, left=left, edgecolor="white")
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
