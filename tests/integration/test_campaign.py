"""The campaign's command as a user calls it, and by `ray job submit` on four nodes, one of which dies in each
stage.
"""

import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from ray_jobs import campaign
from safe_r1.campaign.view import Snapshot, read_snapshot
from safe_r1.errors import StorageError
from tests.jobs import run_here
from tests.serving import ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 900
GROUP = "safe-r1/group"

RECIPE = """
name = "four-nodes"
retry_minutes = 0

[groups.cpu]
max_nodes = 1
labels = {{ "safe-r1/group" = "cpu" }}
[groups.eval]
max_nodes = 1
labels = {{ "safe-r1/group" = "eval" }}
[groups.train]
max_nodes = 1
labels = {{ "safe-r1/group" = "train" }}

[stages.corpus]
job = "corpus"
group = "cpu"
flags = {{ recipe = "seeds" }}
[stages.evaluate]
job = "evaluate"
group = "eval"
needs = ["corpus"]
variants = ["{model}"]
benchmarks = ["chisafetybench-sample"]
flags = {{ limit = 8 }}
set = [
  "engine.max_model_len=1024", "engine.max_num_seqs=2", "engine.shard_age_s=0", "engine.cpu_kv_cache_gib=1",
  "generation.max_tokens=200",
]
hours = 0.1
[stages.finetune]
job = "finetune"
group = "train"
needs = ["corpus", "evaluate"]
variants = ["{model}"]
flags = {{ max-steps = 15 }}
set = ["pack.seq_len=512", "global_batch_size=2", "save.every=5", "save.max_validation=1"]
hours = 0.1
"""


class Nodes:
    """A head and a node of each group, which can be taken away and replaced."""

    def __init__(self, port: int):
        self.dashboard = f"http://127.0.0.1:{port}"
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "include_dashboard": True,
                "dashboard_port": port,
                "dashboard_host": "127.0.0.1",
                # A dead node refuses the connection at once, five times: five seconds, not fifteen.
                "_system_config": {"health_check_period_ms": 1000},
            },
        )
        self.count = itertools.count()
        self.of = {group: self._add(group) for group in ("cpu", "eval", "train")}

    def _add(self, group: str) -> Any:
        # A folder of its own for the jobs' code: on one disk, nodes would unpack it over each other.
        folder = f"runtime_resources_{next(self.count)}"
        return self.cluster.add_node(num_cpus=9, labels={GROUP: group}, runtime_env_dir_name=folder)

    def replace(self, group: str) -> None:
        """The node dies; another comes."""
        self.cluster.remove_node(self.of[group], allow_graceful=False)
        self.of[group] = self._add(group)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    [port] = ports(1)
    made = Nodes(port)
    try:
        yield made
    finally:
        made.cluster.shutdown()


def submit(nodes: Nodes, recipe: Path, output: Path) -> subprocess.Popen:
    command = [
        Path(sys.executable).parent / "ray",
        "job",
        "submit",
        "--address",
        nodes.dashboard,
        "--working-dir",
        str(REPOSITORY),
        "--",
        # Ray would give the job the address of any Ray that runs on this machine.
        "env",
        f"RAY_ADDRESS={nodes.cluster.address}",
        sys.executable,
        "ray_jobs/campaign.py",
        "--recipe",
        str(recipe),
        "--output",
        str(output),
    ]
    log = output.with_suffix(".log").open("w")
    # Ray's client would look for another Ray of this machine, whatever server it is told.
    env = os.environ | {"PYTHONUNBUFFERED": "1", "RAY_API_SERVER_ADDRESS": nodes.dashboard}
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log, env=env)


def snapshot(output: Path) -> Snapshot | None:
    with contextlib.suppress(StorageError):
        return read_snapshot(str(output))
    return None


def wait_for(running: subprocess.Popen, output: Path, step: str, files: str) -> None:
    """Wait until a step has written its first part."""
    deadline = time.monotonic() + TIMEOUT_S
    while not any(output.glob(files)):
        seen = snapshot(output)
        cell = next((cell for cell in seen.cells if cell.name.startswith(step)), None) if seen else None
        assert cell is None or cell.status in ("waiting", "starting", "running"), cell
        is_alive = running.poll() is None and time.monotonic() < deadline
        assert is_alive, f"{step}: {cell}; {output.with_suffix('.log').read_text()}"
        time.sleep(0.2)
    assert not any(output.glob(f"{files.split('/')[0]}/**/_SUCCESS")), (
        f"{step} was over before its node could be taken away"
    )


def results(output: Path) -> dict[str, Any]:
    """Everything that a campaign makes, without times and paths."""
    files = [*(output / "corpus").rglob("*.parquet"), *(output / "finetuned").rglob("*-safe/*.safetensors")]
    found: dict[str, Any] = {
        str(file.relative_to(output)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }
    for file in (output / "runs" / "main").rglob("metrics.json"):
        metrics = json.loads(file.read_text("utf-8"))
        found[str(file.relative_to(output))] = {name: metrics[name] for name in ("rates", "counts")}
    return found


@pytest.mark.parametrize(
    ("recipe", "env", "said"),
    [
        ("demo", {"RAY_ADDRESS": "http://127.0.0.1:9"}, "no Jobs server at http://127.0.0.1:9"),
        ("paper", {"HF_TOKEN": ""}, "secret HF_TOKEN is not set"),
        ("papr", {}, "no recipe 'papr': known are attacks, demo, paper"),
        ("demo", {"SAFE_R1_OUTPUT": "s3://bucket/x"}, "give one that all nodes share"),
    ],
)
def test_bad_input_is_one_clear_line(
    recipe: str,
    env: dict[str, str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    output = env.get("SAFE_R1_OUTPUT", str(tmp_path / "out"))
    code, shown = run_here(campaign.app, ["--recipe", recipe, "--output", output], capfd)
    assert code == 2, shown
    assert said in shown.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.very_long
def test_a_node_dies_in_each_stage(nodes: Nodes, tiny_answering: Path, tmp_path: Path):
    recipe = tmp_path / "four.toml"
    recipe.write_text(RECIPE.format(model=tiny_answering), "utf-8")
    disturbed, quiet = tmp_path / "disturbed", tmp_path / "quiet"
    running = submit(nodes, recipe, disturbed)
    wait_for(running, disturbed, "corpus", "corpus/work/candidates/*.parquet")
    nodes.replace("cpu")
    wait_for(running, disturbed, "evaluate/", "runs/main/*/*/completions/*.parquet")
    nodes.replace("eval")
    wait_for(running, disturbed, "finetune/", "finetuned/main/*/checkpoints/*/state.json")
    nodes.replace("train")
    assert running.wait(TIMEOUT_S) == 0, disturbed.with_suffix(".log").read_text()
    assert submit(nodes, recipe, quiet).wait(TIMEOUT_S) == 0, quiet.with_suffix(".log").read_text()
    assert len(results(quiet)) >= 3
    assert results(disturbed) == results(quiet)
    seen = snapshot(disturbed)
    assert seen is not None
    assert not seen.missing
    assert sum(cell.attempts for cell in seen.cells) > len(seen.cells), "no job was ever lost with its node"
