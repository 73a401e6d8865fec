"""The beginning of a completion that is put into a model's mouth."""

import pytest

from safe_r1.models.chat import render_opening
from safe_r1.models.prompts import CHAT, PLAIN, R1, PromptFormat
from safe_r1.models.reasoning import split_reasoning
from safe_r1.models.thinking import ThinkingTags

OWN_TAGS = ThinkingTags("⟪musing⟫", "⟪/musing⟫")
OPENS_ITSELF = PromptFormat("chat", is_reasoning=True)
OWN = PromptFormat("chat", is_reasoning=True, thinking_tags=OWN_TAGS)
CLOSING = {
    "<think>\n": "</think>",
    "<think>": "</think>",
    "[THINK]": "[/THINK]",
    "<reasoning>\n": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "◁think▷": "◁/think▷",
    "<|begin_of_thought|>\n": "<|end_of_thought|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|inner_prefix|>": "<|inner_suffix|>",
    "<|channel>thought\n": "<channel|>",
    "<unused94>thought\n": "<unused95>",
}


@pytest.mark.parametrize("prefix", CLOSING)
@pytest.mark.parametrize("thought", ["先想一想。", None])
def test_a_begun_answer_is_the_answer(prefix: str, thought: str | None):
    opened = PromptFormat("r1", prefix, is_reasoning=True)
    opening = render_opening(thought, "当然，", opened, prefix)
    assert opening == f"{thought or ''}\n{CLOSING[prefix]}\n\n当然，"
    text = prefix + opening + "可以。"
    assert split_reasoning(text) == (thought or "", "当然，可以。")


@pytest.mark.parametrize(("prompt", "tags"), [(OPENS_ITSELF, None), (OWN, OWN_TAGS)])
def test_a_model_that_opens_its_reasoning_by_itself(prompt: PromptFormat, tags: ThinkingTags | None):
    text = render_opening("先想一想。", "当然，", prompt, "") + "可以。"
    assert split_reasoning(text, tags) == ("先想一想。", "当然，可以。")
    open_thought = render_opening("先想", None, prompt, "") + "一想。"
    assert split_reasoning(open_thought, tags) == ("先想一想。", None)


def test_a_begun_thought_goes_on():
    assert render_opening("先想", None, R1, R1.reasoning_prefix) == "先想"


@pytest.mark.parametrize("prompt", [CHAT, PLAIN])
def test_a_model_without_reasoning_takes_an_answer_alone(prompt: PromptFormat):
    assert render_opening(None, "当然，", prompt, "") == "当然，"
    with pytest.raises(ValueError, match="does not reason"):
        render_opening("想", "当然", prompt, "")
