"""The benchmarks; other packages ask for them by name and use the protocol alone."""

from safe_r1.benchmarks.base import Benchmark, KeyIdentity, Score, Workload
from safe_r1.benchmarks.own.benchmark import OwnBenchmark
from safe_r1.benchmarks.own.check import check_questions, write_settings
from safe_r1.benchmarks.registry import (
    ALL_PAPER,
    absolute_name,
    evaluate_schema,
    expand,
    find_benchmark,
    get_benchmark,
    get_benchmarks,
    names,
    own_questions,
    require_files,
    require_given_answers,
)

__all__ = [
    "ALL_PAPER",
    "Benchmark",
    "KeyIdentity",
    "OwnBenchmark",
    "Score",
    "Workload",
    "absolute_name",
    "check_questions",
    "evaluate_schema",
    "expand",
    "find_benchmark",
    "get_benchmark",
    "get_benchmarks",
    "names",
    "own_questions",
    "require_files",
    "require_given_answers",
    "write_settings",
]
