"""Client of an OpenAI-compatible chat endpoint: bounded concurrency, retries, and a cache keyed by content.

Judges and teachers both use it. Retries and time-outs are the openai client's. A row that the endpoint
declines (content filter, over-long prompt) comes back with the reason; an endpoint that cannot be used at all
raises at once. Replies received before that stay in the cache, so that the repeated command sends only the
rest. Neither prompts, replies nor the API key are logged.
"""

import asyncio
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import openai
from openai.types.chat import ChatCompletion
from tqdm import tqdm

from safe_r1.errors import ConfigError, EndpointError
from safe_r1.inference.blocking import run_blocking
from safe_r1.inference.reply_cache import Reply, ReplyCache, Write
from safe_r1.inference.urls import normalise_url, without_credentials
from safe_r1.schema import Message

logger = logging.getLogger(__name__)

Prompt = tuple[list[Message], str]
"""A dialogue, and a tag that keeps calls with the same dialogue apart in the cache."""

_REMEDY = "replies received so far are kept; start or correct the endpoint and repeat the same command"
# How servers say that they decline this row's content, or that it is too long; other rows may succeed.
_ROW_REFUSED = re.compile(
    r"content.?(?:filter|policy|management|risk)|data.?inspection|inappropriate|sensitive|moderation|safety"
    r"|敏感|违规|不合规"
    r"|context.?length|maximum context|too (?:long|many tokens)|max_model_len|string_above_max",
    re.I,
)


class ChatSampling(TypedDict, total=False):
    """Sampling settings of a call, by the names of OpenAI's interface."""

    temperature: float
    top_p: float
    max_tokens: int


class _ClientSettings(TypedDict):
    """Arguments that the openai library's two clients share."""

    base_url: str
    api_key: str
    timeout: openai.Timeout
    max_retries: int


