"""A user's own questions through the whole job: real Ray Data and vLLM, a tiny model, a spreadsheet."""

import json
from pathlib import Path

import pytest

from ray_jobs import evaluate as job
from safe_r1.evaluation.publish import rewrite_report
from tests.integration.mixed_run import MixedRun, own_rows
from tests.jobs import run_here
from tests.unit.benchmarks.own_files import write_records

pytestmark = pytest.mark.slow

SETTINGS = [
    *("--set", "engine.max_model_len=1024", "--set", "engine.max_num_seqs=8"),
    *("--set", "engine.cpu_kv_cache_gib=1", "--set", "generation.max_tokens=16"),
]


def arguments(model: Path, questions: Path, output: Path, *more: str) -> list[str]:
    chosen = ["--variant", str(model), "--benchmark", str(questions), "--output", str(output)]
    return [*chosen, *SETTINGS, *more]


def test_a_dry_run_shows_what_was_recognised(
    tiny_qwen2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    questions = write_records(tmp_path / "我的题库.xlsx", own_rows())
    more = ("--dry-run", "--swap-options", "--limit", "8")
    code, text = run_here(job.app, arguments(tiny_qwen2, questions, tmp_path / "out", *more), capfd)
    assert code == 0, text
    assert "我的题库: 10 questions × 1 repeats" in text
    assert "task: of each row, column '期望'" in text
    assert "question: '题目': a usual name" in text
    assert not (tmp_path / "out").exists()


def test_rows_that_do_not_fit_are_one_line(
    tiny_qwen2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    questions = write_records(tmp_path / "q.xlsx", [*own_rows(), {**own_rows()[0], "编号": "x", "题目": ""}])
    dry = arguments(tiny_qwen2, questions, tmp_path / "out", "--dry-run")
    code, text = run_here(job.app, dry, capfd)
    assert code == 2
    [line] = text.splitlines()
    assert line.startswith("evaluate: 1 of 13 rows do not fit, first q.xlsx, row 14: no question")
    code, text = run_here(job.app, [*dry, "--set", "benchmark.max_malformed_share=0.1"], capfd)
    assert code == 0
    assert "q: 12 questions" in text


def test_from_the_spreadsheet_to_the_report(mixed: MixedRun):
    assert "pass@1" in mixed.shown
    folder = mixed.folder / mixed.questions.stem
    metrics = json.loads((folder / "metrics.json").read_text())
    counts = {group: entry["num_rows"] for group, entry in metrics["counts"].items()}
    assert counts == {"mcq": 6, "mcq_swapped": 6, "refusal": 6, "over_refusal": 6, "math": 6}
    info = json.loads((folder / "run.json").read_text())
    assert info["questions"]["mapping"]["category"] == "'风险类别': a usual name"
    # What is shown of a finished run needs the file no more.
    mixed.questions.unlink()
    rewrite_report(str(folder))
    report = (folder / "report.md").read_text("utf-8")
    assert f"**Questions**: q.xlsx (sha256 `{info['questions']['sha256'][:16]}`)" in report
    assert "谣言" in (folder / "report.html").read_text("utf-8")
