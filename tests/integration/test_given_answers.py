"""Answers that a file has are judged in workers, without a model; a job that is killed changes no verdict."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from safe_r1.evaluation.results import read_completions, read_verdicts
from safe_r1.runs import JsonObject, RunFolder
from safe_r1.schema import SAMPLE_SCHEMA
from tests.scale.given_answers import write_rows

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 600
# More than are judged in the driver, so that Ray's workers do it; several shards.
NUM_ROWS = 12_000


def command(questions: Path, output: Path) -> list[str]:
    arguments = ["--variant", "given:other", "--benchmark", str(questions), "--output", str(output)]
    return [sys.executable, "ray_jobs/evaluate.py", *arguments, "--set", "report.max_rows=500"]


def run(questions: Path, output: Path) -> str:
    done = subprocess.run(
        command(questions, output),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def folder_of(output: Path) -> RunFolder:
    return RunFolder.locate(str(output), "main", "other", "answers")


def info_of(output: Path) -> JsonObject:
    info = folder_of(output).read_json("run.json")
    assert info is not None
    return info


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given") / "answers.jsonl"
    write_rows(path, NUM_ROWS, seed=3)
    return path


@pytest.fixture(scope="module")
def whole(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    output = tmp_path_factory.mktemp("whole")
    run(questions, output)
    return output


def test_every_answer_is_judged_once(questions: Path, whole: Path):
    folder = folder_of(whole)
    with questions.open(encoding="utf-8") as lines:
        given = {row["编号"]: row["回答"] or "" for row in map(json.loads, lines)}
    completions = read_completions(folder)
    assert len(completions) == NUM_ROWS == len(given)
    verdicts = read_verdicts(folder)
    assert {key[:2] for key in verdicts} == set(completions)
    # Of harmless questions the answer alone is judged.
    risky = {
        row["sample_id"] for row in folder.read_rows("samples", SAMPLE_SCHEMA) if row["task"] == "refusal"
    }
    assert {key for key in verdicts if key[2] == "reasoning"} == {
        (*key, "reasoning") for key, row in completions.items() if row["reasoning"] and key[0] in risky
    }
    assert sorted(row["completion"] for row in completions.values()) == sorted(given.values())
    metrics = folder.read_json("metrics.json")
    assert metrics is not None
    assert sum(entry["num_rows"] for entry in metrics["counts"].values()) == NUM_ROWS
    files = [path for stage in ("samples", "completions", "verdicts") for path in folder.shards(stage)]
    # A shard of questions has 4,096 rows; of each there are two of answers, one for each task.
    assert len(files) == 3 + 6 + 6
    report = (Path(str(folder.path)) / "report.html").read_text("utf-8")
    assert "500 行是全部 12,000 行的抽样" in report
    assert len(report) < 2_000_000


@pytest.mark.very_long
def test_three_kills_change_no_verdict(questions: Path, whole: Path, tmp_path: Path):
    expected = info_of(whole)["results_sha256"]
    rng = random.Random(5)
    folder = folder_of(tmp_path)
    # In the middle of each stage: samples, completions, verdicts.
    for stage in ("samples", "completions", "verdicts"):
        process = subprocess.Popen(command(questions, tmp_path), cwd=REPOSITORY, start_new_session=True)
        deadline = time.monotonic() + TIMEOUT_S
        while not folder.shards(stage) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, f"it ended before it had written {stage}"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not folder.is_complete
    run(questions, tmp_path)
    assert info_of(tmp_path)["results_sha256"] == expected
    assert folder.read_json("metrics.json") == folder_of(whole).read_json("metrics.json")
