"""The manifests of every overlay, job and service: what Kubernetes, KubeRay and Kueue take."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

from safe_r1.campaign.graph import make_steps
from safe_r1.campaign.recipe import load_recipe
from safe_r1.campaign.simulate import simulate
from safe_r1.campaign.volume import peak_volume
from safe_r1.models.gpus import get_gpu
from safe_r1.models.registry import DEFAULT_JUDGE, VARIANTS
from safe_r1.resources import NODE_LABELS
from safe_r1.train.plan import plan_variant
from tests.cluster.kustomize import Manifest, render
from tests.cluster.manifests import (
    CLUSTER,
    FINETUNES,
    FOLDERS,
    KUBERAY,
    OVERLAYS,
    clusters,
    each_cluster,
    each_job,
    each_manifest,
    gpus_of,
    pod_templates,
    rendered,
)
from tests.cluster.schemas.compare import compare

SCHEMAS = Path(__file__).parent / "schemas"
KUBERNETES = "1.34"
OPERATORS = {
    "ray.io": "kuberay.yaml",
    "kueue.x-k8s.io": "others.yaml",
    "monitoring.coreos.com": "others.yaml",
}
PRODUCTS = {"h100-80": "NVIDIA-H100-80GB-HBM3", "h200-141": "NVIDIA-H200"}


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_our_reading_of_kustomize_is_kustomizes_own(folder):
    program = shutil.which("kustomize") or shutil.which("kubectl")
    if not program:
        pytest.skip("neither kustomize nor kubectl is installed")
    words = [program, "build" if program.endswith("kustomize") else "kustomize", str(folder)]
    theirs = list(
        yaml.safe_load_all(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    )
    assert sorted(map(as_text, theirs)) == sorted(map(as_text, render(folder)))


def as_text(manifest: Manifest) -> str:
    return json.dumps(manifest, sort_keys=True)


@each_manifest
def test_kubernetes_takes_it(manifest):
    """Kinds of Kubernetes by its own schema, strictly; the others by their operators'."""
    group = manifest["apiVersion"].partition("/")[0]
    if group in OPERATORS:
        own = yaml.safe_load((SCHEMAS / OPERATORS[group]).read_text("utf-8"))
        kind = f"{manifest['apiVersion']}/{manifest['kind']}"
        jsonschema.validate(manifest.get("spec", {}), {"$defs": own["$defs"]} | own[kind])
        assert set(manifest) <= {"apiVersion", "kind", "metadata", "spec"}
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    for template in pod_templates(manifest):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("where", "field", "value"),
    [
        ((), "submissionMod", "HTTPMode"),
        ((), "submissionMode", "http"),
        (("rayClusterSpec",), "enableAutoscaling", True),
        (("rayClusterSpec", "authOptions"), "mode", "tokens"),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams"), "num-cpus", 0),
        (("rayClusterSpec", "workerGroupSpecs", 0), "maxReplicas", "4"),
        (("deletionStrategy", "onSuccess"), "policy", "Delete"),
    ],
)
def test_the_schema_refuses_what_kuberay_does_not_know(where, field, value):
    (job,) = render(FINETUNES[0])
    place = job["spec"]
    for step in where:
        place = place[step]
    place[field] = value
    with pytest.raises(jsonschema.ValidationError):
        test_kubernetes_takes_it(job)


def test_the_schema_of_pods_refuses_what_does_not_exist():
    _, spec = clusters()[0]
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
    wrong = pod | {"template": {"spec": spec["headGroupSpec"]["template"]["spec"] | {"readOnly": True}}}
    with pytest.raises(jsonschema.ValidationError, match="readOnly"):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@each_cluster
