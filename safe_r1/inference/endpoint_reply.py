"""What an endpoint's answers and errors say; servers are not always faithful to OpenAI's types."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import openai

from safe_r1.inference.blocks import Block, block_in_error, is_block, may_be_block, without_appended_refusal
from safe_r1.inference.reply_cache import Reply
from safe_r1.records.text import clean
from safe_r1.schema import Message

_TOO_LONG = re.compile(
    r"context.?length|maximum context|too (?:long|many tokens)|max_model_len|string_above_max"
    r"|reduce the length|input length|prompt is too|超出|过长",
    re.I,
)
# How a server says that it does not take a parameter, or not this value of it.
_NOT_TAKEN = re.compile(
    r"support|unknown|unrecognized|unexpected|not (?:allowed|permitted|available)|extra|invalid|only|must be"
    r"|should be|range|deprecated|不支持|未知|无效|非法|取值|必须|范围",
    re.I,
)
# MiniMax answers with HTTP 200 whatever happened: its own codes, as the statuses of others that say the same.
_MINIMAX_STATUSES = {
    1000: 500,  # unknown error
    1001: 504,  # request timeout
    1002: 429,  # rate limit
    1004: 401,  # not authorized
    1008: 402,  # insufficient balance
    1024: 500,  # internal error
    1033: 500,  # system error
    1039: 429,  # token limit
    1041: 429,  # connection limit
    2045: 429,  # rate growth limit
    2049: 401,  # invalid API key
}
# A reply that the provider could not finish is no answer. Zhipu: "network_error"; DeepSeek:
# "insufficient_system_resource"; OpenRouter: "error". Source: each one's page of chat completions.
_INTERRUPTED = frozenset({"network_error", "insufficient_system_resource", "error"})
_MAX_ERROR_CHARS = 600
# Of an error's text that is searched and redacted.
_MAX_READ_CHARS = 20_000
_NUMBER = re.compile(r"\d{1,9}")
_PROMPT_START_CHARS = 24
# No model has completed so many tokens; larger counts are no counts.
_MAX_TOKENS = 10**8
# Of names that a server reports and rows keep.
_MAX_NAME_CHARS = 200


@dataclass(frozen=True)
class Refusal:
    """An answer of the endpoint that declines one request.

    Attributes:
        status: HTTP status, or the one that an error in the body of a success stands for; 200 where it is not
            known.
        text: One line for messages.
        blocked: What the provider's content filter took; None where the error speaks of none.
        parameter: Name of a parameter that the server names as the reason.
        code: The server's code.
    """

    status: int
    text: str
    blocked: Block | None = None
    parameter: str | None = None
    code: str = ""

    @property
    def is_too_long(self) -> bool:
        """True where the prompt does not fit into the model's context."""
        return self.status == 413 or _TOO_LONG.search(self.text) is not None

    @property
    def may_be_block(self) -> bool:
        """True where the wording is one that blocks have, among others."""
        return self.status in (400, 403, 422, 451) and may_be_block(self.text)

    @property
    def is_busy(self) -> bool:
        """True where the same request may succeed later."""
        return self.blocked is None and (self.status in (408, 409, 425, 429) or self.status >= 500)

    @property
    def concerns_all(self) -> bool:
        """True where no request can succeed: credentials, address, or an account without credit."""
        if self.blocked is not None:
            return False
        is_redirect = 300 <= self.status < 400
        return is_redirect or self.status in (401, 402, 403, 404) or self.code == "insufficient_quota"

    @property
    def wording(self) -> str:
        """The text without what differs from request to request."""
        return _NUMBER.sub("#", self.text)

    def refused_parameter(self, sent: Mapping[str, Any], messages: Sequence[Message]) -> str | None:
        """The parameter of a request that the server refuses; None where it names none of them."""
        if self.blocked is not None or self.is_too_long or self.status not in (200, 400, 422):
            return None
        if self.parameter in sent:
            return self.parameter
        # A server that repeats the request in its error may name a parameter for that reason alone.
        starts = [turn["content"][:_PROMPT_START_CHARS] for turn in messages if turn["content"]]
        if not _NOT_TAKEN.search(self.text) or any(start in self.text for start in starts):
            return None
        return next((name for name in sent if re.search(rf"\b{re.escape(name)}\b", self.text)), None)

    def largest_number_below(self, value: int) -> int | None:
        """The largest number in the text that is smaller than a value: the limit that a server names."""
        return max(
            (number for each in _NUMBER.findall(self.text) if 1 < (number := int(each)) < value), default=None
        )


def read_refusal(
    error: openai.APIStatusError, patterns: Sequence[str], redact: Callable[[str], str]
) -> Refusal:
    """What an error status says.

    Args:
        error: The client's error.
        patterns: Further texts that mean a block.
        redact: Takes secrets out of a server's text.
    """
    try:
        # The client keeps the inner error alone; what was filtered may stand beside it.
        body = error.response.json()
    except (ValueError, RecursionError):
        body = error.body
    try:
        return _refusal(error.status_code, error.message, body, patterns, redact)
    except RecursionError:
        return _refusal(error.status_code, "the error is nested too deep", None, patterns, redact)


