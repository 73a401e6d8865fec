"""What takes an engine start and serves several tests: one evaluation of all kinds of benchmarks."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.mixed_run import MixedRun, own_rows
from tests.unit.benchmarks.own_files import write_records

REPOSITORY = Path(__file__).parents[2]

# A shell starts background jobs with SIGINT ignored, which the jobs that tests start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def mixed(tiny_answering: Path, tmp_path_factory: pytest.TempPathFactory) -> MixedRun:
    """All tasks: results and programs that are checked, options that are swapped, answers that are judged."""
    folder = tmp_path_factory.mktemp("mixed")
    questions = write_records(folder / "q.xlsx", own_rows())
    (folder / "data" / "math500").mkdir(parents=True)
    rows = [
        {
            "problem": f"What is {n} + 1?",
            "answer": str(n + 1),
            "subject": "Algebra",
            "level": 1,
            "unique_id": f"test/{n}.json",
        }
        for n in range(3)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data" / "math500" / "test.jsonl").write_text(text, "utf-8")
    benchmarks = ("math-500", "livecodebench-sample", str(questions))
    arguments = [f"--benchmark={name}" for name in benchmarks]
    arguments += [f"--data={folder / 'data'}", "--swap-options", "--repeats=2"]
    for setting in ("engine.max_model_len=1024", "engine.cpu_kv_cache_gib=0.5", "generation.max_tokens=32"):
        arguments += ["--set", setting]
    output = folder / "runs"
    done = subprocess.run(
        [
            sys.executable,
            "ray_jobs/evaluate.py",
            f"--variant={tiny_answering}",
            f"--output={output}",
            *arguments,
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return MixedRun(output / "main" / tiny_answering.name, questions, 2, done.stdout)
