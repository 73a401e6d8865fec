"""Judges on an engine of the job, with a model that always says the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from safe_r1.evaluation.results import read_verdicts
from safe_r1.runs import RunFolder
from tests.unit.benchmarks.own_files import write_records

pytestmark = [pytest.mark.very_long, pytest.mark.timeout(1500)]

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
