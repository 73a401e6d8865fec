"""Style, reasoning prefix and end tokens, read off what a template renders."""

import codecs
import json
from pathlib import Path

import pytest

from safe_r1.errors import ModelError
from safe_r1.models.chat import render, render_text
from safe_r1.models.checkpoints import demo_model, prepare
from safe_r1.models.prompts import CHAT, R1, apply_template, load_tokenizer, read_prompt_format
from safe_r1.models.reasoning import split_reasoning
from safe_r1.models.registry import get_variant
from safe_r1.models.thinking import ThinkingTags
from safe_r1.schema import Message
from tests.unit.models.conftest import MakeFolder

QUESTION = [Message(role="user", content="问")]


def chatml(generation: str, assistant: str = "m.content") -> str:
    """A ChatML template whose generation prompt ends in ``generation``."""
    return (
        "{% for m in messages %}"
        "{% if m.role == 'assistant' %}{% set content = " + assistant + " %}"
        "{% else %}{% set content = m.content %}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n" + generation + "' }}{% endif %}"
    )


def deepseek(generation: str, assistant: str = "m.content") -> str:
    """A template with DeepSeek's headers, whose generation prompt ends in ``generation``."""
    return (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
        "{% else %}{{ '<｜Assistant｜>' + " + assistant + " + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜" + ">" + generation + "' }}{% endif %}"
    )


DROPS_THOUGHTS = "m.content.split('</think>')[-1]"


def test_tags_that_are_no_known_form_come_from_the_tokenizer(make_folder: MakeFolder):
    tokenizer = load_tokenizer(str(make_folder(chatml("<|cot_start|>\\n"))))
    tokenizer.add_tokens(["<|cot_start|>", "<|cot_end|>"])
    found = read_prompt_format(tokenizer)
    assert (found.style, found.reasoning_prefix) == ("r1", "<|cot_start|>\n")
    assert found.thinking_tags == ThinkingTags("<|cot_start|>", "<|cot_end|>")
    assert split_reasoning("<|cot_start|>\n想<|cot_end|>答", found.thinking_tags) == ("想", "答")


@pytest.mark.parametrize(
    ("generation", "prefix"),
    [
        ("<think>", "<think>"),
        ("<think>\\n", "<think>\n"),
        ("<think>\\n\\n", "<think>\n\n"),
        ("<think>\\nOkay, ", "<think>\nOkay, "),
        ("<thinking>\\n", "<thinking>\n"),
    ],
)
@pytest.mark.parametrize("template", [chatml, deepseek])
def test_the_prefix_is_what_the_template_wrote_byte_for_byte(
    make_folder: MakeFolder, template, generation: str, prefix: str
):
    variant = get_variant(str(make_folder(template(generation))))
    assert (variant.style, variant.prompt_format.reasoning_prefix) == ("r1", prefix)
    assert variant.prompt_format.is_reasoning
    tokenizer = load_tokenizer(variant.source)
    stock = apply_template(QUESTION, tokenizer, add_generation_prompt=True)
    text, completion_prefix = render_text(QUESTION, variant.prompt_format, tokenizer)
    assert (text, completion_prefix) == (stock, prefix)
    tokens, _ = render(QUESTION, variant.prompt_format, tokenizer)
    assert tokens == tokenizer(stock, add_special_tokens=False)["input_ids"]
    assert split_reasoning(f"{completion_prefix}想</think>答")[1] == "答"


def test_a_think_token_in_the_vocabulary_says_nothing(make_folder: MakeFolder):
    variant = get_variant(str(make_folder(chatml(""))))
    assert "<think>" in load_tokenizer(variant.source).get_vocab()
    assert (variant.style, variant.prompt_format.reasoning_prefix) == ("chat", "")
    assert not variant.prompt_format.is_reasoning


