"""Connection to an OpenAI-compatible chat endpoint: its settings, its limits, and what its errors mean.

Retries of single attempts are the openai client's. Neither prompts, replies nor the API key are logged.
"""

import base64
import logging
import os
from collections.abc import Iterator, Mapping
from typing import TypedDict
from urllib.parse import parse_qsl, unquote, urlsplit

import openai

from safe_r1.config import EndpointConfig
from safe_r1.errors import ConfigError, EndpointError
from safe_r1.inference.blocking import run_blocking
from safe_r1.inference.endpoint_transport import BoundedHttpClient, UnreadableAnswerError
from safe_r1.inference.urls import normalise_url, without_credentials
from safe_r1.redaction import is_secret_name

_SHORTEST_SECRET = 6
_REMEDY = "replies received so far are kept; start or correct the endpoint and repeat the same command"


class ChatSampling(TypedDict, total=False):
    """Sampling settings of a call, by the names of OpenAI's interface."""

    temperature: float
    top_p: float
    max_tokens: int
    max_completion_tokens: int
    seed: int
    stop: list[str]


class _ClientSettings(TypedDict):
    """Arguments that the openai library's two clients share."""

    base_url: str
    api_key: str
    timeout: openai.Timeout
    max_retries: int
    default_headers: Mapping[str, str]


