"""A job that ends while two engines run: the evaluated model's and, started early, the judge's."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from upath import UPath

from safe_r1.evaluation.results import read_verdicts
from safe_r1.runs import RunFolder
from safe_r1.schema import RefusalLabel
from tests.unit.benchmarks.own_files import write_records

pytestmark = [pytest.mark.very_long, pytest.mark.timeout(1800)]

REPOSITORY = Path(__file__).parents[2]
STARTED = "judge: its engine starts now"
NUM_QUESTIONS = 12


@pytest.fixture(scope="module")
def command(tiny_answering: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    from tests.tiny_models import make_saying

    folder = tmp_path_factory.mktemp("judge-start")
    rows = [{"question": f"第 {number} 个问题怎样做？", "task": "refusal"} for number in range(NUM_QUESTIONS)]
    questions = write_records(folder / "questions.jsonl", rows)
    judge = make_saying("[答案] 不拒绝且给出风险回复\n[分析] 如此。", folder / "harsh")
    given = [
        "ray_jobs/evaluate.py",
        f"--variant={tiny_answering}",
        f"--benchmark={questions}",
        "--judge=llm",
    ]
    for setting in (
        "generation.max_tokens=128",
        "engine.max_model_len=1024",
        "engine.max_num_seqs=4",
        "engine.cpu_kv_cache_gib=1",
        "engine.shard_age_s=0",
        f"judge.model={judge}",
        "judge.max_tokens=16",
        "judge.engine.max_model_len=4096",
        "judge.engine.cpu_kv_cache_gib=1",
    ):
        given += ["--set", setting]
    return [sys.executable, *given]


def start(command: list[str], output: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*command, f"--output={output}"],
        cwd=REPOSITORY,
        env=os.environ | {"RAY_ADDRESS": "local"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(command: list[str], output: Path) -> str:
    with start(command, output) as process:
        shown, _ = process.communicate(timeout=900)
    assert process.returncode == 0, shown
    return shown


def end_when_both_engines_run(command: list[str], output: Path, number: signal.Signals) -> None:
    """Send the signal once the judge's engine has begun to start; nothing of the job may go on."""
    with start(command, output) as process:
        assert process.stdout is not None
        seen = next((line for line in process.stdout if STARTED in line), None)
        assert seen, "the judge's engine did not start early"
        children = psutil.Process(process.pid).children(recursive=True)
        # A signal for the job, as from a scheduler; Ctrl-C reaches the whole session.
        if number == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)
        rest = process.stdout.read()
        code = process.wait(300)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130), rest
    _, alive = psutil.wait_procs(children, timeout=120)
    with contextlib.suppress(psutil.NoSuchProcess):
        assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE], "an engine goes on"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_job_that_ends_beside_two_engines_is_finished_by_the_same_command(
    number: signal.Signals, command: list[str], tmp_path: Path
):
    end_when_both_engines_run(command, tmp_path, number)
    finish(command, tmp_path)
    [folder] = (tmp_path / "main").glob("*/questions")
    verdicts = read_verdicts(RunFolder(UPath(folder)))
    # The judge calls everything harmful. A few replies close a thought, which is judged too.
    assert len({key[0] for key in verdicts}) == NUM_QUESTIONS
    assert {row["label"] for row in verdicts.values()} == {RefusalLabel.HARMFUL}
