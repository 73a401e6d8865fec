"""Risky and harmless questions: those in the repository, and CHiSafetyBench's where it is there."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from safe_r1.benchmarks import get_benchmark

SHARED = Path(__file__).parents[4] / "shared" / "data" / "chisafetybench"


@pytest.fixture(scope="session")
def questions() -> list[str]:
    """Last turns of CHiSafetyBench's risky questions (its sample's, where it is not there) and XSTest's."""
    is_there = (SHARED / "v1").is_dir()
    benchmark = get_benchmark("chisafetybench" if is_there else "chisafetybench-sample")
    samples = benchmark.load(str(SHARED) if is_there else None)
    risky = [sample.messages[-1]["content"] for sample in samples if sample.task == "refusal"]
    lines = files("safe_r1.benchmarks").joinpath("data/xstest_zh/prompts.jsonl").read_text(encoding="utf-8")
    harmless = [json.loads(line)["prompt"] for line in lines.splitlines()]
    assert risky
    assert len(harmless) == 450
    return list(dict.fromkeys(risky[::4] + harmless[::5]))
