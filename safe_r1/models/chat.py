"""From a dialogue to the tokens that a model is given.

Evaluation, training and serving render through here, so that they see the same tokens.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from safe_r1.errors import ModelError
from safe_r1.models.control import as_text
from safe_r1.models.prompts import REASONING_PREFIX, PromptFormat, apply_template, load_tokenizer
from safe_r1.models.reasoning import split_reasoning
from safe_r1.models.thinking import closing_tag
from safe_r1.schema import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "PLAIN_STOPS",
    "REASONING_PREFIX",
    "fold_system",
    "load_tokenizer",
    "render",
    "render_opening",
    "render_text",
    "render_turns",
    "split_reasoning",
]

# A base model only continues text: it is given a labelled dialogue, and ends where it begins to write the
# next turn itself.
_SPEAKERS = {"system": "说明", "user": "问题", "assistant": "回答"}
PLAIN_STOPS = ("\n问题：", "\n说明：")


def render(
    messages: Sequence[Message],
    prompt: PromptFormat,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    names_tags: bool = False,
) -> tuple[list[int], str]:
    """The prompt as tokens, and the text at its end that belongs to the completion.

    Args:
        messages: The dialogue. Its contents are text: control tokens in them open and end no turn, see
            ``control.as_text``.
        prompt: How the model is prompted: ``Variant.prompt_format``.
        tokenizer: The model's own.
        names_tags: The dialogue is a prompt of a judge or teacher, which may speak of thinking tags.

    Returns:
        Token ids with exactly the special tokens of the model's template, and the reasoning prefix (empty
        where the prompt opens no reasoning).

    Raises:
        ModelError: The format is that of a chat model, and the tokenizer has no chat template.
    """
    text, prefix = render_text(messages, prompt, tokenizer, names_tags=names_tags)
    # A template writes its own special tokens; any other text gets those that the tokenizer adds.
    return tokenizer(text, add_special_tokens=prompt.style in ("plain", "raw"))["input_ids"], prefix


def render_text(
    messages: Sequence[Message],
    prompt: PromptFormat,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    names_tags: bool = False,
) -> tuple[str, str]:
    """Like ``render``, before tokenizing."""
    if prompt.style == "raw":
        return messages[-1]["content"], ""
    if prompt.style == "plain":
        messages = _as_text(messages, prompt, tokenizer, names_tags)
        turns = "\n".join(f"{_SPEAKERS[turn['role']]}：{turn['content']}" for turn in messages)
        return f"{turns}\n{_SPEAKERS['assistant']}：", ""
    if not tokenizer.chat_template:
        # In the plain form instead, it would be measured by prompts that it was not trained on.
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template: "
            "add the template of the model's publisher to its folder (chat_template.jinja)"
        )
    messages = _as_text(messages, prompt, tokenizer, names_tags)
    if prompt.style == "chat":
        return apply_template(messages, tokenizer, add_generation_prompt=True), ""
    text = apply_template(fold_system(messages), tokenizer, add_generation_prompt=True)
    # Newer R1 templates end in the prefix, the first ones do not.
    if text.endswith(prompt.reasoning_prefix):
        return text, prompt.reasoning_prefix
    return text + prompt.reasoning_prefix, prompt.reasoning_prefix


def render_opening(thought: str | None, answer: str | None, prompt: PromptFormat, prefix: str) -> str:
    """What stands between a prompt and the model's own words where its completion is begun for it.

    Args:
        thought: The beginning of the reasoning; with an answer all of it. None: none.
        answer: The beginning of the answer; None: the model goes on in the reasoning.
        prompt: How the model is prompted.
        prefix: The reasoning prefix of the prompt, see ``render``; empty where the model opens it by itself.

    Raises:
        ValueError: The model does not reason, and a thought is given.
    """
    if not prompt.is_reasoning:
        if thought is not None:
            raise ValueError("a model that does not reason has no thoughts that could be begun")
        return answer or ""
    tags = prompt.thinking_tags
    opened = "" if prefix else (f"{tags.open}\n" if tags else REASONING_PREFIX)
    if answer is None:
        return opened + (thought or "")
    return f"{opened}{thought or ''}\n{closing_tag(prefix or opened, tags)}\n\n{answer}"


def render_turns(
    turns: Sequence[Mapping[str, object]],
    tools: Sequence[Mapping[str, object]],
    prompt: PromptFormat,
    tokenizer: "PreTrainedTokenizerBase",
) -> tuple[list[int], str]:
    """Like ``render``, for a dialogue with tools.

    Args:
        turns: The dialogue in the form of chat templates; ``content`` is a text or None, and the arguments in
            ``tool_calls`` are JSON texts.
        tools: Their definitions in the form of OpenAI's chat interface.
        prompt: How the model is prompted; ``r1`` or ``chat``.
        tokenizer: The model's own.

    Raises:
        ValueError: The style has no tools.
    """
    if prompt.style not in ("r1", "chat"):
        raise ValueError(f"a model of style {prompt.style} has no tools")
    rendered = [_deep_as_text(turn, str(turn.get("role")), prompt, tokenizer) for turn in turns]
    tools = [_deep_as_text(tool, "system", prompt, tokenizer) for tool in tools]
    if prompt.style == "r1":
        rendered = _fold_system_turns(rendered)
    text = _apply_with_tools(rendered, tools, tokenizer)
    if prompt.style == "r1" and not text.endswith(prompt.reasoning_prefix):
        text += prompt.reasoning_prefix
    prefix = prompt.reasoning_prefix if prompt.style == "r1" else ""
    return tokenizer(text, add_special_tokens=False)["input_ids"], prefix


def _as_text(
    messages: Sequence[Message],
    prompt: PromptFormat,
    tokenizer: "PreTrainedTokenizerBase",
    names_tags: bool,
) -> list[Message]:
    def clean(turn: Message) -> str:
        keep_tags = names_tags or turn["role"] == "assistant"
        return as_text(turn["content"], tokenizer, prompt, keep_tags=keep_tags)

    return [Message(role=turn["role"], content=clean(turn)) for turn in messages]


def _deep_as_text(value: Any, role: str, prompt: PromptFormat, tokenizer: "PreTrainedTokenizerBase") -> Any:
    """The same for all texts in a turn or in the definition of a tool; JSON texts stay JSON."""
    if isinstance(value, str):
        return as_text(value, tokenizer, prompt, keep_tags=role == "assistant")
    if isinstance(value, Mapping):
        return {
            _deep_as_text(key, role, prompt, tokenizer): _deep_as_text(each, role, prompt, tokenizer)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_deep_as_text(each, role, prompt, tokenizer) for each in value]
    return value


def _apply_with_tools(
    turns: list[dict[str, Any]], tools: Sequence[Mapping[str, object]], tokenizer: "PreTrainedTokenizerBase"
) -> str:
    """The template's text. Most templates take the arguments of a call as an object; R1's take their JSON."""

    def apply(some: list[dict[str, Any]]) -> str:
        given: Any = [dict(tool) for tool in tools] or None
        return str(
            tokenizer.apply_chat_template(some, tools=given, tokenize=False, add_generation_prompt=True)
        )

    try:
        return apply([_with_parsed_arguments(turn) for turn in turns])
    except TypeError:
        return apply(turns)


def _with_parsed_arguments(turn: dict[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in turn:
        return turn
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in turn["tool_calls"]
    ]
    return {**turn, "tool_calls": calls}


def _fold_system_turns(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """See ``fold_system``."""
    system = [turn["content"] for turn in turns if turn["role"] == "system"]
    rest = [turn for turn in turns if turn["role"] != "system"]
    if system and rest:
        rest[0] = {**rest[0], "content": "\n\n".join([*system, rest[0]["content"] or ""])}
    return rest


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """The dialogue without system turns, their text put before the first user turn."""
    system = [turn["content"] for turn in messages if turn["role"] == "system"]
    rest = [
        Message(role=turn["role"], content=turn["content"]) for turn in messages if turn["role"] != "system"
    ]
    if system and rest:
        rest[0] = Message(role=rest[0]["role"], content="\n\n".join([*system, rest[0]["content"]]))
    return rest
