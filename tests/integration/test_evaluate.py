"""The evaluation job as a user runs it: real Ray Data and vLLM, tiny models, processes that are killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from upath import UPath

from ray_jobs import evaluate
from safe_r1.evaluation.results import read_completions, read_verdicts
from safe_r1.runs import RunFolder
from tests.integration.mixed_run import MixedRun
from tests.jobs import run_here

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 600
# Small enough for a test, large enough that a kill lands in the middle: 24 questions twice, in batches of 4.
SETTINGS = [
    "--benchmark",
    "chisafetybench-sample",
    "--limit",
    "24",
    "--repeats",
    "2",
    "--set",
    "engine.max_model_len=1024",
    "--set",
    "engine.max_num_seqs=8",
    "--set",
    "engine.shard_age_s=0",
    "--set",
    "engine.cpu_kv_cache_gib=1",
    "--set",
    "generation.max_tokens=48",
]


def command(model: Path | str, output: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "ray_jobs/evaluate.py",
        "--variant",
        str(model),
        "--output",
        str(output),
        *SETTINGS,
        *more,
    ]


def run(model: Path | str, output: Path, *more: str, code: int = 0) -> str:
    done = subprocess.run(
        command(model, output, *more),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def folder_of(model: Path | str, output: Path) -> RunFolder:
    return RunFolder.locate(str(output), "main", Path(model).name, "chisafetybench-sample")


def output_of(folder: RunFolder) -> Path:
    return Path(str(folder.path.parents[2]))


def rows_of(folder: RunFolder) -> tuple[dict, dict]:
    return read_completions(folder), read_verdicts(folder)


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def find(processes: list[psutil.Process], word: str) -> psutil.Process | None:
    for process in processes:
        try:
            if word in process.name() or word in " ".join(process.cmdline()):
                return process
        except psutil.Error:
            continue
    return None


def start_and_wait_for_rows(model: Path, output: Path, shards: int) -> subprocess.Popen:
    process = subprocess.Popen(
        command(model, output),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    completions = Path(str(folder_of(model, output).path)) / "completions"
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if completions.is_dir() and len(list(completions.glob("part-*.parquet"))) >= shards:
            return process
        time.sleep(0.05)
    process.kill()
    pytest.fail(
        "the job wrote no rows in time"
        if process.returncode is None
        else "the job ended before it could be killed"
    )


def kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue
    psutil.wait_procs(processes, timeout=30)


@pytest.fixture(scope="module")
def undisturbed(tiny_answering: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    output = tmp_path_factory.mktemp("undisturbed")
    text = run(tiny_answering, output)
    assert "report.html" in text
    return folder_of(tiny_answering, output)


def test_a_run_is_whole(undisturbed: RunFolder):
    completions, verdicts = rows_of(undisturbed)
    assert len(completions) == 48
    assert all(row["error"] is None and row["prompt_tokens"] > 0 for row in completions.values())
    assert {key[:2] for key in verdicts} == set(completions)
    metrics = undisturbed.read_json("metrics.json")
    assert metrics is not None
    assert sum(counts["num_rows"] for counts in metrics["counts"].values()) == 48
    html = (undisturbed.path / "report.html").read_text(encoding="utf-8")
    assert "chisafetybench-sample" in html
    assert undisturbed.is_complete


def test_a_finished_run_starts_no_engine(undisturbed: RunFolder, tiny_answering: Path):
    started = time.monotonic()
    text = run(tiny_answering, output_of(undisturbed))
    assert "was complete" in text
    assert time.monotonic() - started < 60


def test_another_setting_under_the_same_name_is_refused(undisturbed: RunFolder, tiny_answering: Path):
    text = run(tiny_answering, output_of(undisturbed), "--set", "generation.temperature=0.9", code=2)
    assert "generation.temperature: 0.6 → 0.9" in text
    assert undisturbed.is_complete


@pytest.mark.very_long
def test_killed_driver_then_the_same_command(undisturbed: RunFolder, tiny_answering: Path, tmp_path: Path):
    process = start_and_wait_for_rows(tiny_answering, tmp_path, shards=2)
    family = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    kill_all(family)
    folder = folder_of(tiny_answering, tmp_path)
    kept = set(read_completions(folder))
    assert 0 < len(kept) < 48
    assert not folder.is_complete
    run(tiny_answering, tmp_path)
    assert rows_of(folder) == rows_of(undisturbed)
    assert results(folder) == results(undisturbed)


@pytest.mark.very_long
@pytest.mark.parametrize("victim", ["EngineCore", "MapWorker"])
def test_killed_engine_or_worker_is_survived(
    victim: str, undisturbed: RunFolder, tiny_answering: Path, tmp_path: Path
):
    process = start_and_wait_for_rows(tiny_answering, tmp_path, shards=1)
    target = find(descendants(process.pid), victim)
    assert target is not None, [p.name() for p in descendants(process.pid)]
    target.send_signal(signal.SIGKILL)
    assert process.wait(TIMEOUT_S) == 0
    folder = folder_of(tiny_answering, tmp_path)
    assert rows_of(folder) == rows_of(undisturbed)
    assert results(folder) == results(undisturbed)


def results(folder: RunFolder) -> str:
    info = folder.read_json("run.json")
    assert info is not None
    return info["results_sha256"]


@pytest.mark.very_long
def test_a_guard_in_the_same_job_judges(tiny_answering: Path, tiny_llama: Path, tmp_path: Path):
    more = ["--judge", "qwen3guard", "--limit", "8", "--repeats", "1", "--set", f"judge.model={tiny_llama}"]
    more += ["--set", "judge.max_tokens=16", "--set", "judge.engine.max_model_len=4096"]
    more += ["--set", "judge.engine.cpu_kv_cache_gib=1"]
    # A random model gives no verdict: every row says why, none is lost, and nothing is published.
    text = run(tiny_answering, tmp_path, *more, code=3)
    assert "answers of task refusal have a label" in text
    # There is memory for both engines: the judge's starts while the evaluated one has rows to complete.
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("engine: starting its process")]
    assert len(starts) == 2
    [told] = [number for number, line in enumerate(lines) if line.startswith("judge: its engine starts now")]
    [end] = [number for number, line in enumerate(lines) if line.startswith("completions: 8/8 rows")]
    assert told < starts[1] < end
    folder = folder_of(tiny_answering, tmp_path)
    assert not folder.is_complete
    _, verdicts = rows_of(folder)
    judged = [row for row in verdicts.values() if row["judge"].startswith(f"qwen3guard:{tiny_llama.name}@")]
    assert judged
    assert all((row["label"] is None) == (row["unscored_reason"] is not None) for row in judged)
    # As the message says: without its verdicts, the run takes another judge for the same completions.
    completions, _ = rows_of(folder)
    shutil.rmtree(Path(str(folder.path)) / "verdicts")
    run(tiny_answering, tmp_path, "--limit", "8", "--repeats", "1", "--export", "csv,xlsx")
    assert folder.is_complete
    assert rows_of(folder)[0] == completions
    assert {path.name for path in folder.path.iterdir()} >= {"results.csv", "results.xlsx"}


@pytest.mark.very_long
def test_a_model_that_never_ends_its_reasoning_has_no_result(tiny_qwen2: Path, tmp_path: Path):
    more = ("--limit", "8", "--repeats", "1", "--set", "generation.max_tokens=2")
    text = run(tiny_qwen2, tmp_path, *more, code=3)
    assert re.search(r"0 of (\d+) answers of task mcq have a label \(\1 truncated\)", text)
    assert "larger generation.max_tokens (now 2;" in text
    folder = folder_of(tiny_qwen2, tmp_path)
    assert not folder.is_complete
    assert len(rows_of(folder)[0]) == 8
    # Under the same name another limit would mix rows of both: the message asks for another name.
    larger = ("--limit", "8", "--repeats", "1", "--set", "generation.max_tokens=3")
    assert "generation.max_tokens: [2] → [3]" in run(tiny_qwen2, tmp_path, *larger, code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "r1-distill-qwen-7bb"], "did you mean r1-distill-qwen-7b"),
        (["--benchmark", "chisafety"], "chisafetybench"),
        (["--limit", "0"], "limit"),
        (["--set", "generation.temprature=1"], "did you mean generation.temperature"),
        (["--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--answer-key", "/nowhere/key.jsonl"], "/nowhere/key.jsonl"),
        (["--output", "/proc/nowhere"], "/proc/nowhere"),
        (["--variant", "r1-distill-llama-70b"], None),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: list[str],
    message: str | None,
    tiny_answering: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
):
    output = tmp_path / "out"
    base = ["--variant", str(tiny_answering), "--output", str(output), "--benchmark", "chisafetybench-sample"]
    code, shown = run_here(evaluate.app, [*base, *arguments], capfd)
    assert code == 2, shown
    lines = [line for line in shown.splitlines() if not line.startswith(f"evaluate: {tiny_answering}")]
    assert lines[-1].startswith("evaluate: ")
    assert message is None or message in lines[-1]
    assert "Traceback" not in shown
    assert not output.exists()


def test_dry_run_shows_prompts_and_writes_nothing(
    tiny_qwen2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    arguments = command(tiny_qwen2, tmp_path / "out", "--dry-run")[2:]
    code, text = run_here(evaluate.app, arguments, capfd)
    assert code == 0, text
    assert text.count("<｜Assistant｜><think>\n") == 3
    assert json.loads(text[: text.index("\n---")])["repeats"] == 2
    assert not (tmp_path / "out").exists()


def test_the_cache_has_the_size_of_the_setting(mixed: MixedRun, tiny_answering: Path):
    """Not of vLLM's older variable, which ``tests/conftest.py`` sets to whole GiB."""
    assert f"VLLM_CPU_KVCACHE_SPACE={os.environ['VLLM_CPU_KVCACHE_SPACE']} in the environment is ignored" in (
        mixed.shown
    )
    config = json.loads((tiny_answering / "config.json").read_text())
    head_size = config["hidden_size"] // config["num_attention_heads"]
    bytes_per_token = config["num_hidden_layers"] * config["num_key_value_heads"] * head_size * 2 * 4
    [tokens] = re.findall(r"key-value cache of ([\d,]+) tokens", mixed.shown)
    assert int(tokens.replace(",", "")) == pytest.approx(2**29 / bytes_per_token, rel=0.01)


def test_programs_and_results_are_checked_in_the_same_job(mixed: MixedRun):
    """Two benchmarks of other tasks with several completions of each question."""
    for benchmark, num_questions in (("math-500", 3), ("livecodebench-sample", 8)):
        folder = RunFolder(UPath(mixed.folder / benchmark))
        metrics = folder.read_json("metrics.json") or {}
        (counts,) = metrics["counts"].values()
        assert counts["num_rows"] == counts["num_scored"] + counts["num_unscored"] + counts["num_failed"]
        assert counts["num_rows"] == num_questions * mixed.repeats
        assert set(metrics["pass_at_k"]) == {"1", "2"}
        assert metrics["tokens"]["completion"]["num_rows"] == counts["num_rows"]
        assert all(row["judge"] in ("check", "none") for row in read_verdicts(folder).values())
        assert "pass@1" in (folder.path / "report.md").read_text("utf-8")
