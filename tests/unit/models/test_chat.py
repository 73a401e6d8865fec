from typing import cast

import pytest
from transformers import PreTrainedTokenizerBase

from safe_r1.errors import ModelError
from safe_r1.models.chat import REASONING_PREFIX, fold_system, render, render_text
from safe_r1.models.prompts import CHAT, PLAIN, R1, PromptFormat
from safe_r1.schema import Message


class FakeTokenizer:
    """Renders like a template would; tokens are characters, and a plain call adds one BOS."""

    def __init__(self, template: str | None, prefill: str = ""):
        self.chat_template, self.prefill = template, prefill
        self.name_or_path = "somebody/model"
        self.added_tokens_decoder: dict[int, object] = {}
        self.all_special_tokens = ["<BOS>"]
        self.eos_token = "<EOS>"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert not tokenize
        assert add_generation_prompt
        return (
            "<BOS>"
            + "".join(f"<{turn['role']}>{turn['content']}" for turn in messages)
            + "<assistant>"
            + self.prefill
        )

    def __call__(self, text, add_special_tokens):
        return {"input_ids": ([1] if add_special_tokens else []) + [ord(character) for character in text]}


def fake(template: str | None, prefill: str = "") -> PreTrainedTokenizerBase:
    return cast(PreTrainedTokenizerBase, FakeTokenizer(template, prefill))


def turns(*pairs: str) -> list[Message]:
    return [Message(role=role, content=content) for role, content in (pair.split(":") for pair in pairs)]


@pytest.mark.parametrize("prefill", ["", REASONING_PREFIX])
def test_an_r1_prompt_ends_in_one_reasoning_prefix(prefill):
    text, prefix = render_text(turns("user:问"), R1, fake("x", prefill))
    assert text == "<BOS><user>问<assistant><think>\n"
    assert prefix == REASONING_PREFIX


def test_an_r1_prompt_has_no_system_turn():
    text, _ = render_text(turns("system:规则", "user:一", "assistant:二", "user:三"), R1, fake("x"))
    assert text.startswith("<BOS><user>规则\n\n一<assistant>二<user>三<assistant>")


def test_a_chat_prompt_keeps_the_system_turn():
    assert (
        render_text(turns("system:规则", "user:一"), CHAT, fake("x"))[0]
        == "<BOS><system>规则<user>一<assistant>"
    )


def test_templates_bring_their_own_bos_and_plain_texts_get_one():
    assert render(turns("user:一"), CHAT, fake("x"))[0][0] == ord("<")
    tokens, prefix = render(turns("user:一"), PLAIN, fake(None))
    assert tokens[0] == 1
    assert "".join(map(chr, tokens[1:])) == "问题：一\n回答："
    assert prefix == ""


@pytest.mark.parametrize("prompt", [CHAT, R1])
def test_a_chat_model_without_a_template_is_refused(prompt: PromptFormat):
    with pytest.raises(ModelError, match=r"somebody/model has no chat template"):
        render_text(turns("user:一"), prompt, fake(None))


def test_folding_leaves_the_input_alone():
    messages = turns("system:规则", "user:一")
    assert fold_system(messages) == turns("user:规则\n\n一")
    assert messages == turns("system:规则", "user:一")
