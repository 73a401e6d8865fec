"""Judges on an engine of the job, with a model that always says the same."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from safe_r1.evaluation.results import read_verdicts
from safe_r1.runs import RunFolder
from tests.unit.benchmarks.own_files import write_records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

REPOSITORY = Path(__file__).parents[2]
ANSWERS = ("抱歉，我不能帮助你。", "首先打开开关，然后等待十分钟。", "这是违法的，我无法提供帮助。")


def run(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of answers that a file has, judged by the lexicon."""
    folder = tmp_path_factory.mktemp("judged")
    rows = [
        {"question": f"第 {number} 个问题怎样做？", "task": "refusal", "response": ANSWERS[number % 3]}
        for number in range(9)
    ]
    questions = write_records(folder / "questions.jsonl", rows)
    run("ray_jobs/evaluate.py", "--variant=given", f"--benchmark={questions}", f"--output={folder / 'runs'}")
    return RunFolder.locate(str(folder / "runs"), "main", "given", "questions")


def test_an_engine_judges_a_finished_run_and_is_one_of_several(judged: RunFolder, tmp_path: Path):
    from tests.tiny_models import make_saying

    model = make_saying("[答案] 不拒绝且给出风险回复\n[分析] 如此。", tmp_path / "harsh")
    before = read_verdicts(judged)
    command = ["ray_jobs/rejudge.py", str(judged.path), "--judge=llm", "--judge-rule=strictest"]
    for setting in (
        f"model={model}",
        "max_tokens=16",
        "engine.max_model_len=4096",
        "engine.cpu_kv_cache_gib=1",
    ):
        command += ["--set", f"judge.{setting}"]
    shown = run(*command)
    assert "engine: loading the model" in shown
    folders = {path.name.partition("@")[0]: RunFolder(path) for path in (judged.path / "judges").iterdir()}
    assert sorted(folders) == ["harsh", "strictest-lexicon-harsh"]
    assert read_verdicts(judged) == before
    verdicts = read_verdicts(folders["harsh"])
    assert verdicts.keys() == before.keys()
    assert {row["label"] for row in verdicts.values()} == {"不拒绝且给出风险回复"}
    assert {row["variant"] for row in verdicts.values()} == {"given"}
    panel = read_verdicts(folders["strictest-lexicon-harsh"])
    assert {row["label"] for row in panel.values()} == {"不拒绝且给出风险回复"}
    agreement = json.loads((folders["strictest-lexicon-harsh"].path / "agreement.json").read_text("utf-8"))
    assert agreement["refusal"]["num_answers"] == 9
    assert "Cohen's kappa" in shown


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_models import make_saying

    return make_saying("[答案] 不拒绝且给出无害回复\n[分析] 如此。", tmp_path_factory.mktemp("harmless"))


def evaluation(model: Path, judge: Path, output: Path, *more: str) -> list[str]:
    """An evaluation whose last rows take some seconds, judged by a model."""
    command = [
        "ray_jobs/evaluate.py",
        f"--variant={model}",
        f"--output={output}",
        "--judge=llm",
        "--limit=24",
    ]
    command += ["--benchmark=chisafetybench-sample", *more]
    engine = ("engine.max_model_len=2048", "engine.max_num_seqs=12", "engine.cpu_kv_cache_gib=1")
    generation = ("generation.max_tokens_mcq=16", "generation.max_tokens_refusal=768")
    judging = (f"judge.model={judge}", "judge.max_tokens=16", "judge.engine.max_model_len=4096")
    for setting in (*engine, *generation, *judging, "judge.engine.cpu_kv_cache_gib=1"):
        command += ["--set", setting]
    return command


def verdicts_of(model: Path, output: Path) -> tuple[dict, str]:
    folder = RunFolder.locate(str(output), "main", model.name, "chisafetybench-sample")
    assert folder.is_complete
    return read_verdicts(folder), (folder.read_json("run.json") or {})["results_sha256"]


@pytest.fixture(scope="module")
def late(tiny_answering: Path, harmless: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose judge's engine starts after the evaluated one, and what it printed."""
    output = tmp_path_factory.mktemp("late")
    command = evaluation(tiny_answering, harmless, output, "--set", "judge_starts_early=false")
    return output, run(*command)


@pytest.mark.very_long
def test_the_judge_starts_beside_the_last_rows_or_after_them(
    late: tuple[Path, str], tiny_answering: Path, harmless: Path, tmp_path: Path
):
    early = run(*evaluation(tiny_answering, harmless, tmp_path))
    for shown, is_early in ((late[1], False), (early, True)):
        lines = shown.splitlines()
        _, start = (
            place for place, line in enumerate(lines) if line.startswith("engine: starting its process")
        )
        end = next(place for place, line in enumerate(lines) if line.startswith("completions: 24/24"))
        assert (start < end) == is_early
        assert ("judge: its engine starts now, beside the last " in shown) == is_early
    assert verdicts_of(tiny_answering, tmp_path) == verdicts_of(tiny_answering, late[0])


@pytest.mark.very_long
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_stopped_while_the_judge_starts_then_the_same_command(
    kind: signal.Signals, late: tuple[Path, str], tiny_answering: Path, harmless: Path, tmp_path: Path
):
    command = evaluation(tiny_answering, harmless, tmp_path)
    process = subprocess.Popen(
        [sys.executable, *command], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert any(line.startswith("judge: its engine starts now") for line in process.stdout)
    time.sleep(4)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(kind)
    shown = process.stdout.read()
    code = process.wait(60)
    if kind == signal.SIGKILL:
        for each in family:
            with contextlib.suppress(psutil.Error):
                each.kill()
    else:
        assert (code, "stopped; the same command resumes from here" in shown) == (130, True)
        assert not psutil.wait_procs(family, timeout=30)[1]
    run(*command)
    assert verdicts_of(tiny_answering, tmp_path) == verdicts_of(tiny_answering, late[0])
