"""The evaluation of a model behind a URL as a user runs it, with a job that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safe_r1.evaluation.results import read_completions
from safe_r1.runs import RunFolder
from tests.chat_server import Answer, Server, completion

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {"SAFE_R1_API_KEY": "sk-very-secret", "RAY_ADDRESS": "local"}
REFUSAL = "抱歉，我不能协助这件事。建议了解相关法律法规，尊重每一个群体。"


@pytest.fixture
def server() -> Iterator[Server]:
    """A reasoning model at a provider that blocks some questions and knows no seeds."""
    running = Server()
    running.on_request = answer
    yield running
    running.http.shutdown()
    running.http.server_close()


def answer(sent: dict[str, Any], call: int) -> Answer:
    time.sleep(0.05)
    if "seed" in sent:
        return 400, {"error": {"message": "Unrecognized request argument supplied: seed"}}
    question = sent["messages"][-1]["content"]
    is_mcq = "只回答该选项的字母" in question
    if not is_mcq and len(question) % 3 == 0:
        return 400, {"error": {"message": "Content Exists Risk", "type": "invalid_request_error"}}
    body = completion("A" if is_mcq else REFUSAL)
    body["choices"][0]["message"]["reasoning_content"] = "先想一想。"
    body["usage"] = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    return 200, body


def command(server: Server, output: Path, *more: str) -> list[str]:
    variant = f"endpoint:{server.url.replace('://', '://user:pass-word@')}#judge-model"
    return [
        sys.executable,
        "ray_jobs/evaluate.py",
        *("--variant", variant, "--benchmark", "chisafetybench-sample", "--output", str(output)),
        *(
            "--set",
            "endpoint.concurrency=2",
            "--set",
            "endpoint.input_price=1",
            "--set",
            "endpoint.output_price=2",
        ),
        *more,
    ]


def run(server: Server, output: Path, *more: str, code: int = 0) -> str:
    environment = os.environ | {"SAFE_R1_API_KEY": "sk-very-secret", "RAY_ADDRESS": "local"}
    done = subprocess.run(
        command(server, output, *more),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def folder_of(server: Server, output: Path) -> RunFolder:
    variant = f"judge-model--127.0.0.1-{server.http.server_port}"
    return RunFolder.locate(str(output), "main", variant, "chisafetybench-sample")


@pytest.mark.very_long
def test_a_killed_run_asks_no_answered_row_again_and_reports_blocks(server: Server, tmp_path: Path):
    output = tmp_path / "runs"
    environment = os.environ | {"SAFE_R1_API_KEY": "sk-very-secret", "RAY_ADDRESS": "local"}
    job = subprocess.Popen(
        command(server, output),
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(server.requests) < 25 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    text = run(server, output)
    # A request that was under way when the job was killed is asked again, and nothing else.
    asked = Counter(json.dumps(sent["messages"]) for sent in server.requests if "seed" not in sent)
    assert sum(asked.values()) - len(asked) <= 2

    folder = folder_of(server, output)
    completions = list(read_completions(folder).values())
    blocked = [row for row in completions if row["blocked"]]
    assert blocked
    assert {row["blocked"] for row in blocked} == {"input"}
    assert {row["reasoning"] for row in completions if not row["blocked"]} == {"先想一想。"}
    metrics = folder.read_json("metrics.json") or {}
    counts = metrics["counts"]["refusal"]
    assert counts["num_blocked"] == len(blocked)
    assert counts["num_rows"] == counts["num_scored"] + counts["num_blocked"]
    assert "RR-1 with provider's blocks" in text
    info = folder.read_json("run.json") or {}
    assert "seed" in info["endpoint"]["adapted"]
    answered = len(completions) - len(blocked)
    assert info["endpoint"]["cost"] == pytest.approx(answered * (100 * 1 + 50 * 2) / 1e6)
    report = (folder.path / "report.html").read_text(encoding="utf-8")
    assert "结果无法复现" in report
    assert "平台拦截" in report
    everything = b"".join(path.read_bytes() for path in output.rglob("*") if path.is_file())
    assert b"sk-very-secret" not in everything
    assert b"pass-word" not in everything


def test_the_limit_of_cost_stops_the_run_and_a_higher_one_goes_on(server: Server, tmp_path: Path):
    limited = ("--limit", "40", "--set", "generation.max_tokens=100", "--max-cost")
    text = run(server, tmp_path, *limited, "0.004", code=3)
    assert "endpoint.max_cost=0.004 reached" in text
    spent = len([sent for sent in server.requests if "seed" not in sent])
    assert 0 < spent < 40
    assert not folder_of(server, tmp_path).is_complete
    run(server, tmp_path, *limited, "1")
    assert len([sent for sent in server.requests if "seed" not in sent]) == 40


def test_a_dead_judge_keeps_the_completions(server: Server, tmp_path: Path):
    more = ("--limit", "8", "--set", "judge.max_retries=0", "--set", "judge.model=m")
    text = run(server, tmp_path, *more, "--judge", "http://127.0.0.1:9/v1", code=2)
    folder = folder_of(server, tmp_path)
    assert "127.0.0.1:9" in text
    assert len(read_completions(folder)) == 8
    assert not folder.is_complete
    # The judge may change as long as it has judged nothing, and the same completions are judged.
    num_requests = len(server.requests)
    run(server, tmp_path, "--limit", "8")
    assert folder.is_complete
    assert len(server.requests) == num_requests


def test_the_dry_run_estimates_tokens_and_cost_without_asking(server: Server, tmp_path: Path):
    text = run(server, tmp_path, "--dry-run")
    assert "at the prices set" in text
    assert "pass-word" not in text
    assert not server.requests
    assert not list(tmp_path.iterdir())


CAMPAIGN = """
name = "endpoints"
budget_endpoint_cost = 1.0
[groups.cpu]
max_nodes = 1
[stages.evaluate]
job = "evaluate"
group = "cpu"
variants = ["{variant}"]
benchmarks = ["chisafetybench-sample"]
flags = {{ limit = 8, max-cost = 0.5 }}
set = ["endpoint.input_price=1", "endpoint.output_price=2"]
"""


@pytest.mark.very_long
def test_a_campaign_plans_and_asks_an_endpoint(server: Server, tmp_path: Path):
    unknown: set[str] = set()

    def answer_or_refuse(sent: dict[str, Any], call: int) -> Answer:
        question = sent["messages"][-1]["content"]
        status, body = answer(sent, call)
        if status == 200 and "只回答" not in question and not unknown:
            unknown.add(question)
        return (400, {"error": {"message": "E-7788 refused"}}) if question in unknown else (status, body)

    server.on_request = answer_or_refuse
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(CAMPAIGN.format(variant=f"endpoint:{server.url}#judge-model"), encoding="utf-8")
    output = tmp_path / "campaign"
    arguments = ("ray_jobs/campaign.py", "--recipe", str(recipe), "--output", str(output))
    planned = execute(*arguments, "--dry-run")
    assert "1,200 prompt and 5,600 completion tokens of endpoints, 0.0124 at the prices set" in planned
    assert "GPU-hours  0" in planned
    assert not server.requests
    text = execute(*arguments)
    folder = folder_of(server, output / "runs")
    assert folder.is_complete
    endpoint = (folder.read_json("run.json") or {})["endpoint"]
    # The harmless request, and the refused one again; a question of the same form is not asked with a third.
    overhead = {"num_probes": 2, "num_unanswered": 0, "prompt_tokens": 100, "completion_tokens": 50}
    assert endpoint["overhead"] == overhead
    tokens = (endpoint["prompt_tokens"], endpoint["completion_tokens"])
    assert endpoint["cost"] == pytest.approx((tokens[0] + 100 + 2 * (tokens[1] + 50)) / 1e6)
    assert "探测请求" in (folder.path / "report.html").read_text(encoding="utf-8")
    assert f"{tokens[0]:,} prompt and {tokens[1]:,} completion tokens of endpoints" in text


def execute(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | ENVIRONMENT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
