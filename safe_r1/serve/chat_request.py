"""Requests to OpenAI's chat and completion routes, and what of them is not supported.

Fields that would change the answer and are not supported are rejected by name instead of being ignored.
"""

import uuid
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from safe_r1.schema import Message
from safe_r1.serve.base import SamplingParams, ToolRequest
from safe_r1.serve.errors import ApiError
from safe_r1.serve.schemas import JsonObject, Text

MAX_CHOICES = 128
_MAX_TOP_LOGPROBS = 20
# Values that ask for the default behaviour, which clients send without being asked to.
_NEUTRAL_VALUES = (None, False, [], {}, 0, "none", "", {"type": "text"}, ["text"])
_UNSUPPORTED = {
    # OpenAI's.
    "audio",
    "best_of",
    "echo",
    "function_call",
    "functions",
    "modalities",
    "moderation",
    "prediction",
    "reasoning_effort",
    "store",
    "suffix",
    "verbosity",
    "web_search_options",
    # vLLM's own.
    "allowed_token_ids",
    "bad_words",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "include_stop_str_in_output",
    "logprob_token_ids",
    "prompt_embeds",
    "prompt_logprobs",
    "repetition_detection",
    "stop_token_ids",
    "structured_outputs",
    "thinking_token_budget",
    "truncate_prompt_tokens",
    "use_beam_search",
}
# Fields of the engine's request that are passed on as they are.
_ENGINE_OPTIONS = (
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "top_k",
    "min_p",
    "min_tokens",
    "ignore_eos",
)


def unsupported(name: str, reason: str = "is not supported by this service") -> ApiError:
    """The error of a field that is not supported."""
    return ApiError(400, "unsupported_parameter", f"{name} {reason}", name)


class SamplingRequest(BaseModel):
    """Fields of all generation routes.

    Unknown fields are accepted, since OpenAI's clients send some without effect here, such as ``user``; those
    that would change the answer are rejected by ``reject_unsupported``.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    min_p: float | None = Field(default=None, ge=0, le=1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        default=None, max_length=1024, description="token id to what is added to its logit"
    )
    min_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    ignore_eos: bool | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: dict[str, object] | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool((self.stream_options or {}).get("include_usage"))

    @property
    def token_limit(self) -> int | None:
        """Maximum number of tokens to generate."""
        return self.max_tokens

    @property
    def num_choices(self) -> int:
        """Completions of the prompt."""
        return 1

    @property
    def logprobs_of_top(self) -> int | None:
        """Likeliest tokens whose log probabilities are wanted; None: no log probabilities."""
        return None

    @property
    def format(self) -> Mapping[str, object] | None:
        """OpenAI's ``response_format`` that the answer has to keep to; None: any text."""
        return None

    @property
    def params(self) -> SamplingParams:
        """Sampling parameters; a request without a seed gets a random one."""
        # 31 bits, like the seeds of an evaluation's rows.
        seed = uuid.uuid4().int if self.seed is None else self.seed
        options = {name: value for name in _ENGINE_OPTIONS if (value := getattr(self, name)) is not None}
        return SamplingParams(
            seed % 2**31,
            self.token_limit,
            self.temperature,
            self.top_p,
            num_choices=self.num_choices,
            top_logprobs=self.logprobs_of_top,
            response_format=self.format,
            engine_options=options,
        )

    def reject_unsupported(self) -> None:
        """Reject a field that would change the answer if it were supported.

        Raises:
            ApiError: 400 with the field's name.
        """
        extra = self.model_extra or {}
        for name in sorted(_UNSUPPORTED & extra.keys()):
            if extra[name] not in _NEUTRAL_VALUES:
                raise unsupported(name)
        for token in self.logit_bias or ():
            if not token.isdecimal():
                raise ApiError(400, "invalid_request", "logit_bias: a key is no token id", "logit_bias")


class _ChoicesRequest(SamplingRequest):
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES, description="number of choices")
    stop: Text | list[Text] | None = Field(default=None, max_length=1024)

    @property
    def num_choices(self) -> int:
        """See ``SamplingRequest``."""
        return self.n or 1

    @property
    def stops(self) -> list[str]:
        """Stop strings."""
        found = [self.stop] if isinstance(self.stop, str) else list(self.stop or [])
        return [text for text in found if text]


class TextPart(BaseModel):
    """A text part of a turn's content."""

    type: Literal["text"]
    text: Text


class RefusalPart(BaseModel):
    """A refusal in an earlier turn of the model, which is text as any other."""

    type: Literal["refusal"]
    refusal: Text

    @property
    def text(self) -> str:
        """Its text."""
        return self.refusal


class DialogueTurn(BaseModel):
    """A turn of a dialogue; its content is a text or a list of text parts."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart | RefusalPart]

    @property
    def text(self) -> str:
        """Its content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or ())

    def to_message(self) -> Message:
        """The turn as the prompt renderer expects it."""
        # OpenAI renamed the role; no chat template knows the new name.
        return Message(role="system" if self.role == "developer" else self.role, content=self.text)


class CalledFunction(BaseModel):
    """Name and arguments of a call."""

    name: Text
    arguments: Text = Field(default="{}", description="JSON text")


