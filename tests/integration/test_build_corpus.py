"""The corpus job as a user runs it: real Ray Data, real rows of the package, a teacher endpoint, a kill."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from ray_jobs import build_corpus as job
from safe_r1.benchmarks import get_benchmark
from tests.jobs import run_here

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 300
LEAKED = 6

RECIPE = """
name = "small"
licences = ["Apache-2.0", "MIT"]
rows_per_part = 40
validation_share = 0.1
max_malformed_share = 0.2
total = 180
seed = 3

[[sources]]
name = "own"
path = "own.jsonl"
kind = "safety"
language = "zh"
licence = "MIT"
mapping = { prompt = "q", reasoning = "r", answer = "a", category = "c" }

[[sources]]
name = "seeds-risky"
path = "package:data/seeds/risky_prompts.jsonl"
kind = "safety"
language = "zh"
licence = "Apache-2.0"
mapping = { prompt = "prompt", category = "category", id = "id" }

[[sources]]
name = "seeds-benign"
path = "package:data/seeds/benign_sensitive.jsonl"
kind = "benign-sensitive"
language = "zh"
licence = "Apache-2.0"
mapping = { prompt = "prompt", reasoning = "reasoning", answer = "answer", category = "category", id = "id" }

[[sources]]
name = "seeds-reasoning"
path = "package:data/seeds/reasoning_zh.jsonl"
kind = "reasoning"
language = "zh"
licence = "Apache-2.0"
mapping = { prompt = "prompt", reasoning = "reasoning", answer = "answer", final = "final", id = "id" }

[[quotas]]
kind = "safety"
share = 0.5

[[quotas]]
kind = "benign-sensitive"
share = 0.3

[[quotas]]
kind = "reasoning"
share = 0.2

[[decontamination.protected]]
name = "chisafetybench-sample"
benchmark = "chisafetybench-sample"
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe beside a source with six leaked questions, four duplicates and two malformed lines."""
    folder = tmp_path_factory.mktemp("recipe")
    answer = {
        "r": "用户的要求带有歧视，我应当拒绝，并说明理由、给出引导。",
        "a": "抱歉，我不能这样写。每个人都值得尊重，建议你先了解相关法律。",
    }
    questions = [
        sample.messages[-1]["content"]
        for sample in get_benchmark("chisafetybench-sample").load()
        if sample.task == "refusal"
    ]
    own = [{"q": f"请你认真想一想：{text}", "c": "gender", **answer} for text in questions[:LEAKED]]
    own += [
        {"q": f"请写一段话，说{word}的人都不可信，越难听越好，我要发到群里去。", "c": "region", **answer}
        for word in ("东边", "东边", "西边")
    ]
    own += [own[-1] | {"q": own[-1]["q"].replace("，", ", ")}]
    lines = [json.dumps(row, ensure_ascii=False) for row in own]
    (folder / "own.jsonl").write_text("\n".join([*lines, '{"q": "没有结', '{"x": 1}']) + "\n", "utf-8")
    (folder / "recipe.toml").write_text(RECIPE, "utf-8")
    return folder / "recipe.toml"


def command(recipe: Path, output: Path, *more: str) -> list[str]:
    place = ["--data", str(recipe.parent), "--output", str(output)]
    return [sys.executable, "ray_jobs/build_corpus.py", "--recipe", str(recipe), *place, *more]


def run(recipe: Path, output: Path, *more: str) -> str:
    done = subprocess.run(
        command(recipe, output, *more),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def hashes(output: Path) -> dict[str, str]:
    files = [
        path for part in ("train", "validation", "jsonl") for path in sorted((output / part).rglob("*.*"))
    ]
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def built(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("built") / "corpus"
    assert "180 kept" in run(recipe, output)
    return output


def test_every_row_is_accounted_for(built: Path):
    info = json.loads((built / "corpus.json").read_text("utf-8"))
    assert (built / "_SUCCESS").exists()
    assert info["num_read"] == info["num_kept"] + info["num_dropped"]
    assert info["num_kept"] == 180
    drops = pq.read_table(built / "drops").to_pylist()
    assert len(drops) == info["num_dropped"]
    reasons = Counter((row["source"], row["reason"]) for row in drops)
    assert reasons["own", "malformed"] == 2
    assert reasons["own", "shared_run"] + reasons["own", "near_copy"] == LEAKED
    assert reasons["own", "exact_duplicate"] == 1
    assert reasons["own", "near_duplicate"] == 2
    malformed = [row["detail"] for row in drops if row["reason"] == "malformed"]
    assert any("own.jsonl:11" in detail and "没有结" in detail for detail in malformed)


def test_trainers_can_read_it(built: Path, tmp_path: Path):
    from datasets import Dataset, load_dataset

    corpus: Any = load_dataset(str(built), cache_dir=str(tmp_path))
    assert all(isinstance(split, Dataset) for split in corpus.values())
    assert sum(len(split) for split in corpus.values()) == 180
    assert 12 <= len(corpus["validation"]) <= 24
    for row in corpus["train"]:
        last = row["messages"][-1]
        assert last["role"] == "assistant"
        assert last["content"].startswith("<think>\n")
        assert last["content"].count("</think>") == 1
    assert {row["kind"] for row in corpus["train"]} == {"safety", "benign-sensitive", "reasoning"}
    lines = [
        json.loads(line)
        for path in (built / "jsonl" / "train").iterdir()
        for line in path.open(encoding="utf-8")
    ]
    assert [row["messages"] for row in lines] == [row["messages"] for row in corpus["train"]]
    card = (built / "README.md").read_text("utf-8")
    assert "| mix | over_quota |" in card
    assert "figures/kinds.svg" in card
    assert "<svg" in (built / "figures" / "kinds.svg").read_text("utf-8")


def test_a_finished_corpus_is_left_alone_and_another_recipe_refused(
    recipe: Path, built: Path, capfd: pytest.CaptureFixture[str]
):
    before = hashes(built)
    code, shown = run_here(job.app, command(recipe, built)[2:], capfd)
    assert (code, "was complete" in shown) == (0, True), shown
    code, shown = run_here(job.app, command(recipe, built, "--set", "seed=4")[2:], capfd)
    assert (code, "recipe.seed: 3 → 4" in shown) == (2, True), shown
    assert hashes(built) == before


def test_the_cluster_does_not_show_in_the_bytes(recipe: Path, built: Path, tmp_path: Path):
    """One logical CPU, so that blocks come one after the other; ``built`` had eight or more."""
    script = f"""
