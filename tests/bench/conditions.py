"""What a process really runs with, read inside it, and the check that all sides of a comparison run alike."""

import os
import sys
from collections.abc import Mapping, Sequence

from safe_r1.errors import SafeR1Error

# Variables that set the threads of numerical libraries and vLLM's use of the CPUs.
_VARIABLES = (
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_CPU_NUM_OF_RESERVED_CPU",
    "VLLM_CPU_OMP_THREADS_BIND",
)

Conditions = dict[str, object]


class DifferentConditionsError(SafeR1Error):
    """The sides of a comparison did not run under the same conditions, so their ratio would mean nothing."""

    exit_code = 1


def read_conditions() -> Conditions:
    """Threads, CPUs, niceness and environment of the process that calls this.

    ``num_threads`` is torch's own number where the process has loaded torch, else that of
    ``OMP_NUM_THREADS``.
    """
    torch = sys.modules.get("torch")
    named = os.environ.get("OMP_NUM_THREADS")
    return {
        "num_threads": torch.get_num_threads() if torch else int(named) if named else None,
        "cpus": _cpus(),
        "nice": os.nice(0),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _cpus() -> list[int]:
    """CPUs that any thread of this process may run on: OpenMP binds its threads to one each."""
    cpus: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        cpus |= os.sched_getaffinity(int(thread))
    return sorted(cpus)


def check_same(sides: Mapping[str, Sequence[Conditions]]) -> Conditions:
    """The conditions that every run of every side had.

    Args:
        sides: The conditions of each run, by side.

    Raises:
        DifferentConditionsError: Some differ; the message names which, and both values.
    """
    [(first_side, (first, *_)), *_] = sides.items()
    for side, runs in sides.items():
        for conditions in runs:
            if different := _differences(first, conditions):
                raise DifferentConditionsError(f"{first_side} and {side} did not run alike: {different}")
    return first


def _differences(one: Conditions, other: Conditions, prefix: str = "") -> str:
    """Names and values of what differs; empty where nothing does."""
    found: list[str] = []
    for name in sorted(one.keys() | other.keys()):
        a = one.get(name)
        b = other.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += filter(None, [_differences(a, b, f"{prefix}{name}.")])
        elif a != b:
            found.append(f"{prefix}{name} {a!r} against {b!r}")
    return "; ".join(found)
