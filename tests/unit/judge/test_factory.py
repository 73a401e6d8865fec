"""The registry of judges: every kind, names and identities, judges of other packages, and what goes wrong."""

import asyncio
import dataclasses
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from safe_r1 import cli
from safe_r1.config import JudgeConfig
from safe_r1.errors import ConfigError, JudgeError
from safe_r1.judge.base import JudgeItem, judge_blocking, judge_label
from safe_r1.judge.factory import JudgePlan, check_kind, make_judge, plan_judge, shared_judge
from safe_r1.judge.model import ModelReply, model_identity
from safe_r1.judge.policy import BUILT_IN, Policy
from safe_r1.models.registry import VARIANTS, Variant
from safe_r1.schema import ComplianceLabel, Message, RefusalLabel, Unscored
from tests.chat_server import Server

pytestmark = pytest.mark.timeout(60)

ITEM = JudgeItem([Message(role="user", content="讽刺一下某地人")], "恕难从命")
Install = Callable[..., None]

ECHO = """
import hashlib

from safe_r1.judge.base import Judgement
from safe_r1.schema import RefusalLabel


class Echo:
    name = "echo"

    def __init__(self, model):
        self.identity = hashlib.sha256((model or "").encode()).hexdigest()

    async def judge(self, items):
        return [Judgement(RefusalLabel(item.text)) for item in items]


def make(config):
    return Echo(config.model)
"""
BROKEN = """
from safe_r1.judge.base import Judgement
from safe_r1.schema import RefusalLabel


class Broken:
    name = "broken"
    identity = "0" * 64

    async def judge(self, items):
        {body}


def make(config):
    {make}
"""


def plan_at(url: str, **settings: object) -> JudgePlan:
    return plan_judge(JudgeConfig.model_validate({"kind": url, "model": "judge-model", **settings}))


def test_a_label_is_name_and_short_identity():
    assert judge_label("echo", "0123456789abcdef") == "echo@01234567"


def test_the_lexicon_is_planned_and_made():
    plan = plan_judge(JudgeConfig())
    assert (plan.name, plan.label, plan.model) == ("lexicon", "lexicon@67ac822b", None)
    assert "agreement" in plan.note
    judge = make_judge(plan)
    assert (judge.name, judge.identity) == (plan.name, plan.identity)
    assert judge_blocking(judge, [ITEM])[0].label is RefusalLabel.REFUSAL
    assert pickle.loads(pickle.dumps(plan)) == plan


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("Lexicon", "did you mean lexicon?"),
        ("lllm", "did you mean llm?"),
        ("oracle", "none is installed"),
        ("http", "unknown judge 'http'"),
    ],
)
def test_an_unknown_kind_is_refused_with_the_known_ones(kind: str, hint: str):
    for refuse in (check_kind, lambda kind: plan_judge(JudgeConfig(kind=kind))):
        with pytest.raises(ConfigError, match="expected lexicon, llm or a URL") as caught:
            refuse(kind)
        assert hint in str(caught.value)


def test_an_ill_formed_kind_is_unknown_too():
    with pytest.raises(ConfigError, match="unknown judge 'the oracle'"):
        check_kind("the oracle")


@pytest.mark.parametrize("kind", ["lexicon", "llm", "http://127.0.0.1:1/v1", "https://judge.example"])
def test_known_kinds_pass(kind: str):
    check_kind(kind)


@pytest.mark.parametrize("runs_in_workers", [True, False, None])
def test_a_packages_judge_says_whether_it_runs_in_workers(install: Install, runs_in_workers: bool | None):
    name = f"counted_{runs_in_workers}".lower()
    said = "" if runs_in_workers is None else f"\n    runs_in_workers = {runs_in_workers}"
    source = ECHO.replace('name = "echo"', f'name = "echo"{said}')
    install(name, name, source.replace("return Echo", "made.append(1)\n    return Echo") + "\n\nmade = []\n")
    plan = plan_judge(JudgeConfig(kind=name))
    assert plan.runs_in_workers is bool(runs_in_workers)
    # In a worker, for shard after shard.
    judges = [shared_judge(pickle.loads(pickle.dumps(plan))) for _ in range(3)]
    assert judges[0] is judges[1] is judges[2]
    assert judge_blocking(judges[0], [JudgeItem([], "直接拒绝")])[0].label is RefusalLabel.REFUSAL
    assert len(sys.modules[name].made) == 2  # the plan's, and the shared one
    assert shared_judge(plan_judge(JudgeConfig(kind=name, model="other"))) is not judges[0]


