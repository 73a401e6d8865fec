"""Calls of tools with real templates and vLLM's own parsers, and the bytes of real tokens."""

from typing import Any

import pytest

from safe_r1.errors import ConfigError
from safe_r1.models.prompts import PromptFormat
from safe_r1.serve.base import ToolRequest
from safe_r1.serve.errors import ApiError
from safe_r1.serve.token_text import TokenText
from safe_r1.serve.tools import ToolSupport, choose_parser

pytestmark = pytest.mark.slow

R1 = PromptFormat("r1", "<think>\n", is_reasoning=True)
CHAT = PromptFormat("chat")
# As Qwen's: definitions in <tools>, calls in <tool_call>.
HERMES = (
    "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>'
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# As R1's: the arguments are JSON texts, which the template adds to other texts; it has no definitions.
DEEPSEEK = (
    "{% for m in messages %}{% if m.role == 'assistant' and m.tool_calls %}"
    "{% for c in m.tool_calls %}{{ '<｜tool▁calls▁begin｜>' + c.function.name + '\\n```json\\n' "
    "+ c.function.arguments + '\\n```' }}{% endfor %}"
    "{% else %}{{ '<' + m.role + '>' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": None,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TURNS: list[dict[str, Any]] = [{"role": "system", "content": "简短。"}, {"role": "user", "content": "北京？"}]
CALLED: list[dict[str, Any]] = [
    *TURNS,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "北京"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "晴"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tests.tiny_models import make_tokenizer

    return make_tokenizer(HERMES)


def support(tokenizer: Any, template: str, prompt: PromptFormat = CHAT, setting: str = "auto") -> ToolSupport:
    tokenizer.chat_template = template
    return ToolSupport("m", prompt, tokenizer, setting)


def test_tools_and_results_are_rendered_and_calls_read(tokenizer: Any):
    tools = support(tokenizer, HERMES)
    assert tools.parser == "hermes"
    tokens, prefix = tools.render(ToolRequest([TOOL], CALLED))
    text = tokenizer.decode(tokens)
    assert text.startswith('<tools>{"type": "function", "function": {"name": "weather"')
    assert prefix == ""
    assert '"arguments": {"city": "北京"}' in text
    assert text.endswith("晴<|assistant|>")
    read = tools.read_calls(ToolRequest([TOOL], TURNS))
    assert read
    one = '<tool_call>{"name": "weather", "arguments": {"city": "北京"}}</tool_call>'
    answer, calls = read("我查一下。" + one + one)
    assert answer == "我查一下。"
    assert [(call.name, call.arguments) for call in calls] == [("weather", '{"city": "北京"}')] * 2
    assert len({call.id for call in calls}) == 2
    assert read("没有调用") == ("没有调用", [])
    single = tools.read_calls(ToolRequest([TOOL], TURNS, is_parallel=False))
    assert single
    assert len(single(one + one)[1]) == 1


def test_a_call_that_must_be_made_is_made_by_a_schema(tokenizer: Any):
    tools = support(tokenizer, HERMES)
    required = ToolRequest([TOOL], TURNS, "required")
    form: Any = tools.response_format(required)
    schema = form["json_schema"]["schema"]
    assert (schema["type"], schema["minItems"]) == ("array", 1)
    read = tools.read_calls(required)
    assert read
    _, [call] = read('[{"name": "weather", "parameters": {"city": "北京"}}]')
    assert (call.name, call.arguments) == ("weather", '{"city": "北京"}')
    assert read('[{"name": "wea') == ('[{"name": "wea', [])
    named = ToolRequest([TOOL], TURNS, "weather")
    form = tools.response_format(named)
    assert form["json_schema"]["schema"] == TOOL["function"]["parameters"]
    read = tools.read_calls(named)
    assert read
    assert read('{"city": "上海"}')[1][0].arguments == '{"city": "上海"}'
    assert tools.response_format(ToolRequest([TOOL], TURNS)) is None


def test_r1s_template_takes_results_and_refuses_definitions(tokenizer: Any):
    tools = support(tokenizer, DEEPSEEK, R1)
    assert tools.parser == "deepseek_v3"
    tokens, prefix = tools.render(ToolRequest([], CALLED))
    text = tokenizer.decode(tokens)
    assert text.startswith("<user>简短。\n\n北京？")
    assert text.endswith("<｜Assistant｜><think>\n")
    assert prefix == "<think>\n"
    with pytest.raises(ApiError, match="no tools") as caught:
        tools.render(ToolRequest([TOOL], TURNS))
    assert (caught.value.status, caught.value.param) == (400, "tools")


def test_a_template_without_tools_refuses_both(tokenizer: Any):
    tools = support(tokenizer, "{% for m in messages %}{{ m.content }}{% endfor %}")
    assert tools.parser is None
    with pytest.raises(ApiError, match="no tools"):
        tools.render(ToolRequest([TOOL], TURNS))
    plain = support(tokenizer, HERMES, PromptFormat("plain"))
    with pytest.raises(ApiError, match="no results"):
        plain.render(ToolRequest([], CALLED))


def test_a_parser_by_name():
    assert choose_parser("pythonic", "") == "pythonic"
    with pytest.raises(ConfigError, match="expected auto or one of"):
        choose_parser("hermess", "")


@pytest.mark.parametrize("text", ["中文，<think>好</think> Hello ½", "\n\n 🙂"])
def test_bytes_of_tokens_are_those_of_the_text(tokenizer: Any, text: str):
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = TokenText(tokenizer)
    assert b"".join(found.bytes_of(token) for token in tokens).decode() == text
    assert any(b"\xf0" in found.bytes_of(token) for token in tokens) or "🙂" not in text
    [scored] = found.logprobs([(tokens[0], -1.5, [(tokens[-1], -0.5), (tokens[0], -1.5)])], 1)
    assert (scored.logprob, [each.logprob for each in scored.top]) == (-1.5, [-0.5])
