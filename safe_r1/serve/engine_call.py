"""What an ingress and a model's replica exchange for one completion."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TokenScore = tuple[int, float, list[tuple[int, float]]]
"""A token, its log probability, and the likeliest tokens at its place with theirs."""


@dataclass(frozen=True)
class Sink:
    """Where the text of one completion goes.

    Attributes:
        host: Address of the ingress.
        port: Its port.
        secret: Its secret, which the connection begins with.
        id: The completion.
    """

    host: str
    port: int
    secret: str = field(repr=False)
    id: str

    @property
    def address(self) -> tuple[str, int, str]:
        """What one connection is kept for."""
        return self.host, self.port, self.secret


@dataclass(frozen=True)
class EngineRequest:
    """One completion.

    Attributes:
        id: Its name in the engine.
        tokens: The prompt.
        body: Fields of vLLM's ``CompletionRequest`` that say how to sample.
        stop: Texts that end the completion, of any number.
        sink: Where its text goes while it is generated; None: nowhere.
    """

    id: str
    tokens: list[int]
    body: Mapping[str, Any]
    stop: list[str]
    sink: Sink | None = None


@dataclass(frozen=True)
class Delta:
    """A part of one choice of a completion.

    Attributes:
        index: The choice.
        start: Characters of the choice before it.
        text: Its text.
        first_logprob: Log probabilities of the choice before it.
        logprobs: Those of its tokens, where they were asked for.
    """

    index: int
    start: int
    text: str
    first_logprob: int = 0
    logprobs: list[TokenScore] = field(default_factory=list)


@dataclass(frozen=True)
class ChoiceReply:
    """A choice of a completion.

    Attributes:
        text: The whole choice, or what is left of it.
        finish_reason: ``stop`` or ``length``.
    """

    text: Delta
    finish_reason: str


@dataclass(frozen=True)
class EngineReply:
    """A whole completion, or why there is none.

    Attributes:
        choices: By their index.
        num_tokens: Tokens of all choices.
        error: What the engine says of a request that it rejects.
    """

    choices: tuple[ChoiceReply, ...] = ()
    num_tokens: int = 0
    error: str | None = None
