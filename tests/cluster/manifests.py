"""All manifests of ``cluster/kuberay``, and how tests look into them."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.kustomize import Manifest, read_manifests, render

CLUSTER = Path(__file__).parents[2] / "cluster"
KUBERAY = CLUSTER / "kuberay"

OVERLAYS = sorted(path.parent for path in (KUBERAY / "overlays").glob("*/kustomization.yaml"))
FOLDERS = sorted(
    path.parent for path in KUBERAY.rglob("kustomization.yaml") if path.parent.name not in ("images", "base")
)  # base is in every overlay, images is a part
FILES = [*sorted((KUBERAY / "jobs").glob("*.yaml")), CLUSTER / "monitoring" / "podmonitor.yaml"]
FINETUNES = sorted((KUBERAY / "jobs").glob("finetune-*"))


@cache
def rendered(folder: Path) -> list[Manifest]:
    return render(folder) if folder.is_dir() else read_manifests(folder)


def all_manifests() -> list[tuple[str, Manifest]]:
    return [
        (
            f"{source.relative_to(CLUSTER)}: {manifest['kind']} {manifest['metadata'].get('name', '')}",
            manifest,
        )
        for source in [*FOLDERS, *FILES]
        for manifest in rendered(source)
    ]


MANIFESTS = all_manifests()
each_manifest = pytest.mark.parametrize(
    "manifest", [m for _, m in MANIFESTS], ids=[name for name, _ in MANIFESTS]
)


def find(tree: object, name: str) -> Iterator[Any]:
    """Every value under a key, anywhere."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == name:
                yield value
            yield from find(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from find(value, name)


def clusters() -> list[tuple[str, Manifest]]:
    """Every RayClusterSpec, also those inside a job or a service."""
    inside = {"RayCluster": "spec", "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
    found = []
    for name, manifest in MANIFESTS:
        key = inside.get(manifest["kind"])
        spec = manifest["spec"] if key == "spec" else manifest["spec"].get(key) if key else None
        if spec:
            found.append((name, spec))
    return found


each_cluster = pytest.mark.parametrize(
    "spec", [s for _, s in clusters()], ids=[name for name, _ in clusters()]
)
each_job = pytest.mark.parametrize(
    "job",
    [m for _, m in MANIFESTS if m["kind"] == "RayJob"],
    ids=[n for n, m in MANIFESTS if m["kind"] == "RayJob"],
)


def pod_templates(manifest: Manifest) -> Iterator[Manifest]:
    yield from find(manifest.get("spec", {}), "template")


def environment(container: Manifest) -> dict[str, str | None]:
    return {entry["name"]: entry.get("value") for entry in container.get("env", [])}


def gpus_of(job: Manifest) -> int:
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in groups]
    return sum(
        group["replicas"] * int(limit["nvidia.com/gpu"]) for group, limit in zip(groups, limits, strict=True)
    )
