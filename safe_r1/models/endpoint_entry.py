"""The settings of a model behind an OpenAI-compatible URL."""

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from safe_r1.config import EndpointConfig, TagPair
from safe_r1.errors import ConfigError
from safe_r1.redaction import without_secret_fields


class EndpointEntry(EndpointConfig):
    """A model behind one URL or several.

    With several URLs or keys every pair of them takes requests, each within its own limits.
    """

    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name in folders and reports; None: MODEL--HOST[-PORT]",
    )
    url: str | tuple[str, ...] = Field(description="base URL or URLs, such as https://host/v1")
    model: str = Field(min_length=1, description="name by which the endpoint knows the model")
    thinking_tags: TagPair | None = Field(
        default=None, description="opening and closing tag of the model's thoughts; None: a known form"
    )

    @model_validator(mode="after")
    def _usable_urls(self) -> Self:
        if not self.urls:
            raise ValueError("url: expected at least one")
        for url in self.urls:
            try:
                parts = urlsplit(url)
                is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            except ValueError:  # no IPv6 address, or a port that is none
                is_usable = False
            if not is_usable:
                raise ValueError("url: expected http(s)://HOST[:PORT]/v1")
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """All base URLs."""
        return (self.url,) if isinstance(self.url, str) else self.url

    @property
    def host(self) -> str:
        """Host of the first URL, without port and credentials."""
        return urlsplit(self.urls[0]).hostname or ""

    @property
    def place(self) -> str:
        """Host of the first URL, with its port and path where they are not the usual ones."""
        parts = urlsplit(self.urls[0])
        path = parts.path.strip("/").removesuffix("chat/completions").strip("/").removesuffix("v1")
        return " ".join(filter(None, (self.host, str(parts.port or ""), path)))

    @property
    def identity(self) -> str:
        """All that can change an answer: model, host, further fields of the request; no path, port or key."""
        fields = without_secret_fields(self.extra_body)
        body = ", ".join(f"{name}={value!r}" for name, value in sorted(fields.items()))
        return f"{self.model}@{self.host}" + (f" ({body})" if body else "")


def with_overrides(
    entry: EndpointEntry, overrides: EndpointConfig, settings: str = "endpoint"
) -> EndpointEntry:
    """The entry with the settings of a job that were given in place of its own.

    Args:
        entry: The endpoint.
        overrides: The settings.
        settings: Where the job has them, for messages.

    Raises:
        ConfigError: A limit of cost without prices.
    """
    given = {name: getattr(overrides, name) for name in overrides.model_fields_set}
    found = entry.model_copy(update=given)
    if found.max_cost is not None and (found.input_price is None or found.output_price is None):
        raise ConfigError(
            f"{settings}.max_cost needs prices: set {settings}.input_price and {settings}.output_price, "
            "of a million tokens each"
        )
    return found