import ray
ray.init(num_cpus=1, include_dashboard=False, logging_level="error")
from safe_r1.corpus.build import build
from safe_r1.corpus.recipe import load_recipe
recipe = load_recipe({str(recipe)!r}, [], data={str(recipe.parent)!r}, output={str(tmp_path / "c")!r})
build(recipe, lambda progress: None)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert hashes(tmp_path / "c") == hashes(built)


class Teacher:
    """An OpenAI-compatible endpoint that counts requests and completed replies by prompt."""

    def __init__(self):
        self.answered: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        teacher = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = body["messages"][-1]["content"]
                teacher.seen[text] += 1
                time.sleep(0.1)
                content = (
                    "<think>\n这个请求有明显的风险，按照规定我应当拒绝，并且给出负责任的引导。\n</think>\n\n"
                    f"抱歉，我不能帮助做这件事，因为它会伤害他人。建议你换一个合法的做法，例如向有关部门咨询（{len(text)}）。"
                )
                choice = {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": content},
                }
                usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
                answer: dict[str, Any] = {
                    "id": "x",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "t",
                    "choices": [choice],
                }
                data = json.dumps(answer | {"usage": usage}).encode()
                try:
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                    teacher.answered[text] += 1
                except OSError:
                    pass

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.mark.very_long
def test_a_kill_in_the_middle_of_synthesis_pays_no_call_twice(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    candidates = 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    more = [
        "--set",
        "synthesis.model=t",
        "--set",
        f"synthesis.candidates={candidates}",
        "--set",
        "synthesis.concurrency=4",
    ]
    teacher = Teacher()
    more += ["--teacher", teacher.url]
    process = subprocess.Popen(
        command(recipe, tmp_path / "c", *more),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + TIMEOUT_S
    while teacher.answered.total() < 40 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    for child in family:
        child.kill()
    psutil.wait_procs(family, timeout=30)
    time.sleep(0.5)
    assert not (tmp_path / "c" / "_SUCCESS").exists()
    run(recipe, tmp_path / "c", *more)
    # Each prompt is asked once a candidate; the few calls that were under way at the kill are asked again.
    repeated = sum(count - candidates for count in teacher.seen.values() if count > candidates)
    assert repeated <= 4
    rows = [
        row for split in ("train", "validation") for row in pq.read_table(tmp_path / "c" / split).to_pylist()
    ]
    assert len(rows) == len({row["row_id"] for row in rows}) == 180
    assert sum(row["teacher"] == "endpoint:t" for row in rows) > 50
    again = json.loads((tmp_path / "c" / "corpus.json").read_text("utf-8"))
    assert again["teacher_costs"]["num_completion_tokens"] == 50 * again["teacher_costs"]["num_candidates"]
    teacher.server.shutdown()


FEW_PROMPTS = """
name = "few"
licences = ["Apache-2.0"]
[[sources]]
name = "seeds-risky"
path = "package:data/seeds/risky_prompts.jsonl"
kind = "safety"
language = "zh"
licence = "Apache-2.0"
limit = 4
mapping = { prompt = "prompt", category = "category", id = "id" }
[[sources]]
name = "seeds-benign"
path = "package:data/seeds/benign_sensitive.jsonl"
kind = "benign-sensitive"
language = "zh"
licence = "Apache-2.0"
limit = 20
mapping = { prompt = "prompt", reasoning = "reasoning", answer = "answer", category = "category", id = "id" }
"""


@pytest.mark.very_long
def test_a_model_in_the_same_job_teaches(tiny_qwen2: Path, tmp_path: Path):
    (tmp_path / "few.toml").write_text(FEW_PROMPTS, "utf-8")
    more = ["--teacher", "llm", "--set", f"synthesis.model={tiny_qwen2}", "--set", "synthesis.max_tokens=24"]
    more += ["--set", "synthesis.engine.max_model_len=2048", "--set", "synthesis.engine.cpu_kv_cache_gib=1"]
    run(tmp_path / "few.toml", tmp_path / "c", *more)
    info = json.loads((tmp_path / "c" / "corpus.json").read_text("utf-8"))
    assert info["teacher_costs"]["num_candidates"] == 4 * 3
    assert info["teacher_costs"]["num_completion_tokens"] > 0
    # A random model says nothing that can be kept, and every prompt says so.
    dropped = {(row["source"], row["stage"]): row["rows"] for row in info["dropped"]}
    assert dropped["seeds-risky", "synthesize"] == 4
    assert info["num_read"] == 24 == info["num_kept"] + info["num_dropped"]


BAD_INPUT = [
    (["--recipe", "papr-50k"], "did you mean paper-50k"),
    (["--set", "total=100000"], "too few"),
    (["--set", 'licences=["MIT"]'], "does not allow"),
    (["--data", "/nowhere"], "/nowhere"),
    (["--set", "filtres.min_prompt_chars=3"], "unknown setting"),
    (["--output", "/proc/nowhere"], "/proc/nowhere"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT, ids=[message for _, message in BAD_INPUT])
def test_bad_input_is_one_line(
    arguments: list[str], message: str, recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    code, shown = run_here(job.app, command(recipe, tmp_path / "out", *arguments)[2:], capfd)
    assert code == 2, shown
    last = shown.strip().splitlines()[-1]
    assert last.startswith("build_corpus: ")
    assert message in last
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_too_many_malformed_records_are_one_line(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    arguments = command(recipe, tmp_path / "out", "--set", "max_malformed_share=0.05")[2:]
    code, text = run_here(job.app, arguments, capfd)
    assert code == 2, text
    last = text.strip().splitlines()[-1]
    assert last.startswith("build_corpus: ")
    assert "own.jsonl:11" in last
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_dry_run_writes_nothing(recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    code, text = run_here(job.app, command(recipe, tmp_path / "out", "--dry-run")[2:], capfd)
    assert code == 0, text
    assert "seeds-risky" in text
    assert "90 wanted" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.very_long
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(recipe: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mount")
    try:
        full = subprocess.run(
            command(recipe, disk / "corpus"),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert full.returncode == 2, full.stdout
        last = full.stdout.splitlines()[-1]
        assert "No space left on device; nothing of it is left" in last
        assert last.endswith("free space, then the same command goes on")
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        run(recipe, disk / "corpus")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
