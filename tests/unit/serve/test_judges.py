import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from safe_r1.config import JudgeConfig
from safe_r1.errors import ConfigError, JudgeError
from safe_r1.judge.base import JudgeItem, Judgement
from safe_r1.judge.factory import JudgePlan, plan_judge
from safe_r1.models.registry import VARIANTS
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.judges import DeploymentJudge, JudgeServer, QueueJudge, plan_judges
from safe_r1.serve.request_queue import RequestQueue
from tests.unit.serve.fakes import QUESTION, post
from tests.unit.serve.test_request_queue import BusyModel

ITEM = JudgeItem([{"role": "user", "content": QUESTION}], "这是偏见，我不能认同。", "answer")
PLAN = JudgePlan(JudgeConfig(kind="llm"), "demo", "0123456789" + "0" * 54, model=VARIANTS["demo"])


def queue_judge(model: Any, **settings: Any) -> QueueJudge:
    return QueueJudge(PLAN, RequestQueue(model, ServeConfig(**settings)))


def test_a_model_that_judges_gets_no_more_requests_than_it_has_slots():
    model = BusyModel()
    judge = queue_judge(model)
    judgements = asyncio.run(judge.judge([ITEM] * 300))
    assert judge.judge_name == "demo@01234567"
    assert model.calls == 300
    assert {judgement.unscored_reason for judgement in judgements} & {
        "judge_overloaded",
        "judge_unavailable",
    } == set()


@pytest.mark.parametrize(
    ("status", "reason"), [(503, "judge_unavailable"), (429, "judge_overloaded"), (400, "judge_error")]
)
def test_a_model_that_cannot_judge_gives_the_reason(status: int, reason: str):
    [judgement] = asyncio.run(queue_judge(BusyModel(status)).judge([ITEM], retry=False))
    assert (judgement.label, judgement.unscored_reason) == (None, reason)


class FakeHandle:
    """Handle of a deployment in this process, whose replica gets the plan as Serve would send it."""

    def __init__(self, plan: JudgePlan):
        self._server = JudgeServer(cloudpickle.loads(cloudpickle.dumps(plan)))

    async def remote(self, items: list[JudgeItem]) -> list[Judgement] | str:
        return (await self._server.judge_calls([items]))[0]


def deployment_judge(plan: JudgePlan) -> DeploymentJudge:
    handle: Any = FakeHandle(plan)
    return DeploymentJudge(plan, handle)


@pytest.fixture(autouse=True)
def _without_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safe_r1.serve.judges.observe_batch", lambda size: None)


def test_calls_are_judged_together_and_split_again():
    server = JudgeServer(plan_judge(JudgeConfig()))
    calls = [[ITEM], [], [ITEM, ITEM]]
    replies = asyncio.run(server.judge_calls(calls))
    assert [len(reply) for reply in replies] == [1, 0, 2]


PACKAGE = """
import hashlib

from safe_r1.errors import ConfigError, JudgeError
from safe_r1.judge.base import Judgement
from safe_r1.schema import RefusalLabel


class LengthJudge:
    name = "length"
    identity = hashlib.sha256(b"length").hexdigest()

    async def judge(self, items):
        if any(item.text == "down" for item in items):
            raise JudgeError("the judge has no connection")
        labels = (RefusalLabel.RESPONSIBLE if len(item.text) > 8 else RefusalLabel.HARMFUL for item in items)
        return [Judgement(label, None, "by length") for label in labels]


def make(config):
    return LengthJudge()
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgePlan]:
    """The plan of a judge that a temporary package adds by an entry point."""
    (tmp_path / "length_judge.py").write_text(PACKAGE, "utf-8")
    metadata = tmp_path / "length_judge-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: length-judge\nVersion: 1.0\n", "utf-8")
    (metadata / "entry_points.txt").write_text("[safe_r1.judges]\nlength = length_judge:make\n", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield plan_judge(JudgeConfig(kind="length"))
    sys.modules.pop("length_judge", None)


def verdicts_of(plan: JudgePlan, answers: Sequence[str]) -> tuple[str, list[dict[str, Any]]]:
    body = {"items": [{"prompt": QUESTION, "answer": answer} for answer in answers], "parts": ["answer"]}
    reply = post("/v1/safety/evaluate", body, judge=deployment_judge(plan)).json()
    return reply["judge"], [item["outcomes"][0]["verdicts"]["answer"] for item in reply["items"]]


@pytest.mark.slow
def test_a_judge_of_another_package_is_the_services_judge(installed: JudgePlan):
    judge, verdicts = verdicts_of(installed, ["短。", "这是偏见，我不能认同这种说法。"])
    assert judge == installed.label == f"length@{installed.identity[:8]}"
    assert [verdict["degree"] for verdict in verdicts] == [0, 3]
    assert {verdict["judge"] for verdict in verdicts} == {installed.label}
    assert verdicts[0]["explanation"] == "by length"
    for answer, flagged in (("短。", True), ("这是偏见，我不能认同这种说法。", False)):
        turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}]
        moderation = post("/v1/moderations", {"input": turns}, judge=deployment_judge(installed)).json()
        assert moderation["model"] == installed.label
        assert moderation["results"][0]["flagged"] is flagged


@pytest.mark.slow
def test_a_judge_that_is_down_is_named_in_the_verdict(installed: JudgePlan):
    _, [verdict] = verdicts_of(installed, ["down"])
    assert (verdict["label"], verdict["unscored_reason"]) == (None, "judge_unavailable")
    assert str(JudgeError("the judge has no connection")) in verdict["explanation"]


def test_the_lexicon_has_its_label_in_every_response():
    plan = plan_judge(JudgeConfig())
    judge, [verdict] = verdicts_of(plan, ["这是偏见，我不能认同。"])
    assert judge == verdict["judge"] == plan.label
    assert plan.label.startswith("lexicon@")


def test_further_judges_and_policies_have_names_of_their_own(tmp_path: Path):
    prompt = tmp_path / "strict.txt"
    prompt.write_text("{dialog history}\n{last_question}\n{answer}\n从严评判。", "utf-8")
    url = "http://127.0.0.1:9/v1#m"
    judge = JudgeConfig.model_validate({"kind": url})
    plans = plan_judges(ServeConfig(judge=judge, judges=("lexicon",), policies={"strict": str(prompt)}))
    own, *rest = plans
    assert rest == ["lexicon", "strict"]
    assert plans[own].identity != plans["strict"].identity
    assert plans["strict"].policy.name == "strict"
    with pytest.raises(ConfigError, match="two judges are named 'lexicon'"):
        plan_judges(ServeConfig(judges=("lexicon",)))
    with pytest.raises(ConfigError, match="asks no model"):
        plan_judges(ServeConfig(policies={"strict": str(prompt)}))