class CallPart(BaseModel):
    """A call of a tool in an earlier turn of the model."""

    id: Text = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatTurn(DialogueTurn):
    """A turn of a chat: also a call of a tool, or its result."""

    role: Literal["system", "developer", "user", "assistant", "tool"]  # pyright: ignore[reportIncompatibleVariableOverride]
    content: Text | list[TextPart | RefusalPart] | None = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None, validate_default=True
    )
    tool_calls: list[CallPart] | None = None
    tool_call_id: Text | None = None
    name: Text | None = None

    @field_validator("content")
    @classmethod
    def _check_content(
        cls, content: str | list[TextPart | RefusalPart] | None, info: ValidationInfo
    ) -> str | list[TextPart | RefusalPart] | None:
        if content is None and info.data.get("role") != "assistant":
            raise ValueError("only a turn of role assistant may have no content")
        return content

    @property
    def is_about_tools(self) -> bool:
        """Whether it calls a tool or has its result."""
        return self.role == "tool" or bool(self.tool_calls)

    def to_template(self) -> dict[str, object]:
        """The turn as chat templates take it, with what it says of tools."""
        turn: dict[str, object] = {**self.to_message()}
        if self.tool_calls:
            # The older templates of R1 tell a turn that calls by its lack of content.
            turn["content"] = self.text or None
            turn["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        turn |= {"tool_call_id": self.tool_call_id} if self.tool_call_id else {}
        return turn | ({"name": self.name} if self.name and self.role == "tool" else {})


class FunctionSpec(BaseModel):
    """What a model is told of a function."""

    model_config = ConfigDict(extra="ignore")
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: Text | None = None
    parameters: JsonObject | None = Field(default=None, description="JSON schema of its arguments")


class ToolSpec(BaseModel):
    """A tool: a function of the caller's."""

    type: Literal["function"]
    function: FunctionSpec


class NamedTool(BaseModel):
    """The only tool that may be called."""

    class _Name(BaseModel):
        name: str

    type: Literal["function"]
    function: _Name


class JsonSchemaSpec(BaseModel):
    """A JSON schema with a name."""

    model_config = ConfigDict(extra="ignore")
    name: str = Field(default="response", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    schema_: JsonObject = Field(alias="schema")


class ResponseFormat(BaseModel):
    """The form that an answer has to keep to."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaSpec | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is needed with type json_schema, and only there")
        return self

    def to_engine(self) -> dict[str, object] | None:
        """In the form of the engine's request; None for any text."""
        return None if self.type == "text" else self.model_dump(by_alias=True, exclude_none=True)


class ChatRequest(_ChoicesRequest):
    """``POST /v1/chat/completions``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "demo", "messages": [{"role": "user", "content": "你好"}], "max_tokens": 64}
            ]
        }
    )
    messages: list[ChatTurn] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=_MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: list[ToolSpec] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None

    @property
    def token_limit(self) -> int | None:
        """Maximum number of tokens to generate, under either of its two names."""
        return self.max_tokens or self.max_completion_tokens

    @property
    def logprobs_of_top(self) -> int | None:
        """See ``SamplingRequest``."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def format(self) -> Mapping[str, object] | None:
        """See ``SamplingRequest``."""
        return self.response_format.to_engine() if self.response_format else None

    @property
    def tool_request(self) -> ToolRequest | None:
        """The tools, where there are any or the dialogue speaks of some."""
        tools = (
            []
            if self.tool_choice == "none"
            else [tool.model_dump(exclude_none=True) for tool in self.tools or ()]
        )
        if not tools and not any(turn.is_about_tools for turn in self.messages):
            return None
        choice = self.tool_choice or "auto"
        name = choice.function.name if isinstance(choice, NamedTool) else choice
        turns = [turn.to_template() for turn in self.messages]
        is_parallel = self.parallel_tool_calls is not False
        return ToolRequest(tools, turns, name, is_parallel)

    def reject_unsupported(self) -> None:
        """See ``SamplingRequest``; also fields that do not go together."""
        super().reject_unsupported()
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "invalid_request", "top_logprobs needs logprobs: true", "top_logprobs")
        names = {tool.function.name for tool in self.tools or ()}
        if self.tool_choice in ("required", "auto") and not names:
            raise ApiError(400, "invalid_request", "tool_choice is only allowed with tools", "tool_choice")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ApiError(400, "invalid_request", "tool_choice names none of the tools", "tool_choice")
        if names and self.tool_choice != "none" and self.format:
            raise unsupported("response_format", "is not supported together with tools")


class CompletionRequest(_ChoicesRequest):
    """``POST /v1/completions``: a text, or token ids, that the model continues without a chat template."""

    prompt: Text | list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    logprobs: int | None = Field(default=None, ge=0, le=_MAX_TOP_LOGPROBS)

    @field_validator("prompt", mode="before")
    @classmethod
    def _take_out(cls, prompt: object) -> object:
        """The only prompt of a list, as clients that send batches write it."""
        if not isinstance(prompt, list) or not all(isinstance(each, list | str) for each in prompt):
            return prompt
        if len(prompt) > 1:
            raise ValueError("several prompts in one request are not supported: send one request each")
        return prompt[0] if prompt else prompt

    @property
    def logprobs_of_top(self) -> int | None:
        """See ``SamplingRequest``."""
        return self.logprobs

    def reject_unsupported(self) -> None:
        """See ``SamplingRequest``."""
        super().reject_unsupported()
        for name in ("tools", "tool_choice", "response_format", "top_logprobs"):
            if (self.model_extra or {}).get(name) not in _NEUTRAL_VALUES:
                raise unsupported(name, "is supported by /v1/chat/completions alone")
