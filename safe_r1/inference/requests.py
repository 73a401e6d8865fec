"""What a model is asked and what comes back: the rows that every target and every judging engine shares."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NotRequired, Protocol, TypedDict

from safe_r1.schema import Message


@dataclass(frozen=True)
class Continuation:
    """A completion that the model goes on with.

    Attributes:
        text: What it has written, with the reasoning prefix of its prompt.
        suffix: What is put behind that text.
        choices: The texts of which it writes one.
    """

    text: str
    suffix: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Opening:
    """The beginning of a completion that is put into the model's mouth; the model goes on with it.

    Attributes:
        thought: Of its reasoning; None: none. With an answer the reasoning ends with it.
        answer: Of its answer; None: none.
    """

    thought: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Request:
    """One dialogue that the model continues.

    Attributes:
        key: Identity of the row, returned with its result.
        messages: The dialogue.
        max_tokens: Maximum length of the completion in tokens.
        seed: Of the sampler, for this row alone.
        given: The answer, where it came with the question and nothing is generated.
        given_reasoning: The reasoning that came with it.
        continuation: For an engine: the completion that it goes on with.
        opening: For an engine: how the completion begins.
        names_tags: The dialogue is a prompt of a judge or teacher, which may speak of thinking tags. In any
            other, a user's tags are text.
    """

    key: str
    messages: list[Message]
    max_tokens: int
    seed: int
    given: str | None = None
    given_reasoning: str = ""
    continuation: Continuation | None = None
    opening: Opening | None = None
    names_tags: bool = False


class RequestBatch(Protocol):
    """Requests that are read where they are needed, so that no process holds all of them; picklable."""

    @property
    def num_rows(self) -> int:
        """Number of requests."""
        ...

    def read(self) -> Iterable[Request]:
        """The requests, the same each time."""
        ...


@dataclass(frozen=True)
class ListedRequests:
    """A batch of requests that are in memory."""

    requests: Sequence[Request]

    @property
    def num_rows(self) -> int:
        """Number of requests."""
        return len(self.requests)

    def read(self) -> Iterable[Request]:
        """The requests."""
        return self.requests


def in_batches(requests: Sequence[Request], num_rows: int = 256) -> list[ListedRequests]:
    """Requests that are in memory as batches of at most ``num_rows``."""
    return [ListedRequests(requests[start : start + num_rows]) for start in range(0, len(requests), num_rows)]


class EngineResult(TypedDict):
    """The result of one request.

    Attributes:
        key: The request's.
        prompt_tokens: Length of the rendered prompt in tokens.
        completion_tokens: Number of generated tokens.
        text: The completion, with the reasoning prefix of its prompt and the request's opening; empty where
            there is an error.
        finish_reason: ``stop`` or ``length``; None where there is an error.
        error: Why there is no completion.
        parts: Reasoning and answer where they are known apart from the text; else None.
        blocked, served_by: See ``Completion``; None for an engine.
        is_lost: True where the error is not the request's, so that a later session may get a completion.
    """

    key: str
    prompt_tokens: int
    completion_tokens: int
    text: str
    finish_reason: str | None
    error: str | None
    parts: tuple[str, str | None] | None
    blocked: str | None
    served_by: str | None
    is_lost: NotRequired[bool]


@dataclass(frozen=True)
class Sampling:
    """Sampling settings shared by all requests of a call."""

    temperature: float
    top_p: float


@dataclass(frozen=True)
class BatchCounts:
    """Counts of rows that were finished together."""

    rows: int
    failed: int
    tokens: int


def row_seed(*parts: str | int) -> int:
    """A seed of 31 bits from what identifies a row: the same on every machine and in every order."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:4], "big") >> 1
