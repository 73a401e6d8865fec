"""Cost of requests in items: what is generated and judged, however the request is written."""

from pydantic import ValidationError

from safe_r1.serve.chat_request import ChatRequest
from safe_r1.serve.schemas import EvaluateRequest, Item

CHARS_PER_ITEM = 10_000
"""Longer texts count as several items: each beginning ten thousand characters as one."""


def text_items(num_chars: int) -> int:
    """Items that a text counts as."""
    return max(1, -(-num_chars // CHARS_PER_ITEM))


def evaluation_items(request: EvaluateRequest, num_judges: int) -> int:
    """Items that an evaluation counts as: once for each judge, and each model that answers."""
    num_models = max(1, len(request.models))
    found = 0
    for item in request.items:
        # Anything else is only refused.
        if not isinstance(item, Item):
            found += 1
            continue
        found += text_items(item.num_chars) * (num_models if item.answer is None else 1)
    return found * num_judges


def row_items(body: dict[str, object]) -> int:
    """Items that a request of a batch counts as; one that the routes will refuse counts as one."""
    try:
        if "items" in body:
            request = EvaluateRequest.model_validate(body)
            return evaluation_items(request, max(1, len(request.judge_names)))
        if "messages" in body:
            chat = ChatRequest.model_validate(body)
            num_chars = sum(len(turn.to_message()["content"]) for turn in chat.messages)
            return text_items(num_chars) * chat.num_choices
    except ValidationError:
        pass
    return 1