def test_the_clusters_keep_kuberays_rules(spec):
    """What KubeRay's own validation refuses, and what an elastic or a fixed cluster of ours has to be."""
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token"}
    head, workers = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert head["serviceType"] == "ClusterIP"
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert not head.get("enableIngress")
    for group in [head, *workers]:
        assert "labels" not in group["rayStartParams"], (
            "KubeRay refuses it; the group's own field is the place"
        )
        assert group["labels"]["safe-r1/group"] == group.get("groupName", "head")
        assert group["template"]["spec"].get("restartPolicy", "Never") == "Never"
        assert "object-spilling-directory" in group["rayStartParams"]
    names = [group["groupName"] for group in workers]
    assert len(set(names)) == len(names)
    if spec.get("enableInTreeAutoscaling"):
        assert spec["autoscalerOptions"]["version"] == "v2"
        assert spec["autoscalerOptions"]["idleTimeoutSeconds"] >= 300
        assert all(group["minReplicas"] == 0 for group in workers if group["groupName"].startswith("gpu-"))
        assert spec["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
    else:
        assert all(group["minReplicas"] == group["replicas"] == group["maxReplicas"] for group in workers)


@each_job
def test_the_jobs_keep_kuberays_rules(job):
    spec = job["spec"]
    assert ("clusterSelector" in spec) != ("rayClusterSpec" in spec)
    assert spec["submissionMode"] == "HTTPMode"
    strategy = spec["deletionStrategy"]
    if "clusterSelector" in spec:
        names = {m["metadata"]["name"] for m in rendered(OVERLAYS[0]) if m["kind"] == "RayCluster"}
        assert spec["clusterSelector"]["ray.io/cluster"] in names
        assert not spec.get("suspend")
        assert "backoffLimit" not in spec
        assert {rule["policy"] for rule in strategy["deletionRules"]} == {"DeleteSelf"}
        assert {rule["condition"]["jobStatus"] for rule in strategy["deletionRules"]} == {
            "SUCCEEDED",
            "FAILED",
        }
        assert not spec.get("shutdownAfterJobFinishes"), "deletion rules and it exclude each other"
    else:
        assert spec["suspend"] is True
        assert spec["shutdownAfterJobFinishes"] is True
        assert set(strategy) == {"onSuccess", "onFailure"}
        assert not spec["rayClusterSpec"].get("enableInTreeAutoscaling"), "Kueue admits jobs of fixed size"


@pytest.mark.parametrize("name", ["evaluate", "corpus"])
def test_a_job_with_an_engine_keeps_to_the_nodes_of_its_group(name):
    """The other groups have GPUs too, for other work; without any GPU none would be found by itself."""
    (job,) = rendered(KUBERAY / "jobs" / f"{name}.yaml")
    (group,) = re.findall(rf"^env {NODE_LABELS}=safe-r1/group=(\S+) python ", job["spec"]["entrypoint"])
    assert "engine.device=gpu" in job["spec"]["entrypoint"]
    (cluster,) = [m for m in rendered(OVERLAYS[0]) if m["kind"] == "RayCluster"]
    (found,) = [g for g in cluster["spec"]["workerGroupSpecs"] if g["labels"] == {"safe-r1/group": group}]
    assert "safe-r1-gpu:" in found["template"]["spec"]["containers"][0]["image"]


@pytest.mark.parametrize("folder", FINETUNES, ids=lambda folder: folder.name)
def test_a_fine_tuning_job_has_the_gpus_of_its_layout(folder):
    (job,) = rendered(folder)
    entrypoint = job["spec"]["entrypoint"]
    layout = VARIANTS[entrypoint.split("--variant ")[1].split()[0]].layout
    assert layout is not None
    asked = re.search(r"--num-workers (\d+)", entrypoint)
    gpu = re.search(r"--set gpu=(\S+)", entrypoint)
    assert gpus_of(job) == (int(asked[1]) if asked else layout.num_gpus)
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["template"]["spec"]["nodeSelector"] == {
        "nvidia.com/gpu.product": PRODUCTS[gpu[1] if gpu else layout.gpu]
    }
    assert job["metadata"]["name"] == folder.name


def test_kueue_can_admit_every_fine_tuning_job():
    queues = rendered(KUBERAY / "kueue")
    local = {q["metadata"]["name"]: q["spec"]["clusterQueue"] for q in queues if q["kind"] == "LocalQueue"}
    flavors = {
        q["metadata"]["name"]: q.get("spec", {}).get("nodeLabels", {})
        for q in queues
        if q["kind"] == "ResourceFlavor"
    }
    (queue,) = [q for q in queues if q["kind"] == "ClusterQueue"]
    covered = {name for group in queue["spec"]["resourceGroups"] for name in group["coveredResources"]}
    quotas = {
        (flavor["name"], resource["name"]): resource["nominalQuota"]
        for group in queue["spec"]["resourceGroups"]
        for flavor in group["flavors"]
        for resource in flavor["resources"]
    }
    assert {name for name, _ in quotas} == set(flavors)
    for folder in FINETUNES:
        (job,) = rendered(folder)
        assert local[job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]] == queue["metadata"]["name"]
        spec = job["spec"]["rayClusterSpec"]
        head, (group,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
        needs = [(head["template"]["spec"], 1), (group["template"]["spec"], group["replicas"])]
        (flavor,) = [
            name for name, labels in flavors.items() if labels == group["template"]["spec"]["nodeSelector"]
        ]
        for resource in {name for pod, _ in needs for name in pod["containers"][0]["resources"]["requests"]}:
            assert resource in covered
            total = sum(
                amount(pod["containers"][0]["resources"]["requests"].get(resource, 0)) * n for pod, n in needs
            )
            quota = quotas[(flavor if resource == "nvidia.com/gpu" else "cpu-nodes", resource)]
            assert total <= amount(quota), f"{folder.name}: {total} {resource}"


def test_kueue_gives_back_what_a_gang_waits_for():
    values = yaml.safe_load((KUBERAY / "kueue" / "values.yaml").read_text("utf-8"))
    config = yaml.safe_load(values["managerConfig"]["controllerManagerConfigYaml"])
    assert config["waitForPodsReady"]["timeout"]
    assert config["waitForPodsReady"]["blockAdmission"] is True
    assert "ray.io/rayjob" in config["integrations"]["frameworks"]
    assert "enable" not in config["waitForPodsReady"], "v1beta2 has no such field"


def amount(quantity: str | int) -> float:
    number, unit = re.fullmatch(r"(\d+)(m|Mi|Gi|Ti)?", str(quantity)).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return int(number) * {None: 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]


def test_the_papers_overlay_has_every_group_of_the_papers_recipe():
    (cluster,) = [m for m in rendered(KUBERAY / "overlays" / "paper") if m["kind"] == "RayCluster"]
    groups = {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    for name, wanted in load_recipe("paper").groups.items():
        group = groups[name]
        assert wanted.labels.items() <= group["labels"].items()
        assert group["maxReplicas"] >= wanted.max_nodes
        if wanted.gpu:
            pod = group["template"]["spec"]
            assert pod["nodeSelector"] == {"nvidia.com/gpu.product": PRODUCTS[wanted.gpu]}
            assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == str(
                get_gpu(wanted.gpu).per_node
            )
    assert sum(group["maxReplicas"] for name, group in groups.items() if name.startswith("gpu-")) <= 64


def memory_of(pod: Manifest) -> float:
    """GiB that a worker asks for."""
    return amount(pod["containers"][0]["resources"]["requests"]["memory"]) / 2**30


def disk_of(pod: Manifest) -> float:
    return amount(pod["containers"][0]["resources"]["requests"]["ephemeral-storage"]) / 2**30


def training_groups() -> list[tuple[str, Manifest]]:
    """Pods of every group that trains, of the elastic clusters and of the jobs' own."""
    return [
        (name, group["template"]["spec"])
        for name, spec in clusters()
        for group in spec["workerGroupSpecs"]
        if group["groupName"].startswith("gpu-train")
    ]


def test_nodes_have_the_memory_that_plans_count_with():
    groups = training_groups()
    assert len(groups) >= 5
    for name, pod in groups:
        gpu = next(gpu for gpu, product in PRODUCTS.items() if product in str(pod["nodeSelector"]))
        assert memory_of(pod) == get_gpu(gpu).node_memory_gib, name


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.kind == "r1"])
def test_nodes_hold_what_each_models_plan_needs(name):
    """Host memory and disk of its layout, on every group with its kind of GPU."""
    plan = plan_variant(VARIANTS[name])
    found = 0
    for _, pod in training_groups():
        if PRODUCTS[plan.gpu.name] in str(pod["nodeSelector"]):
            found += 1
            assert plan.host.total <= memory_of(pod)
            assert plan.node_disk_gib <= disk_of(pod)
    assert found


