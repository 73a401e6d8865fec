"""From a dialogue to the tokens a model is given, and from its text back to reasoning and answer.

Evaluation, training and serving render through here, so that they see the same tokens.

Source: usage advice on DeepSeek-R1's model card (no system turn, the answer begins with ``<think>\\n``).
"""

import functools
from typing import Any

from safe_r1.errors import ModelError
from safe_r1.models.reasoning import split_reasoning
from safe_r1.models.registry import Style
from safe_r1.schema import Message

__all__ = [
    "PLAIN_STOPS",
    "REASONING_PREFIX",
    "fold_system",
    "load_tokenizer",
    "render",
    "render_text",
    "split_reasoning",
]

REASONING_PREFIX = "<think>\n"

# A base model only continues text: it is given a labelled dialogue, and ends where it begins to write the
# next turn itself.
_SPEAKERS = {"system": "说明", "user": "问题", "assistant": "回答"}
PLAIN_STOPS = ("\n问题：", "\n说明：")


@functools.lru_cache(maxsize=4)
def load_tokenizer(source: str, revision: str = "main", trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model, once per process.

    Raises:
        ModelError: It cannot be found or read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"no tokenizer for {source} (revision {revision}): {reason}") from None


def render(messages: list[Message], style: Style, tokenizer: Any) -> tuple[list[int], str]:
    """The prompt as tokens, and the text at its end that belongs to the completion.

    Returns:
        Token ids with exactly the special tokens of the model's template, and the reasoning prefix (empty for
        other styles).
    """
    text, prefix = render_text(messages, style, tokenizer)
    # A template writes its own special tokens; a plain text gets those that the tokenizer adds.
    return tokenizer(text, add_special_tokens=style == "plain")["input_ids"], prefix


def render_text(messages: list[Message], style: Style, tokenizer: Any) -> tuple[str, str]:
    """Like ``render``, before tokenizing."""
    if style == "plain" or not tokenizer.chat_template:
        turns = "\n".join(f"{_SPEAKERS[turn['role']]}：{turn['content']}" for turn in messages)
        return f"{turns}\n{_SPEAKERS['assistant']}：", ""
    if style == "chat":
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True), ""
    text = tokenizer.apply_chat_template(fold_system(messages), tokenize=False, add_generation_prompt=True)
    # Newer R1 templates end in the prefix, the first ones do not.
    return text if text.endswith(REASONING_PREFIX) else text + REASONING_PREFIX, REASONING_PREFIX


def fold_system(messages: list[Message]) -> list[Message]:
    """The dialogue without system turns, their text put before the first user turn."""
    system = [turn["content"] for turn in messages if turn["role"] == "system"]
    rest = [
        Message(role=turn["role"], content=turn["content"]) for turn in messages if turn["role"] != "system"
    ]
    if system and rest:
        rest[0] = Message(role=rest[0]["role"], content="\n\n".join([*system, rest[0]["content"]]))
    return rest
