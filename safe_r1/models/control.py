"""Text that a template or tokenizer reserves: control tokens, and the markers of a turn's author.

In a text to learn it teaches a model to write the next turn itself, or to stop in the middle of one. In a
question or a judged text it would open a turn that nobody gave: ``as_text`` makes it plain text in prompts.
"""

import functools
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from safe_r1.errors import ModelError
from safe_r1.models.prompts import PromptFormat, render_probe
from safe_r1.schema import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_THINKING = ("<think>", "</think>")
_TAG = re.compile("</?think>")
# Added tokens that are not special are control tokens by their form, as <|im_start|>, <tool_call> or
# [TOOL_CALLS]; others are words, spaces or HTML tags that a text may hold.
_CONTROL_FORM = re.compile(r"<[|｜][^<>]{1,60}[|｜]>|</?[a-z]+(?:_[a-z]+)+>|\[/?[A-Z]+(?:_[A-Z]+)*\]")
# Below this, what stands before a turn is no marker of its own, as a line break or a quote.
_MIN_MARKER_CHARS = 4
_PLAIN_MARKERS = ("问题：", "说明：", "回答：")
# Invisible, and no tokenizer of a chat model drops it.
_JOINER = "\u2060"
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
    anywhere, lines = _reserved(tokenizer, prompt)
    return _pattern(anywhere, lines, "\n")


def as_text(
    content: str, tokenizer: "PreTrainedTokenizerBase", prompt: PromptFormat, *, keep_tags: bool = False
) -> str:
    """The content of a turn, in which no reserved text is left.

    An invisible word joiner (U+2060) goes before the last character of a control token or marker: a model
    still reads what was written, but as text. Any other content stays as it is, character by character.

    Args:
        content: Of one turn; untrusted.
        tokenizer: The model's own.
        prompt: How the model is prompted. A prompt of style ``raw`` holds control tokens of its own, and
            stays as it is.
        keep_tags: Leave thinking tags: in a turn of an assistant, whose thoughts they enclose, or in a prompt
            of this project that names them.
    """
    if prompt.style == "raw":
        return content
    pattern = _reserved_in_prompt(tokenizer, prompt, keep_tags)
    # Once more where control tokens overlap; each insertion breaks one at least and makes none.
    while pattern.search(content):
        content = pattern.sub(_broken, content)
    return content


def tags_as_text(text: str) -> str:
    """A text inside a prompt whose thinking tags are kept (see ``as_text``), with its own tags made text."""
    return _TAG.sub(_broken, text)


def _broken(found: re.Match[str]) -> str:
    return found[0][:-1] + _JOINER + found[0][-1]


@functools.lru_cache(maxsize=16)
def _reserved_in_prompt(
    tokenizer: "PreTrainedTokenizerBase", prompt: PromptFormat, keep_tags: bool
) -> re.Pattern[str]:
    """Like ``control_text``, for a turn that a template renders."""
    anywhere, lines = _reserved(tokenizer, prompt)
    if not keep_tags:
        anywhere = anywhere | _thinking_tags(tokenizer, prompt)
    # A token of one character cannot be told from text.
    anywhere = {token for token in anywhere if len(token) > 1}
    # Where a template begins contents on a line of their own, a marker may stand at their beginning as well.
    return _pattern(anywhere, lines, r"(?:\A|\n)" if _begins_line(tokenizer, prompt) else "\n")


def _thinking_tags(tokenizer: "PreTrainedTokenizerBase", prompt: PromptFormat) -> set[str]:
    """The tags of thoughts that mean something to this model."""
    tags = set(_THINKING)
    if not prompt.is_reasoning:
        tags &= {token.content for token in tokenizer.added_tokens_decoder.values()}
    own = prompt.thinking_tags
    return tags | ({own.open, own.close} if own else set())


def _pattern(anywhere: Collection[str], lines: Collection[str], line_start: str) -> re.Pattern[str]:
    alternatives = [re.escape(text) for text in sorted(anywhere, key=lambda text: (-len(text), text))]
    alternatives += [rf"{line_start}[ \t]{{0,8}}{re.escape(marker)}" for marker in sorted(lines)]
    return re.compile("|".join(alternatives) or r"(?!)")


def _reserved(tokenizer: "PreTrainedTokenizerBase", prompt: PromptFormat) -> tuple[set[str], set[str]]:
    """Control tokens, and author markers of plain words, which count at the beginning of a line."""
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
    return anywhere, markers - anywhere


def _author_markers(tokenizer: "PreTrainedTokenizerBase", prompt: PromptFormat) -> set[str]:
    """What the template writes before the content of a user and of an assistant turn, without blanks."""
    if prompt.style == "plain":
        return set(_PLAIN_MARKERS)
    headers = _headers(tokenizer, prompt)
    markers = {header.strip().splitlines()[-1].strip() for header in headers if header.strip()}
    return {marker for marker in markers if len(marker) >= _MIN_MARKER_CHARS}


def _begins_line(tokenizer: "PreTrainedTokenizerBase", prompt: PromptFormat) -> bool:
    return any(header.rstrip(" \t").endswith("\n") for header in _headers(tokenizer, prompt))


def _headers(tokenizer: "PreTrainedTokenizerBase", prompt: PromptFormat) -> tuple[str, ...]:
    """What the template writes between the end of a turn and the content of the next one."""
    if prompt.style in ("plain", "raw") or not tokenizer.chat_template:
        return ()
    turns = [
        Message(role="user", content=_USER),
        Message(role="assistant", content=_ASSISTANT),
        Message(role="user", content=_USER),
    ]
    try:
        text = render_probe(turns, tokenizer, add_generation_prompt=False)
    except ModelError:
        # It takes one turn, after which no other is marked.
        return ()
    before_answer, _, rest = text.partition(_USER)[2].partition(_ASSISTANT)
    # The next header follows the end of the assistant's turn, which marks no author.
    return before_answer, rest.partition(_USER)[0].replace(prompt.end_of_turn or "\0", "", 1)
