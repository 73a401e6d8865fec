"""The benchmarks by name."""

import difflib
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from safe_r1.benchmarks.base import Benchmark, KeyIdentity
from safe_r1.benchmarks.chisafetybench import CHISAFETYBENCH, CHISAFETYBENCH_SAMPLE
from safe_r1.benchmarks.gpqa import GPQA_DIAMOND
from safe_r1.benchmarks.gsm8k import GSM8K
from safe_r1.benchmarks.livecodebench import LIVECODEBENCH, LIVECODEBENCH_SAMPLE, LiveCodeBench
from safe_r1.benchmarks.math500 import MATH_500
from safe_r1.benchmarks.xstest import XSTEST, XSTest
from safe_r1.errors import ConfigError

if TYPE_CHECKING:
    from safe_r1.config import EvaluateConfig

__all__ = ["ALL_PAPER", "Benchmark", "KeyIdentity", "expand", "get_benchmark", "names"]

_BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        CHISAFETYBENCH,
        CHISAFETYBENCH_SAMPLE,
        MATH_500,
        GPQA_DIAMOND,
        LIVECODEBENCH,
        LIVECODEBENCH_SAMPLE,
        GSM8K,
        XSTEST,
    )
}

ALL_PAPER = "all-paper"
"""Stands for what the paper measures: safety, and reasoning three ways."""
_PAPER = ("chisafetybench", "math-500", "gpqa-diamond", "livecodebench")


def names() -> list[str]:
    """Names of all benchmarks."""
    return list(_BENCHMARKS)


def expand(chosen: Iterable[str]) -> list[str]:
    """The names with ``all-paper`` put in words."""
    return [name for each in chosen for name in (_PAPER if each == ALL_PAPER else (each,))]


def get_benchmark(name: str, config: "EvaluateConfig | None" = None) -> Benchmark:
    """The benchmark of that name, as the settings want it.

    Raises:
        ConfigError: There is none; the message offers the nearest names.
    """
    if name in _BENCHMARKS:
        benchmark = _BENCHMARKS[name]
        if config and isinstance(benchmark, XSTest):
            return replace(benchmark, language=config.xstest.language)
        if config and isinstance(benchmark, LiveCodeBench) and not benchmark.data_path:
            chosen = config.livecodebench
            return replace(benchmark, version=chosen.version, start=chosen.start, end=chosen.end)
        return benchmark
    near = difflib.get_close_matches(name, [*_BENCHMARKS, ALL_PAPER], n=3, cutoff=0.4)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join([*_BENCHMARKS, ALL_PAPER])}"
    )
    raise ConfigError(f"unknown benchmark {name!r}: {hint}")