class EndpointClient:
    """A chat model at any OpenAI-compatible URL.

    Attributes:
        model: The model that is asked.
        title: Its name in messages.
        settings: Limits, headers and further fields of the requests.
        shown_url: Its URL without credentials.
        concurrency: Largest number of calls in flight.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None,
        settings: EndpointConfig,
        *,
        title: str,
        api_key_variable: str,
        api_key: str | None = None,
        adapts: bool = False,
        sampling: ChatSampling,
        error: type[EndpointError] = EndpointError,
        is_raw: bool = False,
    ):
        """Create the client; asks the endpoint for its model where none is named.

        Args:
            base_url: ``http(s)://host[:port][/v1]``; ``/v1`` is added where the URL has no path.
            model: Model name; None takes the only one that the endpoint serves.
            settings: Limits, headers and further fields of the requests.
            title: Name of the endpoint in messages.
            api_key_variable: Environment variable of the key; the fallbacks are ``OPENAI_API_KEY`` and then
                ``none`` (local servers).
            api_key: The key itself; takes precedence over the environment.
            adapts: Leave out parameters that the endpoint refuses, and find out by a probe whether an unknown
                refusal is about the content. Not for a judge, whose identity holds its sampling.
            sampling: Sampling settings of all calls.
            error: Type that is raised where the endpoint as a whole is unusable.
            is_raw: The one message of a call is the whole prompt, sent to ``/completions``, where no chat
                template changes it.

        Raises:
            ConfigError: Not a URL, a key that no header can hold, or a limit of tokens below 1.
            EndpointError: No model was named and the endpoint does not serve exactly one.
        """
        if sampling.get("max_tokens", 1) < 1:
            raise ConfigError(f"{title}: max_tokens {sampling.get('max_tokens')}; expected at least 1")
        self.title = title
        self.settings = settings
        self.concurrency = settings.concurrency
        self._base_url = normalise_url(base_url, title)
        self.shown_url = without_credentials(self._base_url)
        self._key_variable = api_key_variable
        self._api_key = api_key or _key_in_environment(api_key_variable, title)
        self._secrets = _secrets(self._base_url, self._api_key, settings)
        self.adapts = adapts
        self.is_raw = is_raw
        self.sampling = sampling.copy()
        self._error_type = error
        # At debug level these libraries log whole requests: prompts and headers.
        for library in ("openai", "httpx", "httpx2", "httpcore"):
            logging.getLogger(library).setLevel(logging.WARNING)
        self.model = model or self._only_model()

    def client_settings(self) -> _ClientSettings:
        """Arguments of the openai library's clients."""
        return {
            "base_url": self._base_url,
            "api_key": self._api_key,
            "timeout": openai.Timeout(self.settings.timeout_s, connect=min(self.settings.timeout_s, 10.0)),
            "max_retries": self.settings.max_retries,
            "default_headers": self.settings.headers,
        }

    def error(self, what: str) -> EndpointError:
        """One clear line for a fault that concerns every row."""
        return self._error_type(f"{self.title} {self.shown_url}: {self.redact(what)}; {_REMEDY}")

    def redact(self, text: str) -> str:
        """Text of a server, which may repeat the key, without the key."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def unusable(self, error: openai.OpenAIError) -> EndpointError:
        """One clear line for an error of the client that concerns every row."""
        if isinstance(error, openai.APITimeoutError):
            attempts = self.settings.max_retries + 1
            return self.error(f"no answer within {self.settings.timeout_s:g} s, {attempts} times")
        if isinstance(error, openai.APIConnectionError):
            return self.error(f"cannot be reached ({_root_cause(error)})")
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            if target := error.response.headers.get("location"):
                place = one_line(without_credentials(target))
                return self.error(f"HTTP {status}: it redirects to {place}; give that URL if you trust it")
            meaning = {
                401: f"the API key is missing or wrong (set {self._key_variable})",
                403: "the API key may not use this endpoint",
                404: f"no such address, or model '{getattr(self, 'model', '?')}' is not served here",
            }.get(status, one_line(error.message))
            return self.error(f"HTTP {status}: {meaning}")
        return self.error(type(error).__name__)

    def _only_model(self) -> str:
        try:
            models = run_blocking(self._list_models())
        except UnreadableAnswerError as error:
            raise self.error(str(error)) from None
        except openai.OpenAIError as error:
            raise self.unusable(error) from None
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
            models = None
        if models is None or not all(isinstance(name, str) and name for name in models):
            raise self.error(
                "its list of models is not what OpenAI's interface prescribes; name the model"
            ) from None
        if len(models) != 1:
            listed = one_line(", ".join(models[:20])) or "none"
            raise self.error(
                f"serves {len(models)} models ({listed}); expected exactly one, or name the model"
            )
        return models[0]

    async def _list_models(self) -> list[str]:
        http_client = BoundedHttpClient(self.settings.timeout_s)
        async with openai.AsyncOpenAI(**self.client_settings(), http_client=http_client) as client:
            return [model.id async for model in client.models.list()]


def _key_in_environment(variable: str, title: str) -> str:
    key = os.environ.get(variable) or os.environ.get("OPENAI_API_KEY") or "none"
    if not key.isascii():
        raise ConfigError(f"{title}: the key in {variable} has characters that no HTTP header can hold")
    return key


def _secrets(url: str, api_key: str, settings: EndpointConfig) -> list[str]:
    """What no message may hold, whole or in the parts that a server may repeat, longest first."""
    parts = urlsplit(url)
    user_info = parts.netloc.rpartition("@")[0]
    fields = [value for _, value in parse_qsl(parts.query, keep_blank_values=True)]
    found = {api_key, parts.query, *fields, *_texts_of_secrets(settings.extra_body)}
    for text in (user_info, parts.username or "", parts.password or ""):
        found |= {text, unquote(text)}
    # HTTP sends it so.
    found.add(base64.b64encode(unquote(user_info).encode()).decode())
    # A header may name a scheme before the key.
    for value in settings.headers.values():
        found |= {value, *value.split()}
    # Shorter values are words that texts have anyway.
    return sorted((secret for secret in found if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True)


def _texts_of_secrets(fields: object, is_secret: bool = False) -> Iterator[str]:
    """The texts in further fields of a request whose names say that they hold a secret."""
    if isinstance(fields, Mapping):
        for name, value in fields.items():
            yield from _texts_of_secrets(value, is_secret or is_secret_name(str(name)))
    elif isinstance(fields, list | tuple):
        for value in fields:
            yield from _texts_of_secrets(value, is_secret)
    elif is_secret and isinstance(fields, str):
        yield fields


def one_line(text: str, max_chars: int = 200) -> str:
    """The beginning of a text on one line, for messages."""
    return " ".join(text.split())[:max_chars]


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(str(error)) or type(error).__name__