def test_a_branch_that_is_not_taken_says_nothing(make_folder: MakeFolder):
    template = chatml("") + "{% if add_generation_prompt and enable_thinking %}{{ '<think>\\n' }}{% endif %}"
    assert get_variant(str(make_folder(template))).style == "chat"


@pytest.mark.parametrize("generation", ["<think>\\n\\n</think>\\n\\n", "</think>"])
@pytest.mark.parametrize("template", [chatml, deepseek])
def test_a_template_that_closes_thinking_opens_none(make_folder: MakeFolder, template, generation: str):
    variant = get_variant(str(make_folder(template(generation, DROPS_THOUGHTS))))
    assert (variant.style, variant.prompt_format.reasoning_prefix) == ("chat", "")
    assert not variant.prompt_format.is_reasoning
    text, prefix = render_text(QUESTION, variant.prompt_format, load_tokenizer(variant.source))
    assert (text.endswith(generation.replace("\\n", "\n")), prefix) == (True, "")


@pytest.mark.parametrize("assistant", ["m.content", DROPS_THOUGHTS])
def test_deepseek_templates_without_the_tag_get_it_as_the_table_says(make_folder: MakeFolder, assistant: str):
    variant = get_variant(str(make_folder(deepseek("", assistant))))
    assert (variant.style, variant.prompt_format.reasoning_prefix) == ("r1", "<think>\n")
    text, prefix = render_text(QUESTION, variant.prompt_format, load_tokenizer(variant.source))
    assert text.endswith("<｜User｜>问<｜Assistant｜><think>\n")
    assert prefix == "<think>\n"


def test_deepseek_chat_models_are_not_made_to_think(make_folder: MakeFolder):
    folder = make_folder(deepseek(""))
    # Its chat models have no token for the tag, and keep a turn's content as it is.
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = folder / name
        file.write_text(file.read_text("utf-8").replace("<think>", "<place_holder>"), encoding="utf-8")
    assert get_variant(str(folder)).style == "chat"


def test_a_model_that_opens_its_reasoning_itself_has_long_answers(make_folder: MakeFolder):
    thinking = get_variant(str(make_folder(chatml("", DROPS_THOUGHTS), name="thinking")))
    direct = get_variant(str(make_folder(chatml(""), name="direct")))
    assert (thinking.style, thinking.prompt_format.reasoning_prefix) == ("chat", "")
    assert (thinking.prompt_format.is_reasoning, thinking.max_tokens_refusal) == (True, 8192)
    assert (direct.prompt_format.is_reasoning, direct.max_tokens_refusal) == (False, 1024)


def test_no_template_is_plain_text(make_folder: MakeFolder):
    variant = get_variant(str(make_folder()))
    assert (variant.style, variant.prompt_format.reasoning_prefix) == ("plain", "")


def test_a_template_may_be_escaped_in_the_tokenizers_settings(make_folder: MakeFolder):
    folder = make_folder()
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text("utf-8"))
    escaped = json.dumps(settings | {"chat_template": deepseek("<think>\\n")}, ensure_ascii=True)
    assert "<\\uff5cAssistant\\uff5c>" in escaped
    file.write_text(escaped, encoding="utf-8")
    assert get_variant(str(folder)).prompt_format.identity == R1.identity


def test_the_default_one_of_several_named_templates_counts(make_folder: MakeFolder):
    folder = make_folder()
    file = folder / "tokenizer_config.json"
    named = [
        {"name": "tool_use", "template": chatml("")},
        {"name": "default", "template": chatml("<think>\\n")},
    ]
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"chat_template": named}), "utf-8")
    assert get_variant(str(folder)).style == "r1"


