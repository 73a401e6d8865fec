"""The benchmarks; other packages ask for them by name and use the protocol alone."""

from safe_r1.benchmarks.base import Benchmark, KeyIdentity, Score, Workload
from safe_r1.benchmarks.registry import (
    ALL_PAPER,
    evaluate_schema,
    expand,
    find_benchmark,
    get_benchmark,
    names,
)

__all__ = [
    "ALL_PAPER",
    "Benchmark",
    "KeyIdentity",
    "Score",
    "Workload",
    "evaluate_schema",
    "expand",
    "find_benchmark",
    "get_benchmark",
    "names",
]
