"""The judge behind an OpenAI-compatible endpoint.

A row that the endpoint declines (content filter, over-long prompt) is unscored with a reason; an endpoint
that cannot be used at all raises ``JudgeError`` at once, and rows judged before that stay in the cache.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

from safe_r1.config import EndpointConfig, JudgeConfig
from safe_r1.errors import JudgeError
from safe_r1.inference.endpoint import ChatEndpoint
from safe_r1.inference.endpoint_client import ChatSampling, EndpointClient
from safe_r1.inference.reply_cache import Reply
from safe_r1.judge.model import ModelJudge, ModelReply, model_identity
from safe_r1.judge.policy import BUILT_IN, Policy
from safe_r1.redaction import without_secret_fields
from safe_r1.schema import JUDGED_PARTS, Message, Unscored


class EndpointJudge(ModelJudge):
    """A judging model at any OpenAI-compatible URL.

    Attributes:
        name: The model that is asked, with the form of a guard.
        served: The name by which the endpoint knows it.
        identity: Of model, prompt, sampling, further fields and text limits; without URL and credentials.
    """

    def __init__(
        self, config: JudgeConfig, *, policy: Policy = BUILT_IN, cache_dir: str | Path | None = None
    ):
        """Create the client; asks the endpoint for its model where none is named. See ``EndpointClient``.

        Args:
            config: The settings, whose kind has a URL.
            policy: Prompt and labels.
            cache_dir: Folder of the reply cache; None keeps nothing.

        Raises:
            ConfigError: Not a URL.
            JudgeError: No model was named and the endpoint does not serve exactly one.
        """
        sampling = _sampling(config)
        client = EndpointClient(
            config.url or config.kind,
            config.model,
            EndpointConfig(
                concurrency=config.concurrency,
                timeout_s=config.timeout_s,
                max_retries=config.max_retries,
                headers=config.headers,
                extra_body=config.extra_body,
                patience_s=0,
            ),
            title="judge endpoint",
            api_key_variable=config.api_key_env,
            sampling=sampling,
            error=JudgeError,
            is_raw=policy.is_raw,
        )
        # What changes a reply beside the model and the sampling settings; none for most judges. A key among
        # it changes none, and a short one could be guessed from a hash of it.
        fields = without_secret_fields(config.extra_body)
        further = {"extra_body": fields} if fields else {}
        salt = policy.sha256 + (json.dumps(further, sort_keys=True) if further else "")
        self._endpoint = ChatEndpoint(
            client, cache_dir=cache_dir, salt=salt, is_final=functools.partial(_has_label, policy)
        )
        self.served = self._endpoint.model
        identity = model_identity(self.served, {**sampling, **further}, policy=policy)
        super().__init__(policy.judge_name(self.served), identity, self._ask, policy=policy)

    async def _ask(self, prompts: Sequence[list[Message]]) -> list[ModelReply]:
        replies = await self._endpoint.complete_async([(messages, "") for messages in prompts])
        return [_to_model_reply(reply) for reply in replies]


def _sampling(config: JudgeConfig) -> ChatSampling:
    sampling = ChatSampling()
    if config.temperature is not None:
        sampling["temperature"] = config.temperature
    if config.max_completion_tokens is None:
        sampling["max_tokens"] = config.max_tokens
    else:
        sampling["max_completion_tokens"] = config.max_completion_tokens
    return sampling


def _to_model_reply(reply: Reply) -> ModelReply:
    # What the row is at fault for comes out the same in every session.
    is_final = reply.is_row_fault or bool(reply.blocked)
    unscored = Unscored.JUDGE_DECLINED if is_final else Unscored.JUDGE_ERROR
    return ModelReply(reply.full_text, reply.finish_reason, reply.error, unscored)


def _has_label(policy: Policy, reply: Reply) -> bool:
    """True for a reply worth keeping; the cache does not know the task that was asked."""
    return any(_to_model_reply(reply).judgement(task, policy).label for task in JUDGED_PARTS)
