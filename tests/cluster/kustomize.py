"""The part of kustomize that our manifests use, so that they are checked where kustomize is not installed.

A test compares the result with kustomize's own where it is.
"""

import copy
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Manifest = dict[str, Any]

KNOWN_FIELDS = {"apiVersion", "kind", "resources", "components", "patches", "images"}


def read_manifests(file: Path) -> list[Manifest]:
    """Read the documents of a YAML file; aliases become copies, so that a patch changes one place alone."""
    return [copy_tree(document) for document in yaml.safe_load_all(file.read_text("utf-8")) if document]


def copy_tree(tree: Any) -> Any:
    """A copy that shares nothing, not even inside itself (unlike ``copy.deepcopy``)."""
    if isinstance(tree, dict):
        return {name: copy_tree(value) for name, value in tree.items()}
    return [copy_tree(value) for value in tree] if isinstance(tree, list) else copy.copy(tree)


def render(folder: Path) -> list[Manifest]:
    """What ``kubectl apply -k FOLDER`` sends.

    Raises:
        ValueError: The folder uses what this reading of kustomize does not know, or a patch has no target.
    """
    settings = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    if unknown := set(settings) - KNOWN_FIELDS:
        raise ValueError(f"{folder}: {', '.join(sorted(unknown))} not known here")
    manifests: list[Manifest] = []
    for name in settings.get("resources", []):
        path = (folder / name).resolve()
        manifests += render(path) if path.is_dir() else read_manifests(path)
    for patch in settings.get("patches", []):
        manifests = apply_patch(manifests, patch["target"], yaml.safe_load(patch["patch"]))
    for name in settings.get("components", []):
        component = yaml.safe_load(((folder / name).resolve() / "kustomization.yaml").read_text("utf-8"))
        set_images(
            manifests,
            {image["name"]: f"{image['newName']}:{image['newTag']}" for image in component["images"]},
        )
    return manifests


def apply_patch(manifests: list[Manifest], target: Manifest, operations: list[Manifest]) -> list[Manifest]:
    """A JSON patch (RFC 6902) on the one manifest of this kind and name."""
    chosen = [
        m for m in manifests if (m["kind"], m["metadata"].get("name")) == (target["kind"], target["name"])
    ]
    if len(chosen) != 1:
        raise ValueError(f"patch of {target}: {len(chosen)} manifests of that name")
    patched = jsonpatch.apply_patch(chosen[0], copy_tree(operations))
    return [patched if manifest is chosen[0] else manifest for manifest in manifests]


def set_images(tree: object, images: dict[str, str]) -> None:
    """Give the images of all containers their registry and tag."""
    if isinstance(tree, list):
        for value in tree:
            set_images(value, images)
    elif isinstance(tree, dict):
        for name, value in tree.items():
            if name in ("containers", "initContainers"):
                for container in value:
                    container["image"] = images.get(container["image"].partition(":")[0], container["image"])
            set_images(value, images)
