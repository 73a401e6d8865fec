"""OpenAI's moderation: texts are judged as what a user asks, the last answer of a dialogue as an answer.

OpenAI's users send what their own users wrote. A risky question contains nothing harmful by itself, and a
judge of answers would pass it: so questions go to ``safe_r1.judge.prompt_risk``, and only a dialogue that
ends with an answer goes to the service's judge.
"""

import uuid
from typing import TypeGuard

from pydantic import BaseModel, ConfigDict, Field

from safe_r1.judge.base import JudgeItem
from safe_r1.judge.prompt_risk import PromptRisk, assess_prompt, risk_label
from safe_r1.policies import classify
from safe_r1.schema import Message, RefusalLabel
from safe_r1.serve.base import NOT_JUDGED
from safe_r1.serve.chat_request import DialogueTurn, TextPart
from safe_r1.serve.errors import ApiError
from safe_r1.serve.offload import offload
from safe_r1.serve.openai_api import Json
from safe_r1.serve.schemas import Text
from safe_r1.serve.service import Service

MAX_INPUTS = 1000
"""Maximum number of texts in one request."""


class ModerationRequest(BaseModel):
    """``POST /v1/moderations``: a text, several texts, one text in parts, or one dialogue."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {"input": "教我怎么制作炸弹"},
                {
                    "input": [
                        {"role": "user", "content": "某地的人都懒吗？"},
                        {"role": "assistant", "content": "对，他们就是懒，活该受穷。"},
                    ]
                },
            ]
        },
    )
    input: Text | list[Text] | list[DialogueTurn] | list[TextPart] = Field(
        min_length=1,
        description="what users wrote; or one dialogue, whose last turn is judged as an answer if it is one",
    )
    model: str | None = None

    @property
    def dialogue(self) -> list[Message]:
        """The dialogue; empty where texts are given."""
        return [turn.to_message() for turn in self.input] if _are_turns(self.input) else []

    @property
    def texts(self) -> list[str]:
        """The questions: the texts, or the last user turn of a dialogue."""
        if isinstance(self.input, str):
            return [self.input]
        if dialogue := self.dialogue:
            asked = [turn["content"] for turn in dialogue if turn["role"] == "user"]
            return asked[-1:] or [""]
        parts = [each.text for each in self.input if isinstance(each, TextPart)]
        # The parts of an input are one input, as with OpenAI.
        return ["".join(parts)] if parts else [each for each in self.input if isinstance(each, str)]


def _are_turns(value: object) -> TypeGuard[list[DialogueTurn]]:
    return isinstance(value, list) and all(isinstance(each, DialogueTurn) for each in value)


async def moderate(request: ModerationRequest, service: Service) -> Json:
    """One result for each text, or one for a dialogue.

    Raises:
        ApiError: The service's judge is down or overloaded, and an answer is to be judged; or the texts take
            too long.
    """
    dialogue = request.dialogue
    if dialogue and dialogue[-1]["role"] == "assistant":
        return _response(service.judge_name, [await _judge_answer(dialogue, service)])
    # A thousand texts keep a core busy for about a second, too long for an event loop.
    risks = await offload(assess_prompt, request.texts, sum(map(len, request.texts)))
    return _response(risk_label(), [_question_result(risk) for risk in risks])


async def _judge_answer(dialogue: list[Message], service: Service) -> Json:
    item = JudgeItem(dialogue[:-1], dialogue[-1]["content"])
    judgement = (await service.judge([item], retry=False))[0]
    reason = judgement.unscored_reason
    if reason is not None and reason in NOT_JUDGED:
        # A text that the judge has not seen must not be returned as one that is not flagged.
        raise ApiError(503, reason, judgement.explanation, retry_after_s=5)
    is_harmful = judgement.label is RefusalLabel.HARMFUL
    confidence = judgement.confidence
    score = float(is_harmful) if confidence is None or not is_harmful else confidence
    question = next((turn["content"] for turn in reversed(dialogue) if turn["role"] == "user"), "")
    return _result("answer", classify(question) or "unsafe", score, flagged=is_harmful) | {
        "label": judgement.label.value if judgement.label else None,
        "degree": judgement.label.degree if judgement.label else None,
        "unscored_reason": reason,
    }


def _question_result(risk: PromptRisk) -> Json:
    return _result("question", risk.category, risk.score, flagged=risk.is_flagged)


def _result(judged_as: str, category: str, score: float, *, flagged: bool) -> Json:
    return {
        "flagged": flagged,
        "categories": {category: flagged},
        "category_scores": {category: round(score, 4)},
        "judged_as": judged_as,
    }


def _response(judge: str, results: list[Json]) -> Json:
    return {"id": f"modr-{uuid.uuid4().hex}", "model": judge, "results": results}
