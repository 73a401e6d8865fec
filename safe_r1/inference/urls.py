"""URLs of OpenAI-compatible endpoints."""

from urllib.parse import urlsplit, urlunsplit

from safe_r1.errors import ConfigError


def normalise_url(url: str, title: str) -> str:
    """The base URL that the openai library expects: ``/v1`` where there is no path, no ``/chat/completions``.

    Raises:
        ConfigError: Not a URL; ``title`` says whose.
    """
    try:
        parts = urlsplit(url.strip())
        _ = parts.port  # read, as only this raises where the port is no number
    except ValueError:
        # Not shown: what is not a URL cannot be freed of its password.
        raise ConfigError(f"{title} is not a URL; expected http(s)://HOST[:PORT]/v1") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"{title} '{without_credentials(url)}' is not a URL; expected http(s)://HOST[:PORT]/v1"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def without_credentials(url: str) -> str:
    """The URL as it may be printed: without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
