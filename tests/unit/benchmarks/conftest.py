"""The published files where they are present, and a small benchmark folder that a test may damage."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import safe_r1.benchmarks as package
from safe_r1.benchmarks import get_benchmark
from safe_r1.schema import Sample

SAMPLE_DATA = Path(package.__file__).parent / "data" / "chisafetybench_sample"
REAL_DATA = Path(__file__).parents[4] / "shared" / "data" / "chisafetybench"


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not (REAL_DATA / "v1" / "mcq.json").is_file():
        pytest.skip("CHiSafetyBench v1 is not beside the project (../shared/data/chisafetybench)")
    return REAL_DATA


@pytest.fixture(scope="session")
def real_samples(real_data: Path) -> Sequence[Sample]:
    return get_benchmark("chisafetybench").load(str(real_data))


@pytest.fixture(scope="session")
def own_samples() -> Sequence[Sample]:
    return get_benchmark("chisafetybench-sample").load()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the sample benchmark: ``v1/*.json`` and ``answer_key.jsonl``."""
    return Path(shutil.copytree(SAMPLE_DATA, tmp_path / "data"))


@pytest.fixture
def edit(folder: Path) -> Callable[[str, Callable[[Any], Any]], None]:
    """Change a file of ``folder`` in place: ``edit(name, function of the parsed content)``."""

    def change(name: str, function: Callable[[Any], Any]) -> None:
        path = folder / "v1" / name
        content = json.loads(path.read_text("utf-8"))
        function(content)
        path.write_text(json.dumps(content, ensure_ascii=False), "utf-8")

    return change
