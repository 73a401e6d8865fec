"""Clients of the service's judge: a deployment that batches the calls of all requests, or a served model.

The judges themselves are those of ``safe_r1.judge.factory``.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from safe_r1.config import JudgeConfig
from safe_r1.errors import ConfigError, SafeR1Error
from safe_r1.judge.base import JudgeItem, Judgement
from safe_r1.judge.factory import JudgePlan, engine_sampling, make_judge, plan_judge
from safe_r1.judge.model import ModelReply
from safe_r1.schema import Message, Unscored
from safe_r1.serve.base import SamplingParams, unscored_reason
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.errors import ApiError
from safe_r1.serve.request_queue import RequestQueue
from safe_r1.serve.telemetry import observe_batch

if TYPE_CHECKING:
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle

# Maximum number of calls judged together, and how long the first of them waits for others.
_BATCH_CALLS = 32
_BATCH_WAIT_S = 0.005
_MAX_ONGOING_CALLS = 64
_MAX_QUEUED_CALLS = 512
# Calls of so few items are judged in the ingress, on a thread: a call to a deployment costs as much as some.
_ITEMS_HERE = 16


class JudgeServer:
    """One replica of the judge's deployment."""

    def __init__(self, plan: JudgePlan):
        self._judge = make_judge(plan)

    async def judge_calls(self, calls: list[list[JudgeItem]]) -> list[list[Judgement] | str]:
        """Judge the items of several calls as one batch.

        Returns:
            For each call its judgements, or the message of the error that made the judge unavailable.
        """
        items = [item for call in calls for item in call]
        observe_batch(len(items))
        try:
            judgements = iter(await self._judge.judge(items))
        except SafeR1Error as error:
            # Returned instead of raised, so that the client need not unwrap Serve's exceptions.
            return [str(error)] * len(calls)
        return [[next(judgements) for _ in call] for call in calls]


def judge_deployment(plan: JudgePlan, replicas: int, name: str = "Judge") -> "Application":
    """Serve application of a judge that needs no engine, to be bound into the ingress.

    Args:
        plan: The judge.
        replicas: How many of it.
        name: Name of the deployment.
    """
    from ray import serve

    class Judge(JudgeServer):
        @serve.batch(max_batch_size=_BATCH_CALLS, batch_wait_timeout_s=_BATCH_WAIT_S)
        async def __call__(self, calls: list[list[JudgeItem]]) -> list[list[Judgement] | str]:
            return await self.judge_calls(calls)

    deployment = serve.deployment(
        name=name,
        num_replicas=replicas,
        max_ongoing_requests=_MAX_ONGOING_CALLS,
        max_queued_requests=_MAX_QUEUED_CALLS,
        ray_actor_options={"num_cpus": 0.5},
        max_surge_percent=100,
        logging_config={"enable_access_log": False},
    )
    return deployment(Judge).bind(plan)


class DeploymentJudge:
    """Client of the judge's deployment.

    Attributes:
        judge_name: See ``JudgeClient``.
    """

    def __init__(self, plan: JudgePlan, handle: "DeploymentHandle"):
        self.judge_name = plan.label
        self._handle = handle
        self._here = JudgeServer(plan) if plan.runs_in_workers else None

    async def judge(self, items: Sequence[JudgeItem], *, retry: bool = True) -> list[Judgement]:
        """See ``JudgeClient.judge``; retries are left to ``Service.judge``."""
        if self._here and len(items) <= _ITEMS_HERE:
            [reply] = await self._here.judge_calls([list(items)])
        else:
            reply = await self._call(list(items))
        if isinstance(reply, str):
            raise ApiError(503, Unscored.JUDGE_UNAVAILABLE, reply)
        return reply

    async def _call(self, items: list[JudgeItem]) -> list[Judgement] | str:
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, RayServeException

        try:
            return await self._handle.remote(items)
        except BackPressureError:
            message = "the judge's queue is full; try again"
            raise ApiError(429, Unscored.JUDGE_OVERLOADED, message, retry_after_s=5) from None
        except (RayServeException, RayError) as error:
            message = f"the judge is down or starting ({type(error).__name__})"
            raise ApiError(503, Unscored.JUDGE_UNAVAILABLE, message) from None


class QueueJudge:
    """A served model as the judge, called through its request queue; vLLM batches all prompts in flight.

    Attributes:
        judge_name: See ``JudgeClient``.
    """

    def __init__(self, plan: JudgePlan, queue: RequestQueue):
        self.judge_name = plan.label
        sampling = engine_sampling(plan.config)
        self._retrying = make_judge(plan, functools.partial(_complete, queue, True, sampling))
        self._immediate = make_judge(plan, functools.partial(_complete, queue, False, sampling))

    async def judge(self, items: Sequence[JudgeItem], *, retry: bool = True) -> list[Judgement]:
        """See ``JudgeClient.judge``; an item whose reply could not be generated is unscored."""
        return await (self._retrying if retry else self._immediate).judge(items)


async def _complete(
    queue: RequestQueue, retry: bool, sampling: dict[str, float], messages: list[Message], max_tokens: int
) -> ModelReply:
    temperature, top_p = sampling["temperature"], sampling["top_p"]
    params = SamplingParams(seed=0, max_tokens=max_tokens, temperature=temperature, top_p=top_p)
    try:
        generation = await queue.generate(messages, params, retry=retry)
    except ApiError as error:
        return ModelReply(None, error=error.message, unscored=unscored_reason(error))
    return ModelReply(generation.text, generation.finish_reason)


def plan_judges(config: ServeConfig) -> dict[str, JudgePlan]:
    """The judges of a service by the name that requests use: its own first, then the further ones, then its
    own with other policies.

    Raises:
        ConfigError: Two of one name, an unknown kind, or a policy for a judge that asks no model.
        ModelError, JudgeError: See ``plan_judge``.
    """
    own = plan_judge(config.judge)
    plans = {own.name: own}
    further = [plan_judge(JudgeConfig(kind=kind, engine=config.judge.engine)) for kind in config.judges]
    with_policy = {
        name: plan_judge(config.judge.model_copy(update={"policy": file}))
        for name, file in config.policies.items()
    }
    for name, plan in [*((plan.name, plan) for plan in further), *with_policy.items()]:
        if name in plans:
            raise ConfigError(f"two judges are named {name!r}: leave one out of judges, or rename the policy")
        plans[name] = plan
    return plans
