"""The models that attacks that adapt ask: from calls to requests, and from results to replies."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from safe_r1.attacks.adaptive.driver import Ask
from safe_r1.attacks.adaptive.turns import Call, Reply, Role
from safe_r1.evaluation.adaptive_plan import AttackerPlan, DialogueSpecs
from safe_r1.evaluation.adaptive_rows import tokens_of_role
from safe_r1.evaluation.journal import journal_folder
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.results import ReadCompletion, RequestKey
from safe_r1.evaluation.target import Target
from safe_r1.inference.dialogues import CompleteAll, DialogueEngines, endpoint_model
from safe_r1.inference.remote import make_endpoints
from safe_r1.inference.reply_cache import ReplyCache
from safe_r1.inference.requests import EngineResult, Request
from safe_r1.inference.spending import Spending
from safe_r1.judge.base import Judge, JudgeItem
from safe_r1.judge.factory import JudgePlan, make_judge
from safe_r1.judge.model import ModelReply
from safe_r1.schema import Message, Unscored


@dataclass
class Missing:
    """What got no reply in this session.

    Attributes:
        reasons: Why, by role.
    """

    reasons: dict[Role, str] = field(default_factory=dict)

    def add(self, role: Role, reason: str) -> None:
        """Keep the first reason of a role."""
        self.reasons.setdefault(role, reason)


def make_asks(
    plan: EvaluationPlan,
    target: Target,
    specs: DialogueSpecs,
    engines: DialogueEngines,
    benchmark: str,
    missing: Missing,
) -> dict[Role, Ask]:
    """What the conversations about one benchmark ask, by role.

    Args:
        plan: The plan.
        target: The evaluated model.
        specs: What runs on engines.
        engines: Where these are started.
        benchmark: Name of the benchmark.
        missing: Filled with reasons of calls that got no reply.
    """
    assert plan.judge is not None
    read = ReadCompletion(plan.variant.name, plan.thinking_tags)
    max_tokens = plan.max_tokens(benchmark, "refusal")
    complete = target.dialogues(benchmark, engines)
    asks: dict[Role, Ask] = {
        "target": ask_model("target", benchmark, complete, max_tokens, read, missing),
        "judge": ask_judge(_judge(plan.judge, specs, engines), missing),
    }
    if plan.attacker and plan.searches[benchmark].needs_attacker:
        writer = _attacker(plan, plan.attacker, specs, engines, benchmark)
        tokens = plan.attacker.settings.max_tokens
        own = ReadCompletion(plan.attacker.variant.name, plan.attacker.variant.thinking_tags())
        asks["attacker"] = ask_model("attacker", benchmark, writer, tokens, own, missing)
    return asks


def _attacker(
    plan: EvaluationPlan,
    attacker: AttackerPlan,
    specs: DialogueSpecs,
    engines: DialogueEngines,
    benchmark: str,
) -> CompleteAll:
    if specs.attacker is not None:
        return engines.model(specs.attacker)
    entry = attacker.variant.endpoint
    assert entry is not None
    folder = plan.folders[benchmark]
    used = [tokens_of_role(plan.folders[name], "attacker") for name in plan.searches]
    prompts, replies = (sum(each[place] for each in used) for place in (0, 1))
    spending = Spending(entry, prompts, replies, settings="adaptive.endpoint")
    endpoints = make_endpoints(entry, attacker.sampling, "attacker")
    return endpoint_model(endpoints, spending, ReplyCache(journal_folder(folder), "journal"), {})


def _judge(judge: JudgePlan, specs: DialogueSpecs, engines: DialogueEngines) -> Judge:
    if specs.judge is None:
        return make_judge(judge)
    complete = engines.model(specs.judge)

    async def reply(messages: list[Message], max_tokens: int) -> ModelReply:
        [result] = await complete([Request("judge", messages, max_tokens, seed=0, names_tags=True)])
        if result["error"]:
            # As of a target: what is lost is asked again, any other error comes again.
            reason = Unscored.JUDGE_ERROR if result.get("is_lost") else Unscored.JUDGE_DECLINED
            return ModelReply(None, error=result["error"], unscored=reason)
        return ModelReply(result["text"], result["finish_reason"])

    return make_judge(judge, reply)


def ask_model(
    role: Role,
    benchmark: str,
    complete: CompleteAll,
    max_tokens: int,
    read: ReadCompletion,
    missing: Missing,
) -> Ask:
    """An attacker or a target.

    Args:
        role: Which of the two.
        benchmark: Name of the benchmark.
        complete: Completes requests.
        max_tokens: Maximum length of a reply in tokens.
        read: Splits the reasoning from the answer.
        missing: Filled with the reason where a call got no reply.
    """

    async def ask(calls: Sequence[Call]) -> list[Reply | None]:
        requests = [
            Request(request_key(benchmark, call), list(call.messages), max_tokens, call.seed)
            for call in calls
        ]
        results = await complete(requests)
        replies = [reply_of(result, read) for result in results]
        for result, reply in zip(results, replies, strict=True):
            if reply is None:
                missing.add(role, result["error"] or "no reply")
        return replies

    return ask


def request_key(benchmark: str, call: Call) -> str:
    """Identity of a call in journals and engines."""
    key = RequestKey(benchmark, call.sample_id, "refusal", call.repeat)
    return replace(key, place="/".join(map(str, call.place))).to_text()


def reply_of(result: EngineResult, read: ReadCompletion) -> Reply | None:
    """The reply of an attacker or a target; None where a later session may get one."""
    if result["error"] is not None and result.get("is_lost"):
        return None
    completion = read(result).row
    reason = None
    if completion.blocked is not None:
        reason = Unscored.BLOCKED
    elif completion.error is None and completion.answer is None:
        reason = Unscored.TRUNCATED if completion.is_cut else Unscored.UNFINISHED
    return Reply(
        text=completion.answer or "",
        reasoning=completion.reasoning,
        unscored_reason=None if reason is None else str(reason),
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        finish_reason=completion.blocked or completion.finish_reason,
        error=completion.error,
    )


def ask_judge(judge: Judge, missing: Missing) -> Ask:
    """The run's judge, which is shown the plain dialogue."""
    # One that is asked has a limit of requests at the same time, which holds for one call.
    lock = asyncio.Lock()

    async def ask(calls: Sequence[Call]) -> list[Reply | None]:
        async with lock:
            judgements = await judge.judge(
                [JudgeItem(messages=list(call.messages), text=call.text) for call in calls]
            )
        replies = [Reply.of_judgement(judgement) for judgement in judgements]
        for judgement, reply in zip(judgements, replies, strict=True):
            if reply is None:
                missing.add("judge", judgement.explanation or "no reply")
        return replies

    return ask
