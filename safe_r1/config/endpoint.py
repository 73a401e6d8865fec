"""A model behind a URL."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainSerializer

from safe_r1.settings import Settings

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _sendable(headers: dict[str, str]) -> dict[str, str]:
    if not all(f"{name}{value}".isascii() for name, value in headers.items()):
        # Without the value, which may be a key.
        raise ValueError("HTTP headers hold ASCII characters alone")
    return headers


def _without_values(headers: dict[str, str]) -> dict[str, str]:
    # They often hold a key; what is written to a file or a terminal is made from the JSON form.
    return dict.fromkeys(headers, "…")


def _variable_name(name: str) -> str:
    if _VARIABLE.fullmatch(name) is None:
        # Without the value, which may be the key itself.
        raise ValueError("expected the name of an environment variable, and not a key")
    return name


VariableName = Annotated[str, AfterValidator(_variable_name)]
"""Name of an environment variable that holds a key."""
Headers = Annotated[
    dict[str, str], AfterValidator(_sendable), PlainSerializer(_without_values, when_used="json")
]
"""HTTP headers, whose values are never recorded."""


class EndpointConfig(Settings):
    """Limits, prices and requests of a model behind a URL.

    Prices are in any currency, the same for all three.
    """

    api_key_env: VariableName | tuple[VariableName, ...] = Field(
        default="SAFE_R1_API_KEY", description="environment variable of the key, or several for several keys"
    )
    headers: Headers = Field(
        default_factory=dict, repr=False, description="further HTTP headers; their values are never recorded"
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict, description="further fields of every request, by the provider's names"
    )
    concurrency: int = Field(
        default=32,
        ge=1,
        description="maximum concurrent requests of one URL and key; fewer after 429 and 503",
    )
    requests_per_minute: int | None = Field(default=None, ge=1, description="limit of one URL and key")
    tokens_per_minute: int | None = Field(
        default=None, ge=1, description="limit of one URL and key, prompts and completions together"
    )
    timeout_s: float = Field(default=600.0, gt=0, description="time limit of one attempt, in seconds")
    max_retries: int = Field(
        default=5, ge=0, description="retries of one attempt before the endpoint counts as busy"
    )
    patience_s: float = Field(
        default=600.0,
        ge=0,
        description="how long an endpoint may answer 429 or 5xx alone before the job gives up, in seconds",
    )
    input_price: float | None = Field(default=None, ge=0, description="price of a million prompt tokens")
    output_price: float | None = Field(default=None, ge=0, description="price of a million completion tokens")
    max_cost: float | None = Field(
        default=None, gt=0, description="the job stops before its run costs more; needs both prices"
    )
    block_patterns: tuple[str, ...] = Field(
        default=(), description="texts in a provider's error that mean: its content filter took the question"
    )

    @property
    def api_key_envs(self) -> tuple[str, ...]:
        """All environment variables with a key."""
        return (self.api_key_env,) if isinstance(self.api_key_env, str) else self.api_key_env