def volume_of(overlay: str) -> float:
    """GiB that the volume of an overlay is asked to have."""
    (claim,) = [m for m in rendered(KUBERAY / "overlays" / overlay) if m["kind"] == "PersistentVolumeClaim"]
    return amount(claim["spec"]["resources"]["requests"]["storage"]) / 2**30


def test_the_papers_volume_holds_the_papers_campaign():
    (job,) = rendered(KUBERAY / "jobs" / "campaign.yaml")
    assert "--recipe paper --output /models/" in job["spec"]["entrypoint"], "it writes to the volume"
    budget = re.search(r"--budget-gpu-hours (\d+)", job["spec"]["entrypoint"])
    assert budget
    recipe = load_recipe("paper", float(budget[1]))
    # A plan above the budget is refused here.
    steps = make_steps(recipe, "/models/campaign")
    needed = peak_volume(recipe, steps, simulate(steps, recipe.groups)).total
    assert needed <= volume_of("paper")


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda folder: folder.name)
def test_every_volume_holds_the_models_that_it_caches(overlay):
    """All published models and the judge; the jobs of these overlays write to a bucket."""
    models = {variant.source: variant.weights_gib() for variant in [*VARIANTS.values(), DEFAULT_JUDGE]}
    assert 1.05 * sum(models.values()) <= volume_of(overlay.name)


