"""What the jobs of a role import: everything that is reachable from their entry points."""

import sys
from collections.abc import Iterable
from typing import Literal, get_args

from safe_r1.selfcheck.source import Import, find_module, read_imports

Role = Literal["evaluation", "serving", "training", "corpus", "all"]

ENTRY_POINTS: dict[str, tuple[str, ...]] = {
    "evaluation": ("ray_jobs.evaluate", "ray_jobs.rejudge"),
    # The Serve config of a cluster names a function of the second.
    # The last is imported by Ray, from its name.
    "serving": ("ray_jobs.serve", "safe_r1.serve.app", "safe_r1.serve.prepare"),
    "training": ("ray_jobs.finetune", "safe_r1.train.__main__"),
    "corpus": ("ray_jobs.build_corpus",),
    # The last is run as a script, which reads chat templates.
    "all": ("ray_jobs.campaign", "safe_r1.cli", "safe_r1.chat", "safe_r1.models.template_worker"),
}
"""Role to the modules whose imports are followed; ``all`` has those of every role."""

# Loaded by fsspec for URIs that begin with s3:// and gs://, without an import anywhere.
_LOADED_BY_NAME = [
    Import(module, None, importer="fsspec", line=0, is_optional=True) for module in ("s3fs", "gcsfs")
]

_OWN = ("safe_r1", "ray_jobs")
# Ray's side of an engine imports vLLM where it needs it, mostly in functions.
_RAYS = ("ray.llm", "ray.data.llm", "ray.serve.llm")
NOT_USED = (
    # Ray's own ingress of HTTP, and its routing by contents of the key-value caches: the service has its own.
    "ray.llm._internal.serve.core.ingress",
    "ray.llm._internal.serve.routing_policies.kv_aware.vllm.tokenizer",
    # Pictures and sounds in prompts.
    "ray.llm._internal.batch.stages.prepare_multimodal_stage",
)
"""Modules of Ray whose imports in functions no job comes to."""


def imports_of_role(role: Role) -> list[Import]:
    """All imports that the jobs of a role can come to, of this project's modules and of others.

    The standard library is left out, and of the imports of Ray's modules all but vLLM and themselves: what
    else they import in functions is for engines that are not used.
    """
    roles = get_args(Role) if role == "all" else (role,)
    return [*follow([module for each in roles for module in ENTRY_POINTS[each]]), *_LOADED_BY_NAME]


def follow(entry_points: Iterable[str]) -> list[Import]:
    """The imports of these modules, and of those of them that are this project's, or Ray's for engines."""
    waiting = list(entry_points)
    found = [Import(module, None, importer="selfcheck", line=0) for module in waiting]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        file = find_module(module)
        if module in seen or file is None or is_in(module, NOT_USED):
            continue
        seen.add(module)
        if parent := module.rpartition(".")[0]:
            waiting += [parent] if _is_followed(parent) else []
        for each in read_imports(module, file):
            if _is_followed(each.module) or not (
                each.package in sys.stdlib_module_names or is_in(module, _RAYS)
            ):
                found.append(each)
                waiting += [name for name in _modules(each) if _is_followed(name)]
            elif each.package == "vllm":
                found.append(each)
    return found


def _modules(each: Import) -> list[str]:
    inside = [f"{each.module}.{each.name}"] if each.name else []
    return [each.module, *(name for name in inside if find_module(name))]


def _is_followed(module: str) -> bool:
    return is_in(module, (*_OWN, *_RAYS))


def is_in(module: str, packages: Iterable[str]) -> bool:
    """True for these packages and modules, and for all modules in them."""
    return any(f"{module}.".startswith(f"{package}.") for package in packages)
