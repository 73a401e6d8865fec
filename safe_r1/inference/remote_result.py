"""From the reply of an endpoint to a row as the job reads results of engines."""

from dataclasses import replace

from safe_r1.inference.endpoint_session import Call
from safe_r1.inference.reply_cache import Reply
from safe_r1.inference.requests import EngineResult, Request
from safe_r1.models.reasoning import split_reasoning
from safe_r1.schema import Message

NO_USAGE = "usage"
"""Key among the adaptations for tokens that are estimated."""


def with_usage(request: Request, reply: Reply, adaptations: dict[str, str]) -> Reply:
    """The reply with its tokens estimated where the endpoint does not say: a limit of cost has to hold."""
    sent = reply.full_text or reply.partial
    if not sent or reply.completion_tokens:
        return reply
    adaptations[NO_USAGE] = "the endpoint reports no usage: tokens are estimated"
    tokens = Call([Message(role="assistant", content=sent)]).prompt_tokens
    return replace(
        reply,
        prompt_tokens=reply.prompt_tokens or Call(request.messages).prompt_tokens,
        completion_tokens=max(1, tokens),
    )


def to_result(request: Request, reply: Reply) -> EngineResult:
    """The reply as the job reads results of engines."""
    text, parts = _parts(reply)
    result: EngineResult = {
        "key": request.key,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "text": text,
        "finish_reason": None if reply.text is None and not reply.blocked else reply.finish_reason,
        "error": reply.error if reply.text is None and not reply.blocked else None,
        "parts": parts,
        "blocked": reply.blocked or None,
        "served_by": reply.served_by or None,
    }
    if result["error"] and not reply.is_row_fault:
        result["is_lost"] = True
    return result


def _parts(reply: Reply) -> tuple[str, tuple[str, str | None]]:
    """The whole text of a reply, and its reasoning and answer."""
    if reply.blocked:
        # What was sent before the block is no answer.
        sent = replace(reply, text=reply.partial).full_text or ""
        return sent, (reply.reasoning or split_reasoning(reply.partial)[0], None)
    text = reply.full_text or ""
    if not (reply.text or "").strip() and reply.finish_reason == "length":
        # Cut before the answer began, wherever the reasoning was: no answer is not an empty one.
        return text, (reply.reasoning or split_reasoning(text)[0], None)
    if not reply.text or not reply.reasoning or "</think>" in reply.text:
        return text, split_reasoning(text)
    # As the endpoint sends them: a reasoning that mentions the tag would be split elsewhere.
    return text, (reply.reasoning.strip(), reply.text.strip())