def test_named_templates_without_a_default_are_refused_when_it_matters(make_folder: MakeFolder):
    folder = make_folder()
    file = folder / "tokenizer_config.json"
    named = [{"name": name, "template": chatml("")} for name in ("rag", "tool_use")]
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"chat_template": named}), "utf-8")
    variant = get_variant(str(folder))
    with pytest.raises(ModelError, match="read when the model is prepared"):
        _ = variant.style
    with pytest.raises(ModelError, match="does not render a plain dialogue"):
        prepare(variant)


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "tokenizer_config.json", "tokenizer.json", "config.json"]
)
def test_a_byte_order_mark_changes_nothing(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
):
    monkeypatch.setenv("SAFE_R1_CACHE", str(tmp_path / "cache"))
    plain = make_folder(deepseek("<think>\\n"), name="plain")
    marked = make_folder(deepseek("<think>\\n"), name="marked")
    (marked / name).write_bytes(codecs.BOM_UTF8 + (marked / name).read_bytes())
    (expected, identity), (variant, marked_identity) = (prepare(get_variant(str(f))) for f in (plain, marked))
    assert (variant.prompt_format, variant.family) == (expected.prompt_format, expected.family)
    assert (variant.name, marked_identity) == ("marked", identity)
    texts = [
        render_text(QUESTION, R1, load_tokenizer(source)) for source in (expected.source, variant.source)
    ]
    assert texts[0] == texts[1]
    from transformers import AutoConfig

    assert AutoConfig.from_pretrained(variant.source).model_type == "qwen2"
    assert prepare(get_variant(str(marked)))[0].source == variant.source


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{% for m in messages %}", "{{ x.y }}"])
def test_a_template_that_cannot_be_rendered_is_one_line(make_folder: MakeFolder, template: str):
    with pytest.raises(ModelError, match=r"^[^\n]*model: its chat template does not render a plain dialogue"):
        prepare(get_variant(str(make_folder(template))))


def test_the_end_of_a_turn_is_known_and_stops_the_engine(make_folder: MakeFolder):
    listed = get_variant(str(make_folder(deepseek("<think>\\n"), name="listed")))
    assert listed.prompt_format.end_of_turn == "<｜end▁of▁sentence｜>"
    assert listed.prompt_format.stop_token_ids == ()
    # A fine-tuned model whose turns end in a token that nobody made its end of sentence.
    template = chatml("").replace("<|im_end|>", "<｜User｜>")
    unlisted = get_variant(str(make_folder(template, name="unlisted")))
    stop = load_tokenizer(unlisted.source).convert_tokens_to_ids("<｜User｜>")
    assert unlisted.prompt_format.end_of_turn == "<｜User｜>"
    assert unlisted.prompt_format.stop_token_ids == (stop,)
    folder = make_folder(template, name="in-generation-config")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, stop]}), encoding="utf-8")
    assert get_variant(str(folder)).prompt_format.stop_token_ids == ()


def test_the_demo_and_the_tiny_models_are_read_as_the_table_has_them(tiny_llama: Path):
    read = get_variant(str(tiny_llama)).prompt_format
    assert (read.style, read.reasoning_prefix, read.stop_token_ids) == ("r1", "<think>\n", ())
    try:
        demo = read_prompt_format(load_tokenizer(str(demo_model())))
    except ModelError as error:
        pytest.skip(str(error))
    assert (demo.identity, demo.end_of_turn, demo.stop_token_ids) == (CHAT.identity, "<|im_end|>", ())


@pytest.mark.parametrize(
    ("name", "identity", "is_reasoning"),
    [
        ("deepseek_r1_distill", "r1", True),
        ("qwen3", "chat", True),
        ("qwen3_instruct_2507", "chat", False),
        ("qwen3_5_think", "r1", True),
        ("qwen3_5_nothink", "chat", False),
        ("qwen2_5", "chat", False),
        ("llama3_1", "chat", False),
    ],
)
def test_published_templates(make_folder: MakeFolder, name: str, identity: str, is_reasoning: bool):
    trl = pytest.importorskip("trl")
    template = Path(trl.__file__).with_name("chat_templates") / f"{name}.jinja"
    read = get_variant(str(make_folder(template.read_text("utf-8")))).prompt_format
    assert (read.identity, read.is_reasoning) == (identity, is_reasoning)
