"""Asks a test server for rows as the evaluation does."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from safe_r1.inference.remote import ask, make_endpoints
from safe_r1.inference.reply_cache import Reply, Write
from safe_r1.inference.requests import EngineResult, Request, Sampling, in_batches
from safe_r1.inference.spending import Spending
from safe_r1.models.endpoint_entry import EndpointEntry
from safe_r1.schema import Message
from tests.chat_server import Server

SAMPLING = Sampling(temperature=0.6, top_p=0.95)


class MemoryJournal:
    """A journal that lives as long as the test."""

    def __init__(self):
        self.replies: dict[str, Reply] = {}

    def read(self, keys: Iterable[str]) -> dict[str, Reply]:
        return {key: self.replies[key] for key in keys if key in self.replies}

    @contextmanager
    def writing(self) -> Iterator[Write]:
        yield self.replies.__setitem__


def request(text: str, max_tokens: int = 100) -> Request:
    return Request(text, [Message(role="user", content=f"问题{text}")], max_tokens, seed=7)


def entry_of(server: Server, **settings: Any) -> EndpointEntry:
    fast = {"concurrency": 4, "timeout_s": 2.0, "max_retries": 1, "patience_s": 5.0}
    return EndpointEntry.model_validate({"url": server.url, "model": "m", **fast, **settings})


def results(
    server: Server,
    requests: Sequence[Request],
    *,
    journal: MemoryJournal | None = None,
    adaptations: dict[str, str] | None = None,
    spending: Spending | None = None,
    **settings: Any,
) -> list[EngineResult]:
    """The rows in the order of the requests."""
    entry = entry_of(server, **settings)
    found: list[EngineResult] = []
    stream = ask(
        in_batches(requests, num_rows=3),
        make_endpoints(entry, SAMPLING),
        spending or Spending(entry),
        journal or MemoryJournal(),
        {} if adaptations is None else adaptations,
        finish=lambda row: row,
        write=found.extend,
    )
    for _ in stream:
        pass
    order = [each.key for each in requests]
    return sorted(found, key=lambda row: order.index(row["key"]))
