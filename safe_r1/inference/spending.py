"""Tokens and money that the rows of an endpoint take: estimated before, counted during, and limited."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from safe_r1.inference.endpoint_session import Call
from safe_r1.inference.reply_cache import Reply
from safe_r1.inference.requests import Request
from safe_r1.models.endpoint_entry import EndpointEntry

_MILLION = 1e6
# Tokens that a chat template adds to a turn, at most.
_TOKENS_PER_TURN = 8


@dataclass
class Spending:
    """What a run costs.

    Attributes:
        entry: Has the prices and the limit.
        prompt_tokens, completion_tokens: Of all rows, those of earlier sessions included.
    """

    entry: EndpointEntry
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _reserved: float = field(default=0.0, repr=False)

    @property
    def cost(self) -> float | None:
        """In the currency of the prices; None without prices."""
        if self.entry.input_price is None or self.entry.output_price is None:
            return None
        return self.price_of(self.prompt_tokens, self.completion_tokens)

    def price_of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of that many tokens."""
        return (
            prompt_tokens * (self.entry.input_price or 0) + completion_tokens * (self.entry.output_price or 0)
        ) / _MILLION

    def add(self, reply: Reply) -> None:
        """Count a reply."""
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens

    def reserve(self, request: Request) -> float | None:
        """Set aside what a request can cost at most; None where that could exceed the limit."""
        if self.entry.max_cost is None:
            return 0.0
        # A token has at least one byte.
        longest = sum(
            len(turn["content"].encode(errors="replace")) + _TOKENS_PER_TURN for turn in request.messages
        )
        most = self.price_of(longest, request.max_tokens)
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


def estimate_tokens(requests: Sequence[Request], completion_tokens: Mapping[str, int]) -> tuple[int, int]:
    """About how many tokens the prompts have and the completions will have.

    Args:
        requests: The rows.
        completion_tokens: Mean length of a completion by the request's key.
    """
    prompts = sum(Call(request.messages).prompt_tokens for request in requests)
    return prompts, sum(min(completion_tokens[request.key], request.max_tokens) for request in requests)
