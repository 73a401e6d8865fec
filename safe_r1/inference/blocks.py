"""How providers say that their content filter took a prompt or a reply.

A block is an outcome of its own: neither an error of the endpoint, nor an answer of the model.

Source, by provider (pages and issues as of November 2026):

- DeepSeek: 400 "Content Exists Risk" (github.com/666ghj/BettaFish/issues/108, older replies with ``detail``:
  github.com/deepseek-ai/DeepSeek-V2/issues/30); the end check as users report it.
- Azure OpenAI: 400 ``content_filter`` with ``innererror.code`` ``ResponsibleAIPolicyViolation``, or
  ``finish_reason`` (learn.microsoft.com, "content filtering"; github.com/microsoft/azurechat/issues/351).
- OpenAI's reasoning models: 400 ``invalid_prompt``, "flagged as potentially violating our usage policy".
- DashScope: 400 ``data_inspection_failed``, or ``DataInspectionFailed`` inside the message
  (github.com/camel-ai/owl/issues/432, github.com/QwenLM/qwen-code/issues/3145).
- Zhipu: 400 with code 1301, and beside the error ``contentFilter`` with the role; ``finish_reason``
  ``sensitive`` (docs.z.ai/api-reference/api-code, github.com/langchain4j/langchain4j/issues/1079).
- Moonshot: 400 of type ``content_filter``, "considered high risk"
  (github.com/MoonshotAI/kimi-cli/issues/1002).
- Volcengine Ark: codes with the side in their name and details after a dot
  (docs.byteplus.com/en/docs/ModelArk/1299023).
- MiniMax: "input new_sensitive (1026)", "output new_sensitive (1027)", as an error or in ``base_resp`` of a
  success (platform.minimax.io/docs/api-reference/errorcode.md).
- Tencent Hunyuan: ``finish_reason`` ``sensitive``. Gateways of the One API family:
  ``sensitive_words_detected`` (github.com/openai/openai-cookbook/issues/1224).

No wording of Baidu Qianfan and SiliconFlow was found: a probe recognises them, or ``block_patterns``.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

Block = Literal["input", "output"]

# Codes that mean a block whatever the status is, without the details that follow a dot.
_CODES = frozenset(
    {
        "1301",
        "content_filter",
        "content_policy_violation",
        "data_inspection_failed",
        "datainspectionfailed",
        "inputtextriskdetection",
        "inputtextsensitivecontentdetected",
        "outputtextriskdetection",
        "outputtextsensitivecontentdetected",
        "prompt_blocked",
        "responsibleaipolicyviolation",
        "sensitive_words_detected",
        "sensitivecontentdetected",
    }
)
# Words that nothing but a filter says, so that they mean a block whatever the status is.
_CERTAIN = re.compile(r"(?:input|output) new_sensitive|DataInspectionFailed", re.I)
# Wordings that mean a block in an error about one request. Plain alternatives, so that the search is linear.
_IN_ERROR = re.compile(
    r"content exists risk|content[_ ]filter|content policy|content management policy|responsibleaipolicy"
    r"|data[_ ]?inspection[_ ]?failed|inappropriate content|sensitive ?content"
    r"|may contain sensitive|sensitive words|considered high risk|potentially violating our usage policy"
    r"|不安全或敏感内容|敏感内容|违规内容",
    re.I,
)
# Words that errors of other kinds use too: what they mean, only a probe can tell.
_VAGUE = re.compile(r"moderation|risk|safety|sensitive|policy|inappropriate|敏感|违规|不合规|安全", re.I)
# Where the wording says that the reply and not the prompt was taken. "Input or output data" leaves it open,
# and a filter that sends nothing at all is counted as that of the prompt.
_OF_OUTPUT = re.compile(
    r"(?<!input or )output ?(?:data|text|content|new_sensitive)|generated content|输出", re.I
)
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
    status: int, codes: Sequence[str], text: str, body: object = None, patterns: Sequence[str] = ()
) -> Block | None:
    """What an error says was blocked; None where it speaks of no content filter.

    Args:
        status: HTTP status; 200 for an error in the body of a success.
        codes: The server's code and type of the error.
        text: Message of the error, its codes, and what else it says.
        body: The whole parsed body, if any.
        patterns: Further texts that mean a block.
    """
    lowered = text.lower()
    is_block = (
        any(code.lower().partition(".")[0] in _CODES for code in codes)
        or any(pattern.lower() in lowered for pattern in patterns)
        or _CERTAIN.search(text) is not None
    )
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
