"""Types that the evaluator, the models and the judges of the service exchange."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from safe_r1.judge.base import JudgeItem, Judgement
from safe_r1.models.thinking import ThinkingTags
from safe_r1.schema import Message, Unscored
from safe_r1.serve.errors import ApiError


@dataclass(frozen=True)
class SamplingParams:
    """Sampling of one completion; None means the default of the model's entry in ``safe_r1.models.registry``.

    Attributes:
        seed: Seed of the sampler, for this completion alone.
        num_choices: Completions of the prompt, each with a seed of its own.
        top_logprobs: Likeliest tokens whose log probabilities are returned beside each token's own; None: no
            log probabilities at all.
        response_format: OpenAI's ``response_format``, which the completion must keep to after its thoughts.
        engine_options: Further fields of the engine's own request, unchanged.
    """

    seed: int
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    num_choices: int = 1
    top_logprobs: int | None = None
    response_format: Mapping[str, object] | None = None
    engine_options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenLogprob:
    """A token with its log probability.

    Attributes:
        token: Its text; bytes that are no whole character are replaced.
        data: Its bytes.
        top: The likeliest tokens at its place.
    """

    token: str
    data: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that a model asks for.

    Attributes:
        id: Names it when its result comes back.
        arguments: JSON text, as the model wrote it.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolRequest:
    """The tools of a request.

    Attributes:
        tools: In the form of OpenAI's chat interface.
        turns: The dialogue with calls of tools and their results, which ``Message`` cannot hold.
        choice: ``auto``, ``required``, or the name of the only tool that may be called.
        is_parallel: Several calls in one turn are allowed.
    """

    tools: Sequence[Mapping[str, object]]
    turns: Sequence[Mapping[str, object]]
    choice: str = "auto"
    is_parallel: bool = True


ReadCalls = Callable[[str], tuple[str, list[ToolCall]]]
"""Splits a completion without its thoughts into the answer and the calls of tools in it."""


@dataclass(frozen=True)
class Generation:
    """A whole completion.

    Attributes:
        text: The completion, after the reasoning prefix of the prompt, if there is one.
        own_tags: Tags of the model's thoughts where they are of no known form.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    own_tags: ThinkingTags | None = None


@dataclass(frozen=True)
class Chunk:
    """A part of a completion that is being streamed; only the last one has the token counts.

    Attributes:
        completion_tokens: Of all choices.
        index: Which of several choices it belongs to.
    """

    text: str
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class ChatReply:
    """A reply to a dialogue, whole or in progress.

    Attributes:
        prefix: Reasoning prefix of the prompt, with which the completion begins; empty if there is none.
        num_prompt: Tokens of the prompt.
        chunks: The completion; of several choices, their chunks as they come.
        own_tags: Tags of the model's thoughts where they are of no known form.
        read_calls: Reads calls of tools; None where the request has no tools.
    """

    prefix: str
    num_prompt: int
    chunks: AsyncIterator[Chunk]
    own_tags: ThinkingTags | None = None
    read_calls: ReadCalls | None = None


class Model(Protocol):
    """A served model: on engines of the cluster, or behind another URL.

    Attributes:
        slots: Completions that it can work on concurrently.
    """

    slots: int

    async def generate(self, messages: list[Message], params: SamplingParams) -> Generation:
        """Generate one whole completion.

        Raises:
            ApiError: Prompt too long or blocked, overload, or engine down.
        """
        ...

    async def chat(
        self,
        messages: list[Message],
        params: SamplingParams,
        stop: Sequence[str],
        *,
        stream: bool = False,
        tools: ToolRequest | None = None,
    ) -> ChatReply:
        """The reply to a dialogue; see ``generate`` for errors.

        Raises:
            ApiError: Also 400 for what the model does not support.
        """
        ...


@runtime_checkable
class TextModel(Model, Protocol):
    """A served model that also continues texts without a chat template."""

    async def tokenize(self, prompt: str | list[int]) -> list[int]:
        """Tokens of a text that is continued without a chat template.

        Raises:
            ApiError: The prompt fills the context.
        """
        ...

    def complete(
        self, tokens: list[int], params: SamplingParams, stop: list[str], *, stream: bool = False
    ) -> AsyncIterator[Chunk]:
        """Complete a tokenized prompt."""
        ...


@runtime_checkable
class PricedModel(Protocol):
    """A served model that may have prices."""

    def price_of(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Price of that many tokens; None without prices."""
        ...


class GenerationClient(Protocol):
    """Generates completions with models chosen by name."""

    async def generate(self, model: str, messages: list[Message], params: SamplingParams) -> Generation:
        """Generate one completion.

        Raises:
            ApiError: Unknown model, prompt too long, overload, or engine down.
        """
        ...


class JudgeClient(Protocol):
    """Calls the judge of the service.

    Attributes:
        judge_name: Label of the judge (``NAME@IDENTITY``), as in the verdicts of an evaluation.
    """

    judge_name: str

    async def judge(self, items: Sequence[JudgeItem], *, retry: bool = True) -> list[Judgement]:
        """Judge all items, in order.

        Args:
            items: Texts to be judged.
            retry: Wait and try again while the judge is down or overloaded.

        Raises:
            ApiError: The judge is down or overloaded.
        """
        ...


NOT_JUDGED = (Unscored.JUDGE_OVERLOADED, Unscored.JUDGE_UNAVAILABLE)
"""Reasons that mean that the judge has not seen the text."""
_UNSCORED_BY_STATUS = {429: Unscored.JUDGE_OVERLOADED, 503: Unscored.JUDGE_UNAVAILABLE}


def unscored_reason(error: ApiError) -> Unscored:
    """Reason of an item that is unscored because the call of the judge failed."""
    return _UNSCORED_BY_STATUS.get(error.status, Unscored.JUDGE_ERROR)
