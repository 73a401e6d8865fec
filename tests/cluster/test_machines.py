"""The files for machines: `ray up`, Slurm, images, and every command that any file under cluster/ names."""

import copy
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start as ray_start

from safe_r1 import __version__
from safe_r1.campaign.recipe import load_recipe
from tests.cluster.commands import JOBS, ROOT, check_command, comment_lines, read_options, shell_lines
from tests.cluster.kustomize import render

CLUSTER = ROOT / "cluster"
VMS = sorted((CLUSTER / "vms").glob("*.yaml"))
DOCKERFILES = sorted((CLUSTER / "images").glob("*.Dockerfile"))
IMAGES = {"safe-r1-cpu", "safe-r1-inference", "safe-r1-training"}
SCRIPT = CLUSTER / "slurm" / "ray.sbatch"
TEXTS = sorted(
    path for path in CLUSTER.rglob("*")
    if path.is_file() and path.suffix in (".yaml", ".yml", ".Dockerfile", ".sbatch") and "local" not in path.parts
)  # fmt: skip


def read_vm(file: Path) -> Any:
    return yaml.safe_load(file.read_text("utf-8"))


@pytest.mark.parametrize("file", VMS, ids=lambda file: file.name)
def test_ray_up_takes_the_file(file):
    config = prepare_config(copy.deepcopy(read_vm(file)))
    validate_config(config)
    assert config["docker"]["head_image"].endswith(f"/safe-r1-cpu:{__version__}")


@pytest.mark.parametrize("file", VMS, ids=lambda file: file.name)
def test_machines_start_ray_closed(file):
    config = read_vm(file)
    options = config["docker"]["run_options"]
    assert {"--cap-drop=ALL", "--security-opt=no-new-privileges", "--env=RAY_AUTH_MODE=token"} <= set(options)
    (token,) = [option.rpartition("=")[2] for option in options if "RAY_AUTH_TOKEN_PATH" in option]
    assert token in config["file_mounts"]
    for kind in ("head", "worker"):
        (command,) = [line for line in config[f"{kind}_start_ray_commands"] if "ray start" in line]
        given = read_options(ray_start, command.split()[2:])
        assert "--object-spilling-directory" in given
        if kind == "head":
            assert given["--dashboard-host"] == ["127.0.0.1"]
    assert not re.search(r"(?i)(token|key|password)\w*=(?!/)\S*[0-9a-f]{8}", file.read_text("utf-8"))


def test_aws_has_every_group_of_the_papers_recipe():
    config = read_vm(CLUSTER / "vms" / "aws.yaml")
    for name, wanted in load_recipe("paper").groups.items():
        group = config["available_node_types"][name]
        assert wanted.labels.items() <= group["labels"].items()
        assert group["max_workers"] >= wanted.max_nodes
        if wanted.gpu:
            assert group["node_config"]["InstanceType"] == {"h100-80": "p5.48xlarge", "h200-141": "p5en.48xlarge"}[wanted.gpu]
    assert config["max_workers"] == sum(kind.get("max_workers", 0) for kind in config["available_node_types"].values())


def test_the_slurm_script_is_bash_with_flags_that_ray_knows():
    text = SCRIPT.read_text("utf-8")
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    assert "set -euo pipefail" in text
    common = re.search(r"^common=\((.*?)\)$", text, re.MULTILINE | re.DOTALL)
    assert common
    starts = re.findall(r"^ *(?:for .* do )?start \S+ (--.*?)(?:; done)?$", text, re.MULTILINE)
    assert len(starts) == 2
    for line in (common[1], *starts):
        read_options(ray_start, line.split())
    assert "RAY_AUTH_MODE=token" in text
    for line in re.findall(r"ray (?:health-check|list|job submit) [^|>;)]+", text):
        check_command(line)


