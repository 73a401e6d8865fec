"""Tokens and money that the rows of an endpoint take: estimated before, counted during, and limited.

Probes, and attempts of which no answer arrived, count with the most that they can have taken. What a request
is set aside for is one attempt: attempts that are lost afterwards are counted before the next one is sent.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from safe_r1.inference.endpoint_session import Call
from safe_r1.inference.reply_cache import NO_OVERHEAD, Overhead, Reply
from safe_r1.inference.requests import Request
from safe_r1.models.endpoint_entry import EndpointEntry

_MILLION = 1e6


@dataclass
class Spending:
    """What a run costs.

    Attributes:
        entry: Has the prices and the limit.
        prompt_tokens, completion_tokens: Of all rows, those of earlier sessions included.
        overhead: What was taken beyond them, that of earlier sessions included.
        overheads: That of this session, by the request's key.
        settings: Prefix of the settings that have the limit, for messages.
    """

    entry: EndpointEntry
    prompt_tokens: int = 0
    completion_tokens: int = 0
    overhead: Overhead = NO_OVERHEAD
    overheads: dict[str, Overhead] = field(default_factory=dict)
    settings: str = "endpoint"
    _reserved: float = field(default=0.0, repr=False)

    @property
    def cost(self) -> float | None:
        """In the currency of the prices; None without prices."""
        if self.entry.input_price is None or self.entry.output_price is None:
            return None
        return self.price_of(
            self.prompt_tokens + self.overhead.prompt_tokens,
            self.completion_tokens + self.overhead.completion_tokens,
        )

    def price_of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of that many tokens."""
        return (
            prompt_tokens * (self.entry.input_price or 0) + completion_tokens * (self.entry.output_price or 0)
        ) / _MILLION

    def add(self, key: str, reply: Reply) -> None:
        """Count the reply to the request of a key."""
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        if reply.overhead:
            self.overhead += reply.overhead
            self.overheads[key] = self.overheads.get(key, NO_OVERHEAD) + reply.overhead

    def reserve(self, request: Request) -> float | None:
        """Set aside what a request can cost at most; None where that could exceed the limit."""
        if self.entry.max_cost is None:
            return 0.0
        most = self.price_of(Call(request.messages).most_prompt_tokens, request.max_tokens)
        if (self.cost or 0.0) + self._reserved + most > self.entry.max_cost:
            return None
        self._reserved += most
        return most

    def release(self, reserved: float) -> None:
        """Give back what was set aside."""
        self._reserved -= reserved

    @property
    def has_reserved(self) -> bool:
        """True while requests are under way that were set aside for."""
        return self._reserved > 1e-12


class TokenEstimate(NamedTuple):
    """About how many tokens some rows take."""

    num_rows: int
    prompt_tokens: int
    completion_tokens: int


def estimate_tokens(rows: Iterable[tuple[Request, int]]) -> TokenEstimate:
    """About how many tokens the prompts have and the completions will have.

    Args:
        rows: Each request with the mean length of such a completion in tokens.
    """
    num_rows = prompts = completions = 0
    for request, length in rows:
        num_rows += 1
        prompts += Call(request.messages).prompt_tokens
        completions += min(length, request.max_tokens)
    return TokenEstimate(num_rows, prompts, completions)
