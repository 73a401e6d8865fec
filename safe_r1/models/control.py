"""Text that a template or tokenizer reserves: control tokens, and the markers of a turn's author.

In a text to learn it teaches a model to write the next turn itself, or to stop in the middle of one.
"""

import functools
import re
from typing import TYPE_CHECKING

from safe_r1.errors import ModelError
from safe_r1.models.prompts import PromptFormat, render_probe
from safe_r1.schema import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_THINKING = ("<think>", "</think>")
# Added tokens that are not special are control tokens by their form, as <|im_start|>, <tool_call> or
# [TOOL_CALLS]; others are words, spaces or HTML tags that a text may hold.
_CONTROL_FORM = re.compile(r"<[|｜][^<>]{1,60}[|｜]>|</?[a-z]+(?:_[a-z]+)+>|\[/?[A-Z]+(?:_[A-Z]+)*\]")
# Below this, what stands before a turn is no marker of its own, as a line break or a quote.
_MIN_MARKER_CHARS = 4
_PLAIN_MARKERS = ("问题：", "说明：", "回答：")
_USER, _ASSISTANT = "safe_r1 probe user", "safe_r1 probe assistant"


@functools.lru_cache(maxsize=8)
def control_text(tokenizer: "PreTrainedTokenizerBase", prompt: PromptFormat) -> re.Pattern[str]:
    """A pattern that finds reserved text in linear time.

    Args:
        tokenizer: The model's own.
        prompt: How the model is prompted; its thinking tags may be learned.

    Returns:
        Matches control tokens anywhere, and markers of an author that are plain words at the beginning of a
        line but the first: an answer may begin with any word.
    """
    tags = prompt.thinking_tags
    allowed = {*_THINKING, *((tags.open, tags.close) if tags else ())}
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(map(str, tokenizer.all_special_tokens))
    forms = {token.content for token in tokenizer.added_tokens_decoder.values()} - special
    # Some models pad with a plain "!", which is a text like any other.
    ends = {str(tokenizer.eos_token), prompt.end_of_turn}
    anywhere = {token for token in special if any(map(str.isalpha, token)) or token in ends}
    anywhere |= {token for token in forms if _CONTROL_FORM.fullmatch(token.strip())}
    anywhere = {token for token in anywhere if token.strip()} - allowed
    markers = _author_markers(tokenizer, prompt)
    anywhere |= {marker for marker in markers if _CONTROL_FORM.search(marker)}
    lines = markers - anywhere
    alternatives = [re.escape(text) for text in sorted(anywhere, key=lambda text: (-len(text), text))]
    alternatives += [rf"\n[ \t]{{0,8}}{re.escape(marker)}" for marker in sorted(lines)]
    return re.compile("|".join(alternatives) or r"(?!)")


def _author_markers(tokenizer: "PreTrainedTokenizerBase", prompt: PromptFormat) -> set[str]:
    """What the template writes before the content of a user and of an assistant turn, without blanks."""
    if prompt.style in ("plain", "raw") or not tokenizer.chat_template:
        return set(_PLAIN_MARKERS) if prompt.style == "plain" else set()
    turns = [
        Message(role="user", content=_USER),
        Message(role="assistant", content=_ASSISTANT),
        Message(role="user", content=_USER),
    ]
    try:
        text = render_probe(turns, tokenizer, add_generation_prompt=False)
    except ModelError:
        # It takes one turn, after which no other is marked.
        return set()
    before_answer, _, rest = text.partition(_USER)[2].partition(_ASSISTANT)
    # The next header follows the end of the assistant's turn, which marks no author.
    headers = (before_answer, rest.partition(_USER)[0].replace(prompt.end_of_turn or "\0", "", 1))
    markers = {header.strip().splitlines()[-1].strip() for header in headers if header.strip()}
    return {marker for marker in markers if len(marker) >= _MIN_MARKER_CHARS}