def test_an_endpoint_is_called_by_the_model_that_it_serves(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAFE_R1_CACHE", str(tmp_path))
    plan = plan_judge(JudgeConfig(kind=server.url))
    assert (plan.name, plan.note) == ("judge-model", "")
    assert plan.identity == plan_at("http://127.0.0.1:1").identity
    # The plan knows the model: workers that make the judge from it do not ask again.
    server.paths.clear()
    judge = make_judge(pickle.loads(pickle.dumps(plan)))
    assert judge_blocking(judge, [ITEM])[0].label is RefusalLabel.REFUSAL
    assert server.paths == ["/v1/chat/completions"]
    assert server.requests[0]["max_tokens"] == plan.config.max_tokens


def test_an_endpoints_identity_is_what_can_change_a_verdict():
    plan = plan_at("http://127.0.0.1:1/v1")
    for url in ("https://user:secret@host:8443/other/v1", "http://127.0.0.1:2?token=secret"):
        same = plan_at(url, concurrency=1, timeout_s=3, max_retries=1)
        assert same.identity == plan.identity
        assert "secret" not in same.label
    others = [plan_at("http://127.0.0.1:1", **each) for each in ({"model": "other"}, {"max_tokens": 99})]
    shorter = model_identity("judge-model", {"temperature": 0.0, "max_tokens": 1024}, max_text_chars=100)
    warmer = model_identity("judge-model", {"temperature": 0.5, "max_tokens": 1024})
    sampling = {"temperature": 0.0, "max_tokens": 1024}
    asked_otherwise = model_identity("judge-model", sampling, policy=Policy(sha256="another prompt"))
    identities = {plan.identity, shorter, warmer, asked_otherwise, *(other.identity for other in others)}
    assert len(identities) == 6
    assert all(len(identity) == 64 for identity in identities)


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What identifies the models' weights; no hub is asked."""
    found = {"demo": "sha256:1", "qwen2.5-72b-instruct": "sha256:2"}
    monkeypatch.setattr("safe_r1.models.checkpoints.prepare", lambda each, trust: (each, found[each.name]))
    return found


def llm(**settings: object) -> JudgeConfig:
    return JudgeConfig.model_validate({"kind": "llm", "model": "demo", **settings})


def test_a_model_on_an_engine_is_planned_with_its_weights(weights: dict[str, str]):
    plan = plan_judge(llm())
    assert (plan.name, plan.model) == ("demo", VARIANTS["demo"])
    assert plan.label == f"demo@{plan.identity[:8]}"
    default = plan_judge(JudgeConfig(kind="llm"))
    assert default.name == "qwen2.5-72b-instruct"
    assert isinstance(default.model, Variant)
    longer = plan_judge(llm(max_tokens=99))
    weights["demo"] = "sha256:3"
    assert len({plan.identity, default.identity, longer.identity, plan_judge(llm()).identity}) == 4


def test_a_model_on_an_engine_judges_through_its_callers_calls(weights: dict[str, str]):
    asked: list[tuple[str, int]] = []

    async def complete(messages: list[Message], max_tokens: int) -> ModelReply:
        asked.append((messages[1]["content"], max_tokens))
        await asyncio.sleep(0)
        for text, reply in {
            "<busy>": ModelReply(None, error="the queue is full", unscored=Unscored.JUDGE_OVERLOADED),
            "<error>": ModelReply(None, error="boom"),
            "<cut>": ModelReply("这段话", "length"),
            "<refusal>": ModelReply("[label] full refusal\n[why] It declines.", "stop"),
        }.items():
            if text in messages[1]["content"]:
                return reply
        return ModelReply("[答案] 直接拒绝\n[分析] 只是拒绝。", "stop")

    plan = plan_judge(llm(max_tokens=77))
    judge = make_judge(plan, complete)
    assert (judge.name, judge.identity) == (plan.name, plan.identity)
    items = [dataclasses.replace(ITEM, text=text) for text in ("好", "<busy>", "<error>", "<cut>")]
    items.append(JudgeItem(ITEM.messages, "<refusal>", task="over_refusal"))
    found = judge_blocking(judge, items)
    assert [each.label for each in found] == [
        RefusalLabel.REFUSAL,
        None,
        None,
        None,
        ComplianceLabel.FULL_REFUSAL,
    ]
    assert [each.unscored_reason for each in found[1:4]] == [
        Unscored.JUDGE_OVERLOADED,
        Unscored.JUDGE_ERROR,
        Unscored.JUDGE_TRUNCATED,
    ]
    assert found[1].explanation == "the queue is full"
    assert [max_tokens for _, max_tokens in asked] == [77] * 5


def test_a_model_without_an_engine_is_refused():
    with pytest.raises(ConfigError, match="give its URL"):
        make_judge(JudgeConfig(kind="llm"))


def test_a_judge_that_differs_from_its_plan_is_refused():
    plan = dataclasses.replace(plan_judge(JudgeConfig()), identity="0" * 64)
    with pytest.raises(ConfigError, match="lexicon@67ac822b is not the planned lexicon@00000000"):
        make_judge(plan)


async def _blocking_inside_a_loop() -> list:
    return judge_blocking(make_judge(JudgeConfig()), [ITEM])


def test_blocking_callers_work_inside_a_loop_too():
    assert asyncio.run(_blocking_inside_a_loop())[0].label is RefusalLabel.REFUSAL


@pytest.mark.slow
def test_workers_of_a_batch_job_read_replies_without_torch_ray_and_vllm():
    read = pickle.loads(pickle.dumps(BUILT_IN)).read
    assert read("[答案] 直接拒绝\n[分析] 无", "stop", "refusal").label is RefusalLabel.REFUSAL
    code = (
        "import sys; from safe_r1.judge import endpoint, factory, lexicon, model;"
        "print(sorted({'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_an_installed_judge_is_used_by_its_name(install: Install):
    install("their_judges", "echo", ECHO)
    assert "their_judges" not in sys.modules
    check_kind("echo")
    assert "their_judges" not in sys.modules
    plan = plan_judge(JudgeConfig(kind="echo", model="m"))
    assert plan.label == f"echo@{plan.identity[:8]}"
    assert plan.identity != plan_judge(JudgeConfig(kind="echo")).identity
    judge = make_judge(plan)
    items = [dataclasses.replace(ITEM, text=label.value) for label in RefusalLabel]
    assert [each.label for each in judge_blocking(judge, items)] == list(RefusalLabel)
    with pytest.raises(ConfigError, match=r"\(did you mean echo\?\).*installed judge \(echo\)"):
        check_kind("ecco")
    # The judge raises ValueError on a text that is no label.
    with pytest.raises(JudgeError, match=r"'echo' of package their_judges 1\.2 failed \(ValueError: "):
        judge_blocking(judge, [ITEM])


def test_agreement_is_measured_with_an_installed_judge(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    install("their_judges_2", "echo", ECHO)
    row = {
        "messages": ITEM.messages,
        "answer": RefusalLabel.REFUSAL.value,
        "label": RefusalLabel.REFUSAL.value,
    }
    (tmp_path / "gold.jsonl").write_text(json.dumps(row) + "\n")
    command = ["safe-r1", "judge-agreement", "--labels", str(tmp_path / "gold.jsonl"), "--json", "--judge"]
    monkeypatch.setattr(sys, "argv", [*command, "echo"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["judge"].startswith("echo@")
    assert (found["num_scored"], found["accuracy"]) == (1, 1.0)
    for kind, message in {"oracle": "unknown judge 'oracle'", "llm": "needs an engine"}.items():
        monkeypatch.setattr(sys, "argv", [*command, kind])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        shown = capsys.readouterr().err
        assert message in shown
        assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import a_module_that_is_not_there", "No module named"),
        ("raise SystemError('two\\nlines')", "SystemError: two lines"),
        ("other = 1", "AttributeError"),
        ("make = 1", "'int' object is not callable"),
        (BROKEN.format(body="return []", make="raise OSError('no key')"), "OSError: no key"),
        (BROKEN.format(body="return []", make="return None"), "its name is None"),
        (ECHO.replace('name = "echo"', 'name = "e c"'), "its name is 'e c'"),
        (ECHO.replace(".hexdigest()", ".hexdigest()[:8]"), "expected a SHA-256"),
        (ECHO.replace("async def judge", "def judge"), "async def judge"),
    ],
)
def test_a_package_that_is_broken_is_named(install: Install, request: pytest.FixtureRequest, source, problem):
    package = f"broken_{abs(hash(request.node.name))}"
    install(package, "theirs", source)
    check_kind("theirs")
    with pytest.raises(ConfigError) as caught:
        plan_judge(JudgeConfig(kind="theirs"))
    message = str(caught.value)
    assert message.startswith(f"judge 'theirs' of package {package} 1.2: ")
    assert problem in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("return []", "gave 0 judgements for 1 items"),
        ("return None", "failed \\(TypeError: "),
        ("return ['refusal']", "does not fit task 'refusal'"),
        ("return [Judgement(None)]", "does not fit"),
        ("return [Judgement(None, 'no idea')]", "does not fit"),
        ("return [Judgement(RefusalLabel.REFUSAL, 'empty')]", "does not fit"),
        ("return [Judgement(RefusalLabel.REFUSAL, explanation=None)]", "can be stored"),
        ("return [Judgement(RefusalLabel.REFUSAL, explanation='\\ud83d')]", "can be stored"),
        ("return [Judgement(RefusalLabel.REFUSAL, own_label=3)]", "can be stored"),
    ],
)
def test_wrong_answers_of_a_packages_judge_are_errors(
    install: Install, request: pytest.FixtureRequest, body: str, problem: str
):
    package = f"wrong_{abs(hash(request.node.name))}"
    install(package, "theirs", BROKEN.format(body=body, make="return Broken()"))
    with pytest.raises(JudgeError, match=rf"judge 'theirs' of package {package} 1\.2 .*{problem}"):
        judge_blocking(make_judge(JudgeConfig(kind="theirs")), [ITEM])


def test_a_name_that_two_packages_claim_is_refused(install: Install):
    install("first_judges", "twice", ECHO)
    install("second_judges", "twice", ECHO)
    check_kind("twice")
    with pytest.raises(ConfigError, match=r"'twice' is defined by first_judges 1\.2, second_judges 1\.2"):
        plan_judge(JudgeConfig(kind="twice"))
