"""Tokenization of conversations for training: the prompt exactly as it is served, then the completion.

Each assistant turn is a document of its own, whose prompt is the preceding dialogue as
``safe_r1.models.chat`` renders it for evaluation and serving. R1's chat template removes the reasoning of
earlier turns, so a single text with all turns could not contain both the reasoning of every turn to learn
and the prefix that each turn has when it is served. What serving adds for the model (the header of the
assistant turn, and ``<think>\\n`` for the style ``r1``) is part of the prompt and gets no loss. Prompt and
completion are tokenized separately, because a served model never sees them as one text either.

Earlier turns of a dialogue may come from another author: only those with reasoning in ``<think>`` tags are
learned, the others are context.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from safe_r1.models.chat import render
from safe_r1.models.control import control_text
from safe_r1.models.prompts import PromptFormat, end_of_turn
from safe_r1.runs import sha256
from safe_r1.schema import Message
from safe_r1.train.config import PackConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OPEN = "<think>"
_CLOSE = "</think>"
# What a row without reasoning begins with; R1's template writes the same where it closes the thoughts itself.
_EMPTY_THOUGHT = re.compile(r"\A\s*<think>\s*</think>\s*")


@dataclass(frozen=True)
class Document:
    """One assistant turn with its prompt.

    Attributes:
        turn: Index of the assistant turn in the conversation.
        input_ids: Tokens of the prompt, then of the completion with its end-of-turn token.
        num_prompt: Number of prompt tokens, at least one; all others are labels.
        reason: Why the document is dropped; None if it is kept.
        was_cut: The end of the completion was cut off.
    """

    turn: int
    input_ids: list[int]
    num_prompt: int
    reason: str | None = None
    was_cut: bool = False

    @property
    def is_label(self) -> list[bool]:
        """Loss mask: True for completion tokens."""
        return [index >= self.num_prompt for index in range(len(self.input_ids))]


def encode(
    messages: Sequence[Message], prompt: PromptFormat, tokenizer: "PreTrainedTokenizerBase"
) -> list[Document]:
    """The documents of a conversation, one per assistant turn to learn; empty if it has no such turn.

    Args:
        messages: The conversation; an assistant turn is learned only directly after a user turn.
        prompt: How the model is prompted.
        tokenizer: The model's tokenizer with its own chat template.

    Raises:
        ModelError: The tokenizer has no end-of-turn token.
    """
    turns = [Message(role=turn["role"], content=turn["content"] or "") for turn in messages]
    marked = turns
    if not prompt.is_reasoning:
        # The tags of an empty thought say that a turn is learned; such a model never sees them.
        turns = [_without_empty_thought(turn) for turn in turns]
    end = _tokenize(end_of_turn(prompt.style, tokenizer), tokenizer)
    return [
        _encode_turn(turns, turn, end, prompt, tokenizer)
        for turn in range(1, len(turns))
        if _is_target(marked, turn)
    ]


def _without_empty_thought(turn: Message) -> Message:
    is_answer = turn["role"] == "assistant"
    return Message(role=turn["role"], content=_EMPTY_THOUGHT.sub("", turn["content"])) if is_answer else turn


def _is_target(turns: Sequence[Message], turn: int) -> bool:
    """True for an assistant turn to learn: one with reasoning, or the last one unless it is blank."""
    if (turns[turn - 1]["role"], turns[turn]["role"]) != ("user", "assistant"):
        return False
    content = turns[turn]["content"]
    return _CLOSE in content or (turn == len(turns) - 1 and bool(content.strip()))


def _encode_turn(
    turns: list[Message],
    turn: int,
    end: list[int],
    prompt: PromptFormat,
    tokenizer: "PreTrainedTokenizerBase",
) -> Document:
    try:
        prompt_ids, prefix = render(turns[:turn], prompt, tokenizer)
    except (TemplateError, ValueError, TypeError, KeyError):
        # Such as one that takes no system turn.
        return Document(turn, [], 0, "template_refuses")
    text = turns[turn]["content"]
    reason = None
    if prefix:
        text = _continue_prefix(text, prefix)
        reason = None if _CLOSE in text else "no_reasoning"
    if control_text(tokenizer, prompt).search(text):
        # A teacher that ran on: the model would learn to write the user's next turn.
        reason = "control_text"
    return Document(turn, [*prompt_ids, *_tokenize(text, tokenizer), *end], len(prompt_ids), reason)


def _continue_prefix(text: str, prefix: str) -> str:
    """A completion without its opening tag and the whitespace after it, as far as the prompt ends in them."""
    text = text.lstrip().removeprefix(_OPEN)
    for char in prefix.rpartition(">")[2]:
        text = text.removeprefix(char)
    return text


def _tokenize(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # pyright: ignore[reportReturnType]


def fit(document: Document, pack: PackConfig) -> Document:
    """Drop or cut a document that is longer than a packed sequence, as the settings say."""
    if document.reason or len(document.input_ids) <= pack.seq_len:
        return document
    if pack.too_long == "drop":
        return replace(document, reason="too_long")
    if document.num_prompt >= pack.seq_len:
        return replace(document, reason="prompt_too_long")
    return replace(document, input_ids=document.input_ids[: pack.seq_len], was_cut=True)


def tokenizer_identity(tokenizer: "PreTrainedTokenizerBase") -> dict[str, str]:
    """Hashes of everything in a tokenizer that tokens depend on."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if tokenizer.is_fast and backend else tokenizer.get_vocab()
    return {
        "tokenizer": sha256([content, tokenizer.special_tokens_map]),
        "template": sha256(tokenizer.chat_template),
    }