def _refusal(
    status: int, message: str, body: object, patterns: Sequence[str], redact: Callable[[str], str]
) -> Refusal:
    fields = body if isinstance(body, Mapping) else {}
    inner = fields.get("error")
    fields = inner if isinstance(inner, Mapping) else fields
    codes = [str(fields[name])[:_MAX_NAME_CHARS] for name in ("code", "type") if fields.get(name)]
    code = codes[0] if codes else ""
    # FastAPI's servers name it detail.
    said = str(fields.get("message") or fields.get("detail") or message)[:_MAX_READ_CHARS]
    # Redacted before it is cut: a secret at the cut would stay in part.
    text = clean(redact(" ".join(f"HTTP {status}: {code} {said}".split())))[:_MAX_ERROR_CHARS]
    blocked = None
    # Errors about lengths name numbers and policies too.
    if status != 413 and not _TOO_LONG.search(said):
        everything = f"{' '.join(codes)} {said} {fields.get('innererror', '')}"[: 2 * _MAX_READ_CHARS]
        blocked = block_in_error(status, codes, everything, body, patterns)
    parameter = fields.get("param")
    return Refusal(status, text, blocked, parameter if isinstance(parameter, str) else None, code)


def read_completion(answer: Any, patterns: Sequence[str], redact: Callable[[str], str]) -> Reply | Refusal:
    """The reply in what the openai client made of a success.

    Args:
        answer: A ``ChatCompletion``, a ``Completion``, or whatever else the server sent.
        patterns: Further texts that mean a block.
        redact: Takes secrets out of a server's text.
    """
    status, failure = _failure_of(answer)
    if failure:
        body = failure if isinstance(failure, Mapping) else {"message": str(failure)}
        refusal = replace(_refusal(200, "", body, patterns, redact), status=status)
        return refusal if refusal.blocked or status != 200 else Reply(None, error=refusal.text)
    try:
        choice = answer.choices[0]
        # The choice of a completion of plain text has no message.
        message = getattr(choice, "message", None)
        content = choice.text if message is None else message.content
    except (AttributeError, LookupError, TypeError):
        return Reply(None, error=_no_choices(answer))

    def safe(value: str) -> str:
        return redact(clean(value))

    given_reason = getattr(choice, "finish_reason", None)
    finish_reason = safe(given_reason)[:_MAX_NAME_CHARS] if isinstance(given_reason, str) else None
    if finish_reason in _INTERRUPTED:
        return Refusal(500, f"the provider interrupted the reply (finish_reason {finish_reason})")
    if content is not None and not isinstance(content, str):
        return Reply(None, error=f"the reply's content is a {type(content).__name__}; expected a text")
    text = safe(content or "")
    if not text and getattr(message, "tool_calls", None):
        return Reply(None, error="the reply is a call of a tool, not a text", is_row_fault=True)
    reasoning = next(
        (
            safe(value)
            for name in ("reasoning_content", "reasoning")
            if isinstance(value := getattr(message, name, None), str) and value
        ),
        "",
    )
    usage = getattr(answer, "usage", None)
    served = [getattr(answer, name, None) for name in ("model", "system_fingerprint")]
    reply = Reply(
        text,
        finish_reason,
        prompt_tokens=_count(getattr(usage, "prompt_tokens", None)),
        completion_tokens=_count(getattr(usage, "completion_tokens", None)),
        reasoning=reasoning,
        served_by=safe(" ".join(each[:_MAX_NAME_CHARS] for each in served if isinstance(each, str))),
    )
    sent = without_appended_refusal(text)
    if is_block(finish_reason) or sent is not None:
        return _blocked(reply, text if sent is None else sent)
    return reply


def _count(value: object) -> int:
    """A number of tokens, which some servers send as a text; 0 where it is none."""
    if isinstance(value, str) and len(value) < len(str(_MAX_TOKENS)) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 <= value <= _MAX_TOKENS else 0


def _failure_of(answer: object) -> tuple[int, object]:
    """Status and error in the body of a success; an empty error where there is none."""
    if error := getattr(answer, "error", None):
        return 200, error
    base = getattr(answer, "base_resp", None)
    if not isinstance(base, Mapping) or not (code := base.get("status_code")):
        return 200, None
    status = _MINIMAX_STATUSES.get(code, 200) if isinstance(code, int) else 200
    return status, {"code": code, "message": base.get("status_msg")}


def _no_choices(answer: object) -> str:
    """What a server sent that is no completion."""
    start = answer.lstrip()[:20].lower() if isinstance(answer, str) else ""
    if start.startswith("<"):
        return "the reply is HTML: is the URL that of the API, such as https://HOST/v1?"
    if start.startswith(("data:", "event:", ":")):
        return "the reply is a stream of events, which was not asked for: is the API OpenAI-compatible?"
    return "the reply holds no choices: is the URL that of the API, such as https://HOST/v1?"


def _blocked(reply: Reply, sent: str) -> Reply:
    """A reply that the provider's filter ended, with what was sent of it."""
    return Reply(
        None,
        reply.finish_reason,
        "the endpoint's content filter stopped the reply",
        True,
        reply.prompt_tokens,
        reply.completion_tokens,
        reply.reasoning,
        blocked="output",
        partial=sent,
        served_by=reply.served_by,
    )
