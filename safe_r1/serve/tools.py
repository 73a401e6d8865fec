"""Calls of tools: how a model is told of tools, and how its calls are read, with vLLM's parsers."""

import functools
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from safe_r1.errors import ConfigError
from safe_r1.models.chat import render_turns
from safe_r1.models.prompts import PromptFormat
from safe_r1.serve.base import ReadCalls, ToolCall, ToolRequest
from safe_r1.serve.chat_request import unsupported
from safe_r1.serve.errors import ApiError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

logger = logging.getLogger(__name__)

# What a chat template writes around a call, in the order in which they are looked for, and vLLM's name of the
# parser of that form.
_PARSERS = (
    (("<｜tool▁calls▁begin｜>", "```json"), "deepseek_v3"),
    (("<｜tool▁calls▁begin｜>",), "deepseek_v31"),
    (("<tool_call>", "<function="), "qwen3_xml"),
    (("<tool_call>", "<arg_key>"), "glm45"),
    (("<tool_call>",), "hermes"),
    (("[TOOL_CALLS]",), "mistral"),
    (("<|python_tag|>",), "llama3_json"),
    (('"parameters"', "ipython"), "llama3_json"),
)
_PROBE = "safe_r1_probe_tool"
_PROBE_RESULT = "safe_r1_probe_result"
_SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
_PROBE_TOOL = {
    "type": "function",
    "function": {"name": _PROBE, "description": "A probe.", "parameters": _SCHEMA},
}
_PROBE_CALL = {"id": "call_1", "type": "function", "function": {"name": _PROBE, "arguments": "{}"}}


def choose_parser(setting: str, template: str) -> str | None:
    """vLLM's name of the parser of a model's calls; None where the template has no known form of them.

    Args:
        setting: ``auto``, or the name itself.
        template: The model's chat template.

    Raises:
        ConfigError: vLLM has no parser of that name.
    """
    if setting == "auto":
        return next((name for marks, name in _PARSERS if all(mark in template for mark in marks)), None)
    from vllm.tool_parsers import ToolParserManager

    if setting not in ToolParserManager.list_registered():
        known = ", ".join(ToolParserManager.list_registered())
        raise ConfigError(f"tool_parser {setting}: expected auto or one of vLLM's: {known}")
    return setting


class ToolSupport:
    """Tools of one model.

    Attributes:
        parser: vLLM's name of the parser of its calls; None: its calls cannot be read.
    """

    def __init__(self, name: str, prompt: PromptFormat, tokenizer: "PreTrainedTokenizerBase", setting: str):
        self._name = name
        self._prompt = prompt
        self._tokenizer = tokenizer
        self.parser = choose_parser(setting, str(tokenizer.chat_template or ""))

    def render(self, request: ToolRequest) -> tuple[list[int], str]:
        """Prompt tokens and reasoning prefix of a dialogue with tools; see ``chat.render``.

        Raises:
            ApiError: 400, the chat template has no tools, or no results of tools.
            ValueError, TemplateError: The template rejects the dialogue.
        """
        has_turns = any(turn["role"] == "tool" or "tool_calls" in turn for turn in request.turns)
        if request.tools and (_PROBE not in self._probe_tools or self.parser is None):
            raise unsupported("tools", f"is not supported by {self._name}: its chat template has no tools")
        if has_turns and _PROBE_RESULT not in self._probe_results:
            message = f"{self._name}: its chat template has no results of tools"
            raise ApiError(400, "unsupported_parameter", message, "messages")
        return render_turns(request.turns, request.tools, self._prompt, self._tokenizer)

    @functools.cached_property
    def _probe_tools(self) -> str:
        return self._probe([{"role": "user", "content": "?"}], [_PROBE_TOOL])

    @functools.cached_property
    def _probe_results(self) -> str:
        turns = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "tool_calls": [_PROBE_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": _PROBE_RESULT},
        ]
        return self._probe(turns, [])

    def _probe(self, turns: Sequence[Mapping[str, object]], tools: Sequence[Mapping[str, object]]) -> str:
        if self._prompt.style in ("plain", "raw"):
            return ""
        try:
            tokens, _ = render_turns(turns, tools, self._prompt, self._tokenizer)
        except (ValueError, TypeError, TemplateError):
            return ""
        return str(self._tokenizer.decode(tokens))

    def response_format(self, request: ToolRequest) -> Mapping[str, object] | None:
        """What the completion has to keep to so that it calls a tool; None where it need not call one.

        Raises:
            ApiError: 400, vLLM does not take the tools.
        """
        if request.choice == "auto" or not request.tools:
            return None
        from vllm.tool_parsers.utils import get_json_schema_from_tools

        asked = _engine_request(request)
        choice = asked.tool_choice or "required"
        schema = get_json_schema_from_tools(choice, [*(asked.tools or ())], request.is_parallel)
        return {"type": "json_schema", "json_schema": {"name": "calls", "schema": schema}}

    def read_calls(self, request: ToolRequest) -> ReadCalls | None:
        """How the calls of a completion are read; None where no tool may be called."""
        if not request.tools:
            return None
        if request.choice == "required":
            return _read_list
        if request.choice != "auto":
            return functools.partial(_read_arguments, request.choice)
        return functools.partial(self._read_auto, _engine_request(request), request.is_parallel)

    def _read_auto(
        self, asked: "ChatCompletionRequest", is_parallel: bool, text: str
    ) -> tuple[str, list[ToolCall]]:
        from vllm.tool_parsers import ToolParserManager

        assert self.parser is not None, "requests with tools are refused without a parser"
        try:
            parser = ToolParserManager.get_tool_parser(self.parser)(self._tokenizer, asked.tools)  # pyright: ignore[reportArgumentType]
            found = parser.extract_tool_calls(text, asked)
        except Exception as error:  # noqa: BLE001 - a text that no parser reads is an answer
            logger.warning("tool parser %s: %s", self.parser, type(error).__name__)
            return text, []
        if not found.tools_called:
            return found.content or "", []
        calls = [_call(call.function.name, call.function.arguments) for call in found.tool_calls]
        return found.content or "", calls if is_parallel else calls[:1]


def _engine_request(request: ToolRequest) -> "ChatCompletionRequest":
    """The request as vLLM's functions take it, with its tools alone.

    Raises:
        ApiError: 400, vLLM does not take the tools.
    """
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    is_named = request.choice not in ("auto", "required")
    choice = {"type": "function", "function": {"name": request.choice}} if is_named else request.choice
    body: dict[str, Any] = {"messages": [], "tools": list(request.tools), "tool_choice": choice}
    try:
        return ChatCompletionRequest.model_validate(body)
    except ValueError:
        raise ApiError(400, "invalid_request", "tools: the engine does not take them", "tools") from None


def _read_list(text: str) -> tuple[str, list[ToolCall]]:
    """Calls in a JSON list, as ``tool_choice: required`` makes a model write them; a text that was cut is
    an answer.
    """
    try:
        found: list[dict[str, Any]] = json.loads(text)
        calls = [
            _call(str(each["name"]), json.dumps(each["parameters"], ensure_ascii=False)) for each in found
        ]
    except (ValueError, TypeError, KeyError):
        return text, []
    return "", calls


def _read_arguments(name: str, text: str) -> tuple[str, list[ToolCall]]:
    """The arguments of the only tool that may be called; a text that was cut is an answer."""
    try:
        json.loads(text)
    except ValueError:
        return text, []
    return "", [_call(name, text.strip())]


def _call(name: str, arguments: str) -> ToolCall:
    return ToolCall(f"call_{uuid.uuid4().hex[:24]}", name, arguments)
