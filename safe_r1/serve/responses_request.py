"""``POST /v1/responses``: OpenAI's newer form of a chat, read as a chat request.

Responses are not stored, so that what refers to a stored one is rejected by name.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from safe_r1.serve.chat_request import (
    CalledFunction,
    CallPart,
    ChatRequest,
    ChatTurn,
    FunctionSpec,
    RefusalPart,
    SamplingRequest,
    TextPart,
    ToolSpec,
    unsupported,
)
from safe_r1.serve.errors import ApiError
from safe_r1.serve.schemas import JsonObject, Text

_NOT_STORED = "is not supported: this service stores no responses; send the whole dialogue as input"
# Fields that would change the answer, with the values that ask for the default.
_DEFAULTS: dict[str, tuple[object, ...]] = {
    "background": (None, False),
    "prompt": (None,),
    "max_tool_calls": (None,),
    "truncation": (None, "disabled"),
    "context_management": (None, []),
}
_LOGPROBS = "message.output_text.logprobs"


class _Part(BaseModel):
    """A part of a message: text of either side, or a refusal."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"]
    text: Text = ""
    refusal: Text = ""

    @property
    def content(self) -> str:
        """Its text."""
        return self.refusal if self.type == "refusal" else self.text


class MessageItem(BaseModel):
    """A turn, in the short form or as it came out of an earlier response."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[_Part]


class ReasoningItem(BaseModel):
    """Thoughts of an earlier turn, which no prompt repeats: R1's chat template leaves them out."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["reasoning"]


class CallItem(BaseModel):
    """A call of a tool in an earlier turn."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: Text = "{}"


class CallOutputItem(BaseModel):
    """The result of a call."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["function_call_output"]
    call_id: Text
    output: Text | list[_Part]


_TAGS = {
    "message": "Message",
    "reasoning": "Reasoning",
    "function_call": "Call",
    "function_call_output": "CallOutput",
}


def _item_tag(item: object) -> str:
    """Which kind of item it is; the short form of a turn names none."""
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return _TAGS.get(str(kind or "message"), "")


InputItem = Annotated[
    Annotated[MessageItem, Tag("Message")]
    | Annotated[ReasoningItem, Tag("Reasoning")]
    | Annotated[CallItem, Tag("Call")]
    | Annotated[CallOutputItem, Tag("CallOutput")],
    Discriminator(
        _item_tag,
        custom_error_type="unsupported_item",
        custom_error_message=f"items of this type are not supported; expected {', '.join(_TAGS)}",
    ),
]


class FunctionTool(FunctionSpec):
    """A function of the caller's."""

    type: Literal["function"]


class NamedFunction(BaseModel):
    """The only function that may be called."""

    type: Literal["function"]
    name: str


class TextFormat(BaseModel):
    """The form that the answer has to keep to."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = Field(default="response", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    schema_: JsonObject | None = Field(default=None, alias="schema")

    @model_validator(mode="after")
    def _check_schema(self) -> "TextFormat":
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise ValueError("schema is needed with type json_schema, and only there")
        return self


class TextSettings(BaseModel):
    """``text`` of a request."""

    model_config = ConfigDict(extra="ignore")
    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningSettings(BaseModel):
    """``reasoning`` of a request; a wish for a summary is met with the thoughts themselves."""

    model_config = ConfigDict(extra="ignore")
    effort: str | None = None


class ResponsesRequest(SamplingRequest):
    """``POST /v1/responses``."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "demo", "input": "你好", "max_output_tokens": 64}]}
    )
    input: Annotated[Text, Field(min_length=1)] | Annotated[list[InputItem], Field(min_length=1)]
    instructions: Text | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: list[str] | None = Field(default=None, max_length=32)
    text: TextSettings | None = None
    reasoning: ReasoningSettings | None = None
    tools: list[FunctionTool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, object] | None = None
    metadata: dict[Text, Text] | None = Field(default=None, max_length=16)

    def reject_unsupported(self) -> None:
        """See ``SamplingRequest``."""
        for name in ("store", "previous_response_id", "conversation"):
            if getattr(self, name):
                raise unsupported(name, _NOT_STORED)
        extra = self.model_extra or {}
        for name, defaults in _DEFAULTS.items():
            if name in extra and extra[name] not in defaults:
                raise unsupported(name)
        if self.reasoning and self.reasoning.effort not in (None, "none"):
            raise unsupported("reasoning.effort", "is not supported: the models think as long as they do")
        if self.text and self.text.verbosity not in (None, "medium"):
            raise unsupported("text.verbosity")
        super().reject_unsupported()

    def to_chat(self) -> ChatRequest:
        """The same request in the form of a chat.

        Raises:
            ApiError: 400, a field does not suit the others.
        """
        shared = SamplingRequest.model_fields.keys() - {"model", "max_tokens", "stream", "stream_options"}
        try:
            chat = ChatRequest(
                model=self.model,
                messages=self._turns(),
                max_tokens=self.max_output_tokens,
                tools=[self._tool(tool) for tool in self.tools] if self.tools else None,
                tool_choice=self._choice(),  # pyright: ignore[reportArgumentType]
                parallel_tool_calls=self.parallel_tool_calls,
                response_format=self._format(),  # pyright: ignore[reportArgumentType]
                logprobs=_LOGPROBS in (self.include or ()) or bool(self.top_logprobs),
                top_logprobs=self.top_logprobs,
                **{name: getattr(self, name) for name in shared},
            )
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise ApiError(400, "invalid_request", first["msg"].removeprefix("Value error, ")) from None
        chat.reject_unsupported()
        return chat

    @staticmethod
    def _tool(tool: FunctionTool) -> ToolSpec:
        spec = FunctionSpec(name=tool.name, description=tool.description, parameters=tool.parameters)
        return ToolSpec(type="function", function=spec)

    def _choice(self) -> object:
        if isinstance(self.tool_choice, NamedFunction):
            return {"type": "function", "function": {"name": self.tool_choice.name}}
        # Clients send the default also without tools.
        return self.tool_choice if self.tools or self.tool_choice == "required" else None

    def _format(self) -> dict[str, Any] | None:
        wanted = self.text.format if self.text else None
        if wanted is None or wanted.type == "text":
            return None
        if wanted.type == "json_object":
            return {"type": "json_object"}
        return {"type": "json_schema", "json_schema": {"name": wanted.name, "schema": wanted.schema_}}

    def _turns(self) -> list[ChatTurn]:
        turns = [ChatTurn(role="system", content=self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return [*turns, ChatTurn(role="user", content=self.input)]
        for item in self.input:
            if isinstance(item, MessageItem):
                turns.append(ChatTurn(role=item.role, content=_content(item.content)))
            elif isinstance(item, CallOutputItem):
                turns.append(ChatTurn(role="tool", content=_content(item.output), tool_call_id=item.call_id))
            elif isinstance(item, CallItem):
                _add_call(turns, item)
        return turns


def _content(content: str | list[_Part]) -> str | list[TextPart | RefusalPart]:
    return content if isinstance(content, str) else "".join(part.content for part in content)


def _add_call(turns: list[ChatTurn], item: CallItem) -> None:
    """Calls after a message of the model, and several in a row, are one turn."""
    call = CallPart(id=item.call_id, function=CalledFunction(name=item.name, arguments=item.arguments))
    if turns and turns[-1].role == "assistant":
        turns[-1].tool_calls = [*(turns[-1].tool_calls or ()), call]
    else:
        turns.append(ChatTurn(role="assistant", content=None, tool_calls=[call]))
