"""The judge behind an OpenAI-compatible endpoint.

A row that the endpoint declines (content filter, over-long prompt) is unscored with a reason; an endpoint
that cannot be used at all raises ``JudgeError`` at once, and rows judged before that stay in the cache.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from safe_r1.errors import JudgeError
from safe_r1.inference.endpoint import ChatEndpoint, Prompt, Reply
from safe_r1.judge.base import JudgeItem, Judgement
from safe_r1.judge.prompt import MAX_TEXT_CHARS, PROMPT_SHA256, PROMPT_VERSION, judge_messages
from safe_r1.judge.verdict import read_reply
from safe_r1.schema import Task

logger = logging.getLogger(__name__)


class EndpointJudge:
    """An LLM judge at any OpenAI-compatible URL.

    Attributes:
        name: Model, prompt hash and sampling settings; no URL, no credentials.
        model: The model that is asked.
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
    ):
        """Set the judge up; the settings are those of ``ChatEndpoint``.

        Args:
            max_tokens: Longest reply, with the reasoning of a reasoning judge.
            max_text_chars: A longer text is judged without its middle.

        Raises:
            ConfigError: A URL that is none, or a limit below 1.
            JudgeError: No model was named and the endpoint does not serve exactly one.
        """
        self._endpoint = ChatEndpoint(
            base_url,
            model,
            title="judge endpoint",
            api_key_variable="SAFE_R1_JUDGE_API_KEY",
            api_key=api_key,
            concurrency=concurrency,
            timeout_s=timeout_s,
            max_retries=max_retries,
            cache_dir=cache_dir,
            salt=PROMPT_SHA256,
            sampling={"temperature": temperature, "max_tokens": max_tokens},
            error=JudgeError,
            is_final=lambda reply: any(_judgement(reply, task).label for task in ("refusal", "over_refusal")),
        )
        self._max_text_chars = max_text_chars
        self.model = self._endpoint.model
        self.name = f"{self.model}-{PROMPT_VERSION}-t{temperature:g}-{max_tokens}-{max_text_chars}"

    def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        """Judge all items, in order; see ``Judge.judge``. Works inside a running event loop as well, blocking
        it.

        Raises:
            JudgeError: The endpoint is down, rejects the credentials, does not know the model, or answers no
                row.
            StorageError: The cache folder cannot be used.
        """
        return self._judgements(items, self._endpoint.complete(self._prompts(items)))

    async def judge_async(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        """``judge`` for callers with an event loop of their own."""
        return self._judgements(items, await self._endpoint.complete_async(self._prompts(items)))

    def _prompts(self, items: Sequence[JudgeItem]) -> list[Prompt]:
        return [(judge_messages(item, max_text_chars=self._max_text_chars), "") for item in items]

    def _judgements(self, items: Sequence[JudgeItem], replies: Sequence[Reply]) -> list[Judgement]:
        judgements = [_judgement(reply, item.task) for item, reply in zip(items, replies, strict=True)]
        logger.info(
            "judge %s: %d of %d rows unscored",
            self.name,
            sum(j.label is None for j in judgements),
            len(judgements),
        )
        return judgements


def _judgement(reply: Reply, task: Task) -> Judgement:
    if reply.text is None:
        return Judgement(None, "judge_error", reply.error)
    judgement = read_reply(reply.text, task)
    if judgement.label is None and reply.finish_reason == "length":
        return Judgement(None, "truncated", judgement.explanation)
    return judgement
