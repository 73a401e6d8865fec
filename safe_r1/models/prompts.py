"""How a model is prompted, read off what its chat template renders.

The text of a template does not tell: ``<think>`` may stand in a branch that is never taken, among the added
tokens, or in a block that the template closes again. A rendered dialogue does.
"""

import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from safe_r1.errors import ModelError
from safe_r1.models.fetch import loadable
from safe_r1.models.reasoning import open_reasoning
from safe_r1.models.template_check import check_templates
from safe_r1.models.thinking import ThinkingTags, tags_of_tokenizer
from safe_r1.schema import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Style = Literal["r1", "chat", "plain", "raw"]

REASONING_PREFIX = "<think>\n"
"""How an answer of DeepSeek-R1 begins; its first templates left writing it to the caller."""

_R1_HEADER = "<｜Assistant｜>"
# Words that no template changes, to find where it puts the content of a turn.
_FIRST = "safe_r1_probe_one"
_THOUGHT = "safe_r1_probe_two"
_ANSWER = "safe_r1_probe_three"
_LAST = "safe_r1_probe_four"


@dataclass(frozen=True)
class PromptFormat:
    """How a dialogue becomes a prompt, and where a completion ends.

    Attributes:
        style: ``r1`` (no system turn, the prompt opens the reasoning), ``chat`` (the model's own template),
            ``plain`` (a text to continue, for models without a template), or ``raw`` (the last turn is the
            whole prompt).
        reasoning_prefix: Text at the end of a prompt that opens the reasoning, exactly as the template writes
            it; it belongs to the completion. Empty where the prompt opens none.
        is_reasoning: The model thinks before it answers, whether the prompt or the model opens the reasoning.
        end_of_turn: What the template writes after an assistant turn, up to where generation stops.
        stop_token_ids: Tokens that end a turn and that the engine does not stop at by itself: the template's
            end of turn where neither the tokenizer nor ``generation_config.json`` lists it.
        thinking_tags: Tags of its thoughts that the tokenizer has and that are of no known form.
    """

    style: Style
    reasoning_prefix: str = ""
    is_reasoning: bool = False
    end_of_turn: str = ""
    stop_token_ids: tuple[int, ...] = ()
    thinking_tags: ThinkingTags | None = None

    @property
    def identity(self) -> str:
        """The style, and the reasoning prefix where it is not the usual one of that style."""
        usual = REASONING_PREFIX if self.style == "r1" else ""
        return self.style if self.reasoning_prefix == usual else f"{self.style} {self.reasoning_prefix!r}"


R1 = PromptFormat("r1", REASONING_PREFIX, is_reasoning=True)
"""DeepSeek-R1 and its distilled models.

Source: usage advice on DeepSeek-R1's model card (no system turn, the answer begins with ``<think>\\n``).
"""
CHAT = PromptFormat("chat")
PLAIN = PromptFormat("plain")
RAW = PromptFormat("raw")
"""Models that were trained on a prompt of their own, which the caller writes out, as some guards were."""


