"""Many calls of an OpenAI-compatible chat endpoint, with a cache keyed by content.

Judges and teachers use it. A row that the endpoint declines (content filter, over-long prompt) comes back
with the reason; an endpoint that cannot be used at all raises at once. Replies received before that stay in
the cache, so that the repeated command sends only the rest.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from safe_r1.inference.blocking import run_blocking
from safe_r1.inference.endpoint_client import EndpointClient
from safe_r1.inference.endpoint_session import Call, EndpointSession
from safe_r1.inference.reply_cache import Reply, ReplyCache, Write
from safe_r1.schema import Message

logger = logging.getLogger(__name__)

Prompt = tuple[list[Message], str]
"""A dialogue, and a tag that keeps calls with the same dialogue apart in the cache."""


class ChatEndpoint:
    """A chat model behind a URL, and the replies that it has given.

    Attributes:
        model: The model that is asked.
    """

    def __init__(
        self,
        client: EndpointClient,
        *,
        cache_dir: str | Path | None = None,
        salt: str = "",
        is_final: Callable[[Reply], bool] = lambda reply: reply.text is not None,
    ):
        """Create the endpoint; touches no file.

        Args:
            client: The connection.
            cache_dir: Folder of the reply cache, shared by any number of processes; None keeps nothing.
            salt: Enters the key of a cached reply: whatever else decides how a reply is read.
            is_final: Which replies the cache keeps.
        """
        self.client = client
        self.model = client.model
        self.cache = ReplyCache(cache_dir, client.title)
        self._salt = salt
        self.is_final = is_final

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
        replies = self.cache.read(set(keys))
        todo = {key: messages for key, (messages, _) in zip(keys, prompts, strict=True) if key not in replies}
        logger.info(
            "%s %s: %d rows, %d of %d calls cached",
            self.client.title,
            self.model,
            len(prompts),
            len(replies),
            len(set(keys)),
        )
        if todo:
            replies |= await _Batch(self, todo).run()
        return [replies[key] for key in keys]

    def _key(self, messages: list[Message], tag: str) -> str:
        content = [self.model, self._salt, messages, self.client.sampling, tag]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
                endpoint.cache.writing() as write,
                tqdm(total=len(self._todo), desc=endpoint.client.title, unit="row", disable=None) as bar,
            ):
                async with EndpointSession(endpoint.client) as session, asyncio.TaskGroup() as workers:
                    for _ in range(min(endpoint.client.concurrency, len(self._todo))):
                        workers.create_task(self._work(session, pending, write, bar))
        except ExceptionGroup as caught:
            raise first_error(caught) from None
        if not self._num_answered and self._num_failed_in_a_row:
            first = next(reply.error for reply in self._replies.values() if reply.error)
            raise endpoint.client.error(f"no row could be answered: {first}")
        return self._replies

    async def _work(
        self, session: EndpointSession, pending: Iterator[tuple[str, list[Message]]], write: Write, bar: tqdm
    ) -> None:
        endpoint = self._endpoint
        for key, messages in pending:
            reply = await session.ask(Call(messages))
            self._replies[key] = reply
            bar.update()
            if reply.text is not None and endpoint.is_final(reply):
                write(key, reply)
            if reply.text is not None or reply.is_row_fault:
                self._num_answered += 1
                self._num_failed_in_a_row = 0
                continue
            self._num_failed_in_a_row += 1
            if self._num_failed_in_a_row >= max(3, 2 * endpoint.client.concurrency):
                raise endpoint.client.error(
                    f"{self._num_failed_in_a_row} rows failed in a row, the last one: {reply.error}"
                )


def first_error(error: Exception) -> Exception:
    """The first error inside a group of tasks' errors."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