class ChatEndpoint:
    """A chat model at any OpenAI-compatible URL.

    Attributes:
        model: The model that is asked.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        title: str,
        api_key_variable: str,
        api_key: str | None = None,
        concurrency: int = 16,
        timeout_s: float = 120.0,
        max_retries: int = 4,
        cache_dir: str | Path | None = None,
        salt: str = "",
        sampling: ChatSampling,
        error: type[EndpointError] = EndpointError,
        is_final: Callable[[Reply], bool] = lambda reply: reply.text is not None,
    ):
        """Create the client; asks the endpoint for its model where none is named.

        Args:
            base_url: ``http(s)://host[:port][/v1]``; ``/v1`` is added where the URL has no path.
            model: Model name; None takes the only one that the endpoint serves.
            title: Name of the endpoint in messages.
            api_key_variable: Environment variable of the key; the fallbacks are ``OPENAI_API_KEY`` and then
                ``none`` (local servers).
            api_key: The key itself; takes precedence over the environment.
            concurrency: Largest number of calls in flight.
            timeout_s: For one attempt of one call.
            max_retries: Further attempts after a time-out, a broken connection, 408, 409, 429 or 5xx.
            cache_dir: Folder of the reply cache, shared by any number of processes; None keeps nothing.
            salt: Enters the key of a cached reply: whatever else decides how a reply is read.
            sampling: Sampling settings of all calls.
            error: Type that is raised where the endpoint as a whole is unusable.
            is_final: Which replies the cache keeps.

        Raises:
            ConfigError: Not a URL, or a limit below 1.
            EndpointError: No model was named and the endpoint does not serve exactly one.
        """
        if concurrency < 1 or sampling.get("max_tokens", 1) < 1 or timeout_s <= 0 or max_retries < 0:
            raise ConfigError(
                f"{title}: got concurrency {concurrency}, max_tokens {sampling.get('max_tokens')}, "
                f"timeout_s {timeout_s}, max_retries {max_retries}; "
                "expected at least 1, at least 1, more than 0 and at least 0"
            )
        self._title = title
        self._base_url = normalise_url(base_url, title)
        self._shown_url = without_credentials(self._base_url)
        self._key_variable = api_key_variable
        self._api_key = (
            api_key or os.environ.get(api_key_variable) or os.environ.get("OPENAI_API_KEY") or "none"
        )
        self._timeout = openai.Timeout(timeout_s, connect=min(timeout_s, 10.0))
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._concurrency = concurrency
        self._cache = ReplyCache(cache_dir, title)
        self._salt = salt
        self._sampling = sampling.copy()
        self._error_type = error
        self._is_final = is_final
        # At debug level these libraries log whole requests: prompts and headers.
        for library in ("openai", "httpx", "httpx2", "httpcore"):
            logging.getLogger(library).setLevel(logging.WARNING)
        self.model = model or self._only_model()

    def complete(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """Send all prompts; the replies come in the same order. Blocks a running event loop.

        Raises:
            EndpointError: The endpoint is down, rejects the credentials, does not know the model, or answers
                no row.
            StorageError: The cache folder cannot be used.
        """
        return run_blocking(self.complete_async(prompts))

    async def complete_async(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """``complete`` for callers that are asynchronous."""
        keys = [self._key(*prompt) for prompt in prompts]
        replies = self._cache.read(set(keys))
        todo = {key: messages for key, (messages, _) in zip(keys, prompts, strict=True) if key not in replies}
        logger.info(
            "%s %s: %d rows, %d of %d calls cached",
            self._title,
            self.model,
            len(prompts),
            len(replies),
            len(set(keys)),
        )
        if todo:
            replies |= await _Batch(self, todo).run()
        return [replies[key] for key in keys]

    def _key(self, messages: list[Message], tag: str) -> str:
        content = [self.model, self._salt, messages, self._sampling, tag]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _client_settings(self) -> _ClientSettings:
        return {
            "base_url": self._base_url,
            "api_key": self._api_key,
            "timeout": self._timeout,
            "max_retries": self._max_retries,
        }

    def _only_model(self) -> str:
        try:
            with openai.OpenAI(**self._client_settings()) as client:
                models = [model.id for model in client.models.list()]
        except openai.OpenAIError as error:
            raise self._unusable(error) from None
        except (ValueError, TypeError, AttributeError):
            raise self._error(
                "its list of models is not what OpenAI's interface prescribes; name the model"
            ) from None
        if len(models) != 1:
            listed = ", ".join(models[:20]) or "none"
            raise self._error(
                f"serves {len(models)} models ({listed}); expected exactly one, or name the model"
            )
        return models[0]

    def _error(self, what: str) -> EndpointError:
        return self._error_type(f"{self._title} {self._shown_url}: {self._redact(what)}; {_REMEDY}")

    def _redact(self, text: str) -> str:
        """Text of a server, which may repeat the key, without the key."""
        return text if self._api_key == "none" else text.replace(self._api_key, "***")

    def _unusable(self, error: openai.OpenAIError) -> EndpointError:
        """One clear line for an error that concerns every row."""
        if isinstance(error, openai.APITimeoutError):
            return self._error(f"no answer within {self._timeout_s:g} s, {self._max_retries + 1} times")
        if isinstance(error, openai.APIConnectionError):
            return self._error(f"cannot be reached ({_root_cause(error)})")
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            meaning = {
                401: f"the API key is missing or wrong (set {self._key_variable})",
                403: "the API key may not use this endpoint",
                404: f"no such address, or model '{getattr(self, 'model', '?')}' is not served here",
            }.get(status, _one_line(error.message))
            return self._error(f"HTTP {status}: {meaning}")
        return self._error(type(error).__name__)


class _Batch:
    """The calls of one ``complete``: workers on one iterator, and the counts that make them give up."""

    def __init__(self, endpoint: ChatEndpoint, todo: dict[str, list[Message]]):
        self._endpoint = endpoint
        self._todo = todo
        self._replies: dict[str, Reply] = {}
        self._num_answered = 0
        self._num_failed_in_a_row = 0

    async def run(self) -> dict[str, Reply]:
        endpoint = self._endpoint
        pending = iter(self._todo.items())
        try:
            with (
                endpoint._cache.writing() as write,
                tqdm(total=len(self._todo), desc=endpoint._title, unit="row", disable=None) as bar,
            ):
                async with (
                    openai.AsyncOpenAI(**endpoint._client_settings()) as client,
                    asyncio.TaskGroup() as workers,
                ):
                    for _ in range(min(endpoint._concurrency, len(self._todo))):
                        workers.create_task(self._work(client, pending, write, bar))
        except ExceptionGroup as caught:
            raise _first(caught) from None
        if not self._num_answered and self._num_failed_in_a_row:
            first = next(reply.error for reply in self._replies.values() if reply.error)
            raise endpoint._error(f"no row could be answered: {first}")
        return self._replies

    async def _work(
        self,
        client: openai.AsyncOpenAI,
        pending: Iterator[tuple[str, list[Message]]],
        write: Write,
        bar: tqdm,
    ) -> None:
        endpoint = self._endpoint
        for key, messages in pending:
            reply = await self._ask(client, messages)
            self._replies[key] = reply
            bar.update()
            if reply.text is not None and endpoint._is_final(reply):
                write(key, reply)
            if reply.text is not None or reply.is_row_fault:
                self._num_answered += 1
                self._num_failed_in_a_row = 0
                continue
            self._num_failed_in_a_row += 1
            if self._num_failed_in_a_row >= max(3, 2 * endpoint._concurrency):
                raise endpoint._error(
                    f"{self._num_failed_in_a_row} rows failed in a row, the last one: {reply.error}"
                )

    async def _ask(self, client: openai.AsyncOpenAI, messages: list[Message]) -> Reply:
        endpoint = self._endpoint
        try:
            answer = await client.chat.completions.create(  # pyright: ignore[reportCallIssue]
                model=endpoint.model,
                messages=messages,  # pyright: ignore[reportArgumentType]
                **endpoint._sampling,
            )
        except openai.APITimeoutError:
            return Reply(None, error=f"no answer within {endpoint._timeout_s:g} s")
        except (
            openai.APIConnectionError,
            openai.AuthenticationError,
            openai.PermissionDeniedError,
            openai.NotFoundError,
        ) as error:
            raise endpoint._unusable(error) from None
        except openai.APIStatusError as error:
            is_row_fault = (
                error.status_code in (400, 413, 422)
                and _ROW_REFUSED.search(f"{error.message} {error.body}") is not None
            )
            message = endpoint._redact(_one_line(error.message))
            return Reply(None, error=f"HTTP {error.status_code}: {message}", is_row_fault=is_row_fault)
        except (openai.APIError, ValueError):
            return Reply(None, error="the reply is not valid JSON")
        return _read(answer)


def _read(answer: ChatCompletion) -> Reply:
    """The reply in a completion object; servers are not always faithful to its type."""
    try:
        choice = answer.choices[0]
        text = choice.message.content
        finish_reason = choice.finish_reason
        reasoning = getattr(choice.message, "reasoning_content", None) or getattr(
            choice.message, "reasoning", None
        )
    except (AttributeError, IndexError, TypeError):
        return Reply(None, error="the reply holds no choices")
    if finish_reason == "content_filter":
        return Reply(None, error="the endpoint's content filter stopped the reply", is_row_fault=True)
    text = text if isinstance(text, str) else ""
    # A server with a reasoning parser returns the reasoning apart; put back where the model wrote it.
    text = (
        f"<think>\n{reasoning}\n</think>\n\n{text}"
        if isinstance(reasoning, str) and "</think>" not in text
        else text
    )
    usage = answer.usage
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    return Reply(
        text, finish_reason, "", False, *(count if isinstance(count, int) else 0 for count in counts)
    )


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str, max_chars: int = 200) -> str:
    return " ".join(text.split())[:max_chars]


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