@functools.lru_cache(maxsize=4)
def load_tokenizer(
    source: str, revision: str = "main", trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model, once per process.

    Raises:
        ModelError: It cannot be found or read.
    """
    from transformers import AutoTokenizer

    source, revision = loadable(source, revision, weights=False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=trust_remote_code
        )
    except BaseException as error:
        # The tokenizers library raises bare exceptions, and panics that are none.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"no tokenizer for {source} (revision {revision}): {reason}") from None
    check_templates(tokenizer.chat_template, source)
    return tokenizer


def read_prompt_format(
    tokenizer: "PreTrainedTokenizerBase", engine_stop_ids: Collection[int] = ()
) -> PromptFormat:
    """How a model is prompted, from a dialogue of two turns that its template renders.

    Args:
        tokenizer: The model's own.
        engine_stop_ids: ``eos_token_id`` of the model's ``generation_config.json``, at which an engine stops
            as it does at the tokenizer's own.

    Raises:
        ModelError: The template cannot be rendered.
    """
    if not tokenizer.chat_template:
        return PLAIN
    own_tags = tags_of_tokenizer(
        [token.content for token in tokenizer.added_tokens_decoder.values()], str(tokenizer.chat_template)
    )
    tags = own_tags or ThinkingTags("<think>", "</think>")
    dialogue = [
        Message(role="user", content=_FIRST),
        Message(role="assistant", content=f"{tags.open}\n{_THOUGHT}\n{tags.close}\n\n{_ANSWER}"),
        Message(role="user", content=_LAST),
    ]
    text = render_probe(dialogue, tokenizer)
    if _LAST not in text:
        # As of templates that take the parts of a turn in a list: the model would answer nothing.
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template leaves out the text of a turn; expected one that "
            "takes plain texts"
        )
    generation_prompt = text.rpartition(_LAST)[2]
    opened = open_reasoning(generation_prompt, own_tags)
    # Templates of reasoning models leave the reasoning of earlier turns out.
    drops_thoughts = _ANSWER in text and _THOUGHT not in text
    closes = not opened and tags.close in generation_prompt
    if not opened and _has_r1_header(generation_prompt, tokenizer, drops_thoughts):
        opened = REASONING_PREFIX
    end = template_end_of_turn(tokenizer)
    return PromptFormat(
        style="r1" if opened else "chat",
        reasoning_prefix=opened,
        is_reasoning=bool(opened) or (drops_thoughts and not closes),
        end_of_turn=end,
        stop_token_ids=_missing_stops(end, tokenizer, engine_stop_ids),
        thinking_tags=own_tags,
    )


def apply_template(
    messages: Iterable[Message], tokenizer: "PreTrainedTokenizerBase", *, add_generation_prompt: bool
) -> str:
    """A dialogue as the text that a model's chat template makes of it."""
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    return str(text)


def render_probe(
    dialogue: Iterable[Message], tokenizer: "PreTrainedTokenizerBase", *, add_generation_prompt: bool = True
) -> str:
    """Like ``apply_template``, for a dialogue of any kind.

    Raises:
        ModelError: The template does not take it.
    """
    check_templates(tokenizer.chat_template, str(tokenizer.name_or_path))
    try:
        return apply_template(dialogue, tokenizer, add_generation_prompt=add_generation_prompt)
    except Exception as error:  # noqa: BLE001 - a template raises whatever it likes
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template does not render a plain dialogue: {reason}"
        ) from None


def _has_r1_header(prompt: str, tokenizer: "PreTrainedTokenizerBase", drops_thoughts: bool) -> bool:
    """DeepSeek's first R1 templates end in the header alone, as the templates of its chat models do.

    Those have no token for ``<think>``, and leave a turn's content as it is.
    """
    if not prompt.rstrip().endswith(_R1_HEADER):
        return False
    return drops_thoughts or any(
        token.content == "<think>" for token in tokenizer.added_tokens_decoder.values()
    )


def template_end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What a chat template writes after the content of an assistant turn, up to the end-of-sequence token."""
    turns = [Message(role="user", content="?"), Message(role="assistant", content=_ANSWER)]
    end = render_probe(turns, tokenizer, add_generation_prompt=False).partition(_ANSWER)[2].rstrip()
    eos = str(tokenizer.eos_token or "")
    return end[: end.index(eos) + len(eos)] if eos and eos in end else end


def end_of_turn(style: Style, tokenizer: "PreTrainedTokenizerBase") -> str:
    """What ends an assistant turn: what the model's template writes after its content, up to where generation
    stops.

    Raises:
        ModelError: There is neither such a text nor an end token.
    """
    has_template = style != "plain" and tokenizer.chat_template
    end = template_end_of_turn(tokenizer) if has_template else ""
    if not (end or tokenizer.eos_token):
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no end token: a model could not learn to stop"
        )
    return end or str(tokenizer.eos_token)


def _missing_stops(
    end: str, tokenizer: "PreTrainedTokenizerBase", engine_stop_ids: Collection[int]
) -> tuple[int, ...]:
    """The token that ends a turn in the template, unless the engine stops there by itself."""
    ids = tokenizer(end, add_special_tokens=False)["input_ids"]
    if tokenizer.eos_token_id in ids or any(token in ids for token in engine_stop_ids):
        return ()
    return tuple([token for token in ids if token in tokenizer.added_tokens_decoder][:1])