def test_a_volume_that_is_made_by_hand_has_the_size_of_its_claim():
    made = [m for m in rendered(KUBERAY / "overlays" / "onprem") if m["kind"] == "PersistentVolume"]
    (capacity,) = [m["spec"]["capacity"]["storage"] for m in made]
    assert amount(capacity) / 2**30 >= volume_of("onprem")


def test_the_service_is_the_serve_config_of_the_repository():
    (service,) = rendered(KUBERAY / "serve")
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == yaml.safe_load(
        (CLUSTER / "serve/application.yaml").read_text()
    )
    keys = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]["api_keys"]
    for template in pod_templates(service):
        mounts = template["spec"]["containers"][0]["volumeMounts"]
        assert any(keys.startswith(mount["mountPath"] + "/") and mount.get("readOnly") for mount in mounts)


def test_the_comparison_with_the_real_definitions_finds_differences():
    """With a definition made up from our own description, and with one that lacks a field and asks for
    another.
    """
    own = yaml.safe_load((SCHEMAS / "kuberay.yaml").read_text("utf-8"))
    real = expand(own["ray.io/v1/RayJob"], own["$defs"])
    assert compare([definition_of(real)]) == []
    del real["properties"]["deletionStrategy"]["properties"]["deletionRules"]
    real["properties"]["rayClusterSpec"]["required"].append("rayVersion")
    real["properties"]["submissionMode"]["enum"].remove("SidecarMode")
    assert [line.partition(":")[0] for line in compare([definition_of(real)])] == [
        "RayJob.deletionStrategy.deletionRules",
        "RayJob.rayClusterSpec.rayVersion",
        "RayJob.submissionMode",
    ]


def definition_of(spec: Manifest) -> Manifest:
    schema = {"openAPIV3Schema": {"properties": {"spec": spec}}}
    return {
        "spec": {
            "group": "ray.io",
            "names": {"kind": "RayJob"},
            "versions": [{"name": "v1", "schema": schema}],
        }
    }


def expand(tree: Any, definitions: Manifest) -> Any:
    """A schema without references, as a CustomResourceDefinition has it."""
    if isinstance(tree, dict):
        if "$ref" in tree:
            return expand(definitions[tree["$ref"].rpartition("/")[2]], definitions)
        return {name: expand(value, definitions) for name, value in tree.items()}
    return [expand(value, definitions) for value in tree] if isinstance(tree, list) else tree
