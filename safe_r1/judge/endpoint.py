"""The judge behind an OpenAI-compatible endpoint.

A row that the endpoint declines (content filter, over-long prompt) is unscored with a reason; an endpoint
that cannot be used at all raises ``JudgeError`` at once, and rows judged before that stay in the cache.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from safe_r1.config import EndpointConfig
from safe_r1.errors import JudgeError
from safe_r1.inference.endpoint import ChatEndpoint
from safe_r1.inference.endpoint_client import ChatSampling, EndpointClient
from safe_r1.inference.reply_cache import Reply
from safe_r1.judge.model import ModelJudge, ModelReply, model_identity
from safe_r1.judge.policy import BUILT_IN, Policy
from safe_r1.judge.prompt import MAX_TEXT_CHARS
from safe_r1.schema import JUDGED_PARTS, Message
from safe_r1.settings import load_config


class EndpointJudge(ModelJudge):
    """A judging model at any OpenAI-compatible URL.

    Attributes:
        name: The model that is asked.
        identity: Of model, prompt, sampling and text limits; without URL and credentials.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        concurrency: int = 16,
        timeout_s: float = 120.0,
        max_retries: int = 4,
        cache_dir: str | Path | None = None,
        temperature: float = 0.0,
        max_tokens: int = 2048,
        max_text_chars: int = MAX_TEXT_CHARS,
        policy: Policy = BUILT_IN,
    ):
        """Create the client; asks the endpoint for its model where none is named. See ``EndpointClient``.

        Args:
            max_tokens: Longest reply, with the reasoning of a reasoning judge.
            max_text_chars: A longer text is judged without its middle.
            policy: Prompt and labels.

        Raises:
            ConfigError: Not a URL, or a limit below 1.
            JudgeError: No model was named and the endpoint does not serve exactly one.
        """
        sampling = ChatSampling(temperature=temperature, max_tokens=max_tokens)
        client = EndpointClient(
            base_url,
            model,
            load_config(
                EndpointConfig,
                None,
                [],
                concurrency=concurrency,
                timeout_s=timeout_s,
                max_retries=max_retries,
                patience_s=0,
            ),
            title="judge endpoint",
            api_key_variable="SAFE_R1_JUDGE_API_KEY",
            api_key=api_key,
            sampling=sampling,
            error=JudgeError,
        )
        self._endpoint = ChatEndpoint(
            client, cache_dir=cache_dir, salt=policy.sha256, is_final=functools.partial(_has_label, policy)
        )
        served = self._endpoint.model
        identity = model_identity(served, sampling, max_text_chars, policy)
        super().__init__(served, identity, self._ask, max_text_chars, policy)

    async def _ask(self, prompts: Sequence[list[Message]]) -> list[ModelReply]:
        replies = await self._endpoint.complete_async([(messages, "") for messages in prompts])
        return [_to_model_reply(reply) for reply in replies]


def _to_model_reply(reply: Reply) -> ModelReply:
    return ModelReply(reply.full_text, reply.finish_reason, reply.error)


def _has_label(policy: Policy, reply: Reply) -> bool:
    """True for a reply worth keeping; the cache does not know the task that was asked."""
    return any(_to_model_reply(reply).judgement(task, policy).label for task in JUDGED_PARTS)
