"""The judge as a deployment: the evaluation's judges, their calls batched over all requests in flight."""

import asyncio
from collections.abc import Sequence
from typing import Any

from safe_r1.config import JudgeConfig
from safe_r1.errors import SafeR1Error
from safe_r1.evaluation.scoring import judge_name, make_judge, read_engine_reply
from safe_r1.judge.base import JudgeItem, Judgement
from safe_r1.judge.endpoint import EndpointJudge
from safe_r1.judge.prompt import judge_messages
from safe_r1.serve.api import ApiError
from safe_r1.serve.evaluator import Asked
from safe_r1.serve.line import Line
from safe_r1.serve.metrics import observe_batch

# Calls that are judged together, and how long the first of them waits for others.
_BATCH_CALLS, _BATCH_WAIT_S = 32, 0.005
_ROOM, _QUEUE = 64, 512
_REASONS = {429: "judge_overloaded", 503: "judge_unavailable"}
NOT_JUDGED = tuple(_REASONS.values())
"""Reasons of judgements that nobody made."""


class JudgeServer:
    """One replica of the lexicon or of an endpoint's client."""

    def __init__(self, config: JudgeConfig):
        self._judge = make_judge(config)

    async def judge_calls(self, calls: list[list[JudgeItem]]) -> list[list[Judgement] | str]:
        """The items of several calls as one batch; a judge that is down is told as a text to each."""
        flat = [item for call in calls for item in call]
        observe_batch(len(flat))
        try:
            judge = self._judge
            done = (
                await judge.judge_async(flat)
                if isinstance(judge, EndpointJudge)
                else await asyncio.to_thread(judge.judge, flat)
            )
        except SafeR1Error as error:
            return [str(error)] * len(calls)
        rows = iter(done)
        return [[next(rows) for _ in call] for call in calls]


def judge_deployment(config: JudgeConfig, replicas: int) -> Any:
    """The judge as a Serve application to be bound into the ingress."""
    from ray import serve

    class Judge(JudgeServer):
        @serve.batch(max_batch_size=_BATCH_CALLS, batch_wait_timeout_s=_BATCH_WAIT_S)
        async def __call__(self, calls: list[list[JudgeItem]]) -> list[list[Judgement] | str]:
            return await self.judge_calls(calls)

    options = {
        "name": "Judge",
        "num_replicas": replicas,
        "max_ongoing_requests": _ROOM,
        "max_queued_requests": _QUEUE,
        "ray_actor_options": {"num_cpus": 0.5},
        "logging_config": {"enable_access_log": False},
    }
    return serve.deployment(**options)(Judge).bind(config)


class ServedJudge:
    """The judge's deployment, as the ingress calls it.

    Attributes:
        judge_name: As in the rows of an evaluation.
    """

    def __init__(self, config: JudgeConfig, handle: Any):
        self.judge_name, self._handle = judge_name(config, config.model), handle

    async def judge(self, items: Sequence[JudgeItem], *, is_patient: bool = True) -> list[Judgement]:
        """See ``JudgeCaller.judge``; it is the service that asks again."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, RayServeException

        try:
            reply = await self._handle.remote(list(items))
        except BackPressureError:
            raise ApiError(
                429, "judge_overloaded", "the judge is busy and its queue is full", retry_after_s=5
            ) from None
        except (RayServeException, RayError) as error:
            raise ApiError(
                503, "judge_unavailable", f"the judge is down or starting ({type(error).__name__})"
            ) from None
        if isinstance(reply, str):
            raise ApiError(503, "judge_unavailable", reply)
        return reply


class ModelJudge:
    """A served model that judges; vLLM batches its prompts over all requests.

    Attributes:
        judge_name: As in the rows of an evaluation.
    """

    def __init__(self, config: JudgeConfig, name: str, line: Line):
        self.judge_name, self._line, self._max_tokens = judge_name(config, name), line, config.max_tokens

    async def judge(self, items: Sequence[JudgeItem], *, is_patient: bool = True) -> list[Judgement]:
        """See ``JudgeCaller.judge``; a reply that the engine could not give is unscored."""
        return list(await asyncio.gather(*(self._one(item, is_patient) for item in items)))

    async def _one(self, item: JudgeItem, is_patient: bool) -> Judgement:
        try:
            asked = Asked(seed=0, max_tokens=self._max_tokens, temperature=0.0, top_p=1.0)
            reply = await self._line.generate(judge_messages(item), asked, is_patient=is_patient)
        except ApiError as error:
            return Judgement(None, _REASONS.get(error.status, "judge_error"), error.message)
        return read_engine_reply(reply.text, reply.finish_reason, item.task)
