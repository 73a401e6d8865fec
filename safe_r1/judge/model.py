"""A chat model asked with the judge's prompt: prompt, call, and how its reply is read.

The one implementation behind an endpoint, an engine of a batch job and a served model. Workers of a batch
job, which have the replies already, use ``Policy.read`` alone; it needs neither torch nor ray.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from safe_r1.judge.base import JudgeItem, Judgement, content_identity
from safe_r1.judge.pieces import PIECES_VERSION, pieces_for_model, worst
from safe_r1.judge.policy import BUILT_IN, Policy
from safe_r1.judge.prompt import MAX_DIALOGUE_CHARS, MAX_TEXT_CHARS
from safe_r1.schema import Message, Task, Unscored

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelReply:
    """Result of one call of a judging model.

    Attributes:
        text: The reply as generated; None where the call failed.
        finish_reason: ``stop`` or ``length``.
        error: Why the call failed.
        unscored: The reason without a label that goes with ``error``.
    """

    text: str | None
    finish_reason: str | None = None
    error: str = ""
    unscored: Unscored = Unscored.JUDGE_ERROR

    def judgement(self, task: Task, policy: Policy = BUILT_IN) -> Judgement:
        """The reply as a judgement on an item of ``task``."""
        if self.text is None:
            return Judgement(None, self.unscored, self.error)
        return policy.read(self.text, self.finish_reason, task)


Complete = Callable[[list[Message], int], Awaitable[ModelReply]]
"""Sends one dialogue to the model; the number is the longest reply in tokens."""

CompleteAll = Callable[[Sequence[list[Message]]], Awaitable[Sequence[ModelReply]]]
"""Sends several dialogues; the replies come in the same order."""


class ModelJudge:
    """A chat model that judges; implements ``safe_r1.judge.base.Judge``.

    Attributes:
        name: Name of the model.
        identity: See ``model_identity``.
    """

    def __init__(
        self,
        name: str,
        identity: str,
        complete_all: CompleteAll,
        max_text_chars: int = MAX_TEXT_CHARS,
        policy: Policy = BUILT_IN,
    ):
        self.name = name
        self.identity = identity
        self._complete_all = complete_all
        self._max_text_chars = max_text_chars
        self._policy = policy

    async def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        """Judge all items, in order; a call that fails leaves its item unscored. See ``Judge.judge``.

        A text above the limit is judged in pieces, each with a call.
        """
        pieces = [pieces_for_model(item, self._max_text_chars) for item in items]
        prompts = [
            self._policy.messages(piece, self._max_text_chars) for of_item in pieces for piece in of_item
        ]
        replies = iter(await self._complete_all(prompts))
        judgements = [
            worst([next(replies).judgement(piece.task, self._policy) for piece in of_item])
            for of_item in pieces
        ]
        logger.info(
            "judge %s: %d of %d rows unscored",
            self.name,
            sum(judgement.label is None for judgement in judgements),
            len(judgements),
        )
        return judgements


def model_identity(
    model: str,
    sampling: Mapping[str, object],
    max_text_chars: int = MAX_TEXT_CHARS,
    policy: Policy = BUILT_IN,
) -> str:
    """Identity of a judging model: the model, the prompt, the sampling settings and the text limits.

    Args:
        model: The identity of the weights, or the name under which an endpoint serves the model.
        sampling: ``temperature``, ``max_tokens`` and so on.
        max_text_chars: Length from which a text is judged in pieces.
        policy: Prompt and labels.
    """
    limits = {
        "max_text_chars": max_text_chars,
        "max_dialogue_chars": MAX_DIALOGUE_CHARS,
        "pieces": PIECES_VERSION,
    }
    settings = {**sampling, **limits}
    return content_identity(model, policy.sha256, json.dumps(settings, sort_keys=True))
