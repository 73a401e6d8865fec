"""What an engine's server replies, as chunks of a completion."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from safe_r1.serve.base import Chunk, TokenLogprob
from safe_r1.serve.errors import ApiError
from safe_r1.serve.token_text import TokenText

# JSON of vLLM's server, which no type describes.
EngineReply = BaseModel | Mapping[str, Any] | str | list[str]
_BAD_REQUEST = 400


def read_chunks(reply: EngineReply, token_text: TokenText, num_top: int = 0) -> list[Chunk]:
    """Chunks of a reply from the engine's server: a whole response, an error, or server-sent events.

    Args:
        reply: What came from the engine.
        token_text: Of the model's tokenizer.
        num_top: Likeliest tokens that were asked for; the engine adds the sampled one.

    Raises:
        ApiError: The reply is an error.
    """
    # vLLM's server joins the events of several steps in one reply.
    if isinstance(reply, (list, str)):
        lines = "".join(reply).splitlines()
        events = [line[6:] for line in lines if line.startswith("data: ") and line != "data: [DONE]"]
        return [chunk for event in events for chunk in read_chunks(json.loads(event), token_text, num_top)]
    body = reply.model_dump() if isinstance(reply, BaseModel) else reply
    if error := body.get("error"):
        status = int(error.get("code") or 500)
        code = "invalid_request" if status == _BAD_REQUEST else "engine_error"
        raise ApiError(status, code, error.get("message") or "the engine reported an error")
    usage = body.get("usage") or {}
    counts = (usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
    choices = body.get("choices") or []
    if not choices:
        return [Chunk("", None, *counts)] if usage else []
    return [
        Chunk(
            choice["text"],
            choice.get("finish_reason"),
            *counts,
            index=choice.get("index") or 0,
            logprobs=_read_logprobs(choice.get("logprobs"), token_text, num_top),
        )
        for choice in choices
    ]


def _read_logprobs(
    found: Mapping[str, Any] | None, token_text: TokenText, num_top: int
) -> tuple[TokenLogprob, ...]:
    """Log probabilities of the engine, whose tokens are named by their numbers; the likeliest first."""
    if not found:
        return ()
    rows = zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True)
    return tuple(
        token_text.logprob(
            token,
            logprob,
            tuple(
                token_text.logprob(name, value)
                for name, value in sorted((top or {}).items(), key=lambda pair: -pair[1])[:num_top]
            ),
        )
        for token, logprob, top in rows
    )
