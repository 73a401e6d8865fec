"""How providers say that their content filter took a prompt or a reply.

A block is an outcome of its own: neither an error of the endpoint, nor an answer of the model.

Source: the error pages of DeepSeek ("Content Exists Risk"), Azure OpenAI (``content_filter``), DashScope
(``data_inspection_failed``), Zhipu (1301), Moonshot and Volcengine, as of 2026; DeepSeek's end check as users
report it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

Block = Literal["input", "output"]

# Codes that mean a block whatever the status is.
_CODES = frozenset(
    {
        "1301",
        "content_filter",
        "content_policy_violation",
        "data_inspection_failed",
        "datainspectionfailed",
        "responsibleaipolicyviolation",
        "sensitivecontentdetected",
    }
)
# Wordings that mean a block in an error about one request. Plain alternatives, so that the search is linear.
_IN_ERROR = re.compile(
    r"content exists risk|content[_ ]filter|content policy|content management policy|responsibleaipolicy"
    r"|data[_ ]?inspection[_ ]?failed|inappropriate content|sensitive ?content|considered high risk"
    r"|不安全或敏感内容|敏感内容|违规内容",
    re.I,
)
# Words that errors of other kinds use too: what they mean, only a probe can tell.
_VAGUE = re.compile(r"moderation|risk|safety|sensitive|policy|inappropriate|敏感|违规|不合规|安全", re.I)
# Where the wording says that the reply and not the prompt was taken.
_OF_OUTPUT = re.compile(r"output (?:data|text|content)|generated content|输出", re.I)
_FINISH_REASONS = frozenset(
    {"content_filter", "sensitive", "safety", "prohibited_content", "blocked", "risk"}
)
# Of errors that are about one request; 429 and 5xx are about the endpoint unless their code says otherwise.
_STATUSES = (200, 400, 403, 422, 451)
# DeepSeek checks the whole reply at its end, and then appends this to what it has sent.
_APPENDED = (
    "你好，这个问题我暂时无法回答，让我们换个话题再聊聊吧。",
    "这个问题我暂时无法回答，让我们换个话题再聊聊吧。",
    "Sorry, that's beyond my current scope. Let's talk about something else.",
    "Sorry, I'm not sure how to approach this type of question yet. Let's chat about math, coding, and logic "
    "problems instead!",
)


def block_in_error(
    status: int, code: str, text: str, body: object = None, patterns: Sequence[str] = ()
) -> Block | None:
    """What an error says was blocked; None where it speaks of no content filter.

    Args:
        status: HTTP status; 200 for an error in the body of a success.
        code: The server's code.
        text: Message of the error, and what else it says.
        body: Its parsed body, if any.
        patterns: Further texts that mean a block.
    """
    lowered = text.lower()
    is_block = code.lower() in _CODES or any(pattern.lower() in lowered for pattern in patterns)
    if not is_block and not (status in _STATUSES and _IN_ERROR.search(text)):
        return None
    return "output" if _OF_OUTPUT.search(text) or "assistant" in _filtered_roles(body) else "input"


def may_be_block(text: str) -> bool:
    """Whether the wording of an error is one that blocks have, among others."""
    return _VAGUE.search(text) is not None


def _filtered_roles(body: object) -> set[str]:
    """Zhipu's list of what was filtered: ``contentFilter: [{"role": "assistant", "level": 1}]``."""
    filters = body.get("contentFilter", body.get("content_filter")) if isinstance(body, Mapping) else None
    entries = filters if isinstance(filters, list) else []
    return {str(entry.get("role")) for entry in entries if isinstance(entry, Mapping)}


def is_block(finish_reason: object) -> bool:
    """Whether a reply ended because of the provider's filter."""
    return isinstance(finish_reason, str) and finish_reason.lower() in _FINISH_REASONS


def without_appended_refusal(text: str) -> str | None:
    """The text before a refusal that the provider appended to it; None where there is none.

    A reply that holds that sentence alone is an answer: a model may refuse in these words itself.
    """
    stripped = text.rstrip()
    if stripped in _APPENDED:
        return None
    for sentence in _APPENDED:
        if stripped.endswith(sentence) and (before := stripped.removesuffix(sentence).rstrip()):
            return before
    return None