@pytest.mark.parametrize("code", [0, 3])
def test_the_slurm_script_ends_in_a_job_of_the_cluster(tmp_path, code):
    """Run with stand-ins for Slurm and Ray: a head, a worker for each other node, one submission; the token is gone after."""
    calls, folder = tmp_path / "calls", tmp_path / "bin"
    folder.mkdir()
    stubs = {
        "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
        "scontrol": "printf 'node-1\\nnode-2\\n'",
        "ray": f"""echo "$*" >>{calls}
            case $1 in
              start) exec sleep 30 ;;
              list) echo "[1, 2]" ;;
              job) test -s "$RAY_AUTH_TOKEN_PATH" && exit {code} ;;
            esac""",
    }
    for name, body in stubs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    env = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "77",
           "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_NODELIST": "node-[1-2]", "SAFE_R1_VENV": str(tmp_path)}  # fmt: skip
    done = subprocess.run(["bash", str(SCRIPT), "python", "ray_jobs/evaluate.py", "--variant", "demo"], env=env, timeout=60,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == code, done.stderr
    said = calls.read_text().splitlines()
    assert sum("--head" in line for line in said) == 1
    assert sum(line.startswith("start --address=node-1:") for line in said) == 1
    assert said[-1] == "job submit --working-dir . -- python ray_jobs/evaluate.py --variant demo"
    assert not (tmp_path / ".cache" / "slurm-77").exists()


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_is_built_from_what_is_there(file):
    text = file.read_text("utf-8").replace("\\\n", " ")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {name for group in re.findall(r'"\.\[([\w,]+)\]"', text) for name in group.split(",")}
    assert extras
    assert extras <= set(project["optional-dependencies"])
    sent = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists()
            assert f"!{source}" in sent, f"{source} is not sent to the builder"
    for overrides in re.findall(r"--override (\S+)", text):
        assert (ROOT / overrides).is_file()
    for pin in re.findall(r" ((?:torch|transformers)==\S+)", text):
        assert pin in project["optional-dependencies"]["cpu"], "the head and the trainers have other versions"
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    assert stages[0].startswith("python:3.11-")
    for stage in stages:
        if "AS base" not in stage.splitlines()[0]:
            assert re.findall(r"^USER (\S+)", stage, re.MULTILINE) == ["1000"]
    assert "ENTRYPOINT" not in text, "KubeRay and `ray up` give the command"


def test_every_image_is_one_that_is_built_here():
    guide = (CLUSTER / "README.md").read_text("utf-8")
    assert set(re.findall(r"docker build .*-t (\S+) \.", guide)) == {f"{name}:{__version__}" for name in IMAGES}
    used = set()
    for file in VMS:
        config = read_vm(file)
        used |= {config["docker"]["head_image"], config["docker"]["worker_image"]}
        used |= {kind["docker"]["worker_image"] for kind in config.get("available_node_types", {}).values() if "docker" in kind}
    for kustomization in (CLUSTER / "kuberay").rglob("kustomization.yaml"):
        if kustomization.parent.name not in ("images", "kueue"):
            used |= set(re.findall(r"'image': '([^']+)'", str(render(kustomization.parent))))
    assert {image.rpartition("/")[2] for image in used} == {f"{name}:{__version__}" for name in IMAGES} | {"redis:8.2-alpine"}


def test_the_guides_commands_exist():
    known = [check_command(line) for line in shell_lines((CLUSTER / "README.md").read_text("utf-8"))]
    assert sum(known) >= 30
    assert len((CLUSTER / "README.md").read_text("utf-8").splitlines()) < 150


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(CLUSTER)))
def test_the_commands_of_a_file_exist(file):
    text = file.read_text("utf-8")
    for line in comment_lines(text):
        assert check_command(line), line
    if file.suffix == ".yaml":
        for document in yaml.safe_load_all(text):
            entrypoint = (document or {}).get("spec", {}).get("entrypoint") if isinstance(document, dict) else None
            assert entrypoint is None or check_command(entrypoint)
    if file.name == "kustomization.yaml" and "finetune" in file.parent.name:
        (job,) = render(file.parent)
        assert check_command(job["spec"]["entrypoint"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("python ray_jobs/evaluate.py --variant r1 --judg llm", "--judg"),
        ("python ray_jobs/evaluate.py --variant r1-distill-qwen-8b", "unknown variant"),
        ("python ray_jobs/evaluate.py --variant r1 --set engine.devise=gpu", "engine.devise"),
        ("python ray_jobs/train.py --variant r1", "ray_jobs/train.py"),
        ("safe-r1 plans --all", "plans"),
        ("ray up cluster/vms/gcp.yaml", "cluster/vms/gcp.yaml"),
        ("ray job submit --working-dirs . -- python x.py", "--working-dirs"),
        ("kubectl apply -k cluster/kuberay/jobs", "nothing to apply"),
        ("make tests", "tests"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line, reason):
    with pytest.raises(Exception, match=re.escape(reason)):
        check_command(line)


def test_the_campaign_has_the_flags_that_were_promised():
    import typer

    flags = {name for option in typer.main.get_command(JOBS["campaign"].app).params for name in option.opts}
    assert {"--recipe", "--output", "--only", "--budget-gpu-hours", "--dry-run"} <= flags
