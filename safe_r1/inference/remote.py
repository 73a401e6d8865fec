"""Completions of a model behind a URL: the counterpart of ``batch`` for endpoints.

Rows are written in small shards as they finish. Until then each answer is in a journal on this machine, so
that a job that is killed asks, and pays, for no answered row again.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from safe_r1.errors import BudgetError, EndpointError
from safe_r1.inference.endpoint import first_error
from safe_r1.inference.endpoint_client import ChatSampling, EndpointClient
from safe_r1.inference.endpoint_session import Call, EndpointSession
from safe_r1.inference.pending import Pending
from safe_r1.inference.remote_result import to_result, with_usage
from safe_r1.inference.reply_cache import Reply, Write
from safe_r1.inference.requests import (
    BatchCounts,
    EngineResult,
    ListedRequests,
    Request,
    RequestBatch,
    Sampling,
)
from safe_r1.inference.shard_buffer import Finished
from safe_r1.inference.spending import Spending
from safe_r1.models.endpoint_entry import EndpointEntry

# A shard is written when it has this many rows or is this old: a remote folder gets few files, and another
# machine that resumes the run repeats little.
_ROWS_PER_SHARD = 1024
_SHARD_AGE_S = 20.0


class Journal(Protocol):
    """Keeps answers by the request's key until they are written."""

    def read(self, keys: Iterable[str]) -> dict[str, Reply]:
        """The answers that are there."""
        ...

    def writing(self) -> AbstractContextManager[Write]:
        """Open it once for many writes."""
        ...


def make_endpoints(entry: EndpointEntry, sampling: Sampling, title: str = "endpoint") -> list[EndpointClient]:
    """A client for each pair of URL and key.

    Args:
        entry: The endpoint.
        sampling: Sampling settings of all requests.
        title: Its name in messages.

    Raises:
        ConfigError: A URL that is none.
    """
    return [
        EndpointClient(
            url,
            entry.model,
            entry,
            title=title,
            api_key_variable=variable,
            adapts=True,
            sampling=ChatSampling(temperature=sampling.temperature, top_p=sampling.top_p),
        )
        for url in entry.urls
        for variable in entry.api_key_envs
    ]


def ask(
    batches: Sequence[RequestBatch],
    endpoints: Sequence[EndpointClient],
    spending: Spending,
    journal: Journal,
    adaptations: dict[str, str],
    finish: Callable[[EngineResult], Finished],
    write: Callable[[Sequence[Finished]], None],
) -> Iterator[BatchCounts]:
    """Complete all requests; yields counts as shards are written.

    Args:
        batches: The rows; one batch of them is in memory at a time.
        endpoints: Clients that share the rows, each as many as it can take.
        spending: Counts tokens, and says when to stop.
        journal: Keeps each answer from its arrival on.
        adaptations: Filled with what was sent in another form than the settings say.
        finish: Turns a result into what is written.
        write: Writes one shard of rows atomically.

    Raises:
        EndpointError: No endpoint can be used.
        BudgetError: The next request could exceed the limit of cost; all answers so far are written.
    """
    if not batches:
        return
    with asyncio.Runner() as runner:
        stream = _stream(batches, _Asking(endpoints, spending, journal, adaptations))
        try:
            while (rows := runner.run(_next(stream))) is not None:
                write([finish(row) for row in rows])
                failed = sum(row["error"] is not None for row in rows)
                yield BatchCounts(len(rows), failed, sum(row["completion_tokens"] for row in rows))
        finally:
            runner.run(stream.aclose())


async def complete_now(
    requests: Sequence[Request],
    endpoints: Sequence[EndpointClient],
    spending: Spending,
    journal: Journal,
    adaptations: dict[str, str],
) -> list[EngineResult]:
    """Complete some requests inside of a running event loop; the results are in order.

    See ``ask`` for arguments and errors.
    """
    asking = _Asking(endpoints, spending, journal, adaptations)
    stream = _stream([ListedRequests(requests)], asking)
    found = {row["key"]: row async for rows in stream for row in rows}
    return [found[request.key] for request in requests]


async def _next(stream: AsyncIterator[list[EngineResult]]) -> list[EngineResult] | None:
    return await anext(stream, None)


@dataclass
class _Asking:
    """The rows of one call and what its workers share."""

    endpoints: Sequence[EndpointClient]
    spending: Spending
    journal: Journal
    adaptations: dict[str, str]
    pending: Pending = field(default_factory=lambda: Pending([]))
    finished: asyncio.Queue[EngineResult | None] = field(default_factory=asyncio.Queue)
    num_failed_in_a_row: int = 0
    is_out_of_money: bool = False
    lost: list[EndpointError] = field(default_factory=list)

    @property
    def most_failed_in_a_row(self) -> int:
        return max(8, 2 * sum(endpoint.concurrency for endpoint in self.endpoints))


async def _stream(
    batches: Sequence[RequestBatch], asking: _Asking
) -> AsyncGenerator[list[EngineResult], None]:
    """Results in lists that are to be written together."""
    # First all answers that were paid for: before, nothing can be said of what is left to spend.
    answered: set[str] = set()
    for rows in _journalled(batches, asking):
        answered.update(row["key"] for row in rows)
        yield rows
    asking.pending = Pending(batches, answered)
    if not asking.pending:
        return
    work = asyncio.create_task(_work_all(asking))
    try:
        async for rows in _in_shards(asking.finished):
            yield rows
        await work
    except ExceptionGroup as caught:
        raise first_error(caught) from None
    finally:
        work.cancel()
    if asking.pending and asking.lost:
        raise asking.lost[0]
    if asking.is_out_of_money:
        spending = asking.spending
        overhead = spending.price_of(spending.overhead.prompt_tokens, spending.overhead.completion_tokens)
        beyond = f", {overhead:.4g} of it for probes and attempts without an answer" if overhead else ""
        raise BudgetError(
            f"{spending.settings}.max_cost={spending.entry.max_cost:g} reached: {spending.cost:.4g} "
            f"spent{beyond}, {len(asking.pending)} rows are left and the next could exceed it; all answers "
            "are kept, the same command with a higher limit asks only the rest"
        )


def _journalled(batches: Sequence[RequestBatch], asking: _Asking) -> Iterator[list[EngineResult]]:
    """Results of the rows whose answers the journal holds."""
    rows: list[EngineResult] = []
    for batch in batches:
        requests = {request.key: request for request in batch.read()}
        for key, reply in asking.journal.read(requests).items():
            asking.spending.add(key, reply)
            rows.append(to_result(requests[key], reply))
        if len(rows) >= _ROWS_PER_SHARD:
            yield rows
            rows = []
    if rows:
        yield rows


async def _in_shards(finished: "asyncio.Queue[EngineResult | None]") -> AsyncIterator[list[EngineResult]]:
    rows: list[EngineResult] = []
    due = time.monotonic() + _SHARD_AGE_S
    # One task for the next row, however often the time is up before it: a cancelled `get` can lose a row.
    next_row = asyncio.ensure_future(finished.get())
    while True:
        await asyncio.wait({next_row}, timeout=max(0.0, due - time.monotonic()))
        is_end = False
        if next_row.done():
            row = next_row.result()
            is_end = row is None
            if row is not None:
                rows.append(row)
                next_row = asyncio.ensure_future(finished.get())
        if is_end or len(rows) >= _ROWS_PER_SHARD or time.monotonic() >= due:
            if rows:
                yield rows
            rows = []
            due = time.monotonic() + _SHARD_AGE_S
        if is_end:
            return


async def _work_all(asking: _Asking) -> None:
    try:
        with asking.journal.writing() as keep:
            usable = list(asking.endpoints)
            # Again, as an endpoint that is lost gives its rows back, maybe after the others were through.
            while asking.pending and usable and not asking.is_out_of_money:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(_use(endpoint, asking, keep)) for endpoint in usable]
                usable = [endpoint for endpoint, task in zip(usable, tasks, strict=True) if task.result()]
    finally:
        # However it ended: what has been answered is written before any error is raised.
        asking.finished.put_nowait(None)


async def _use(endpoint: EndpointClient, asking: _Asking, keep: Write) -> bool:
    """Work on the rows with one endpoint until none is left; False where it is lost, and others go on."""
    async with EndpointSession(endpoint) as session:
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(endpoint.concurrency, len(asking.pending))):
                    workers.create_task(_work(session, endpoint, asking, keep))
        except ExceptionGroup as caught:
            error = first_error(caught)
            if not isinstance(error, EndpointError):
                raise
            asking.lost.append(error)
            return False
        finally:
            asking.adaptations.update(session.adaptations)
    return True


async def _work(session: EndpointSession, endpoint: EndpointClient, asking: _Asking, keep: Write) -> None:
    while asking.pending and not asking.is_out_of_money:
        request = asking.pending.take()
        reserved = asking.spending.reserve(request)
        if reserved is None:
            asking.pending.give_back(request)
            if not asking.spending.has_reserved:
                asking.is_out_of_money = True
                return
            # What is under way mostly costs less than was set aside for it.
            await asyncio.sleep(0.2)
            continue
        try:
            reply = await session.ask(Call(request.messages, _sampling(request, endpoint)))
        except BaseException:
            asking.pending.give_back(request)
            raise
        finally:
            asking.spending.release(reserved)
        reply = with_usage(request, reply, asking.adaptations)
        asking.spending.add(request.key, reply)
        if reply.text is not None or reply.blocked:
            keep(request.key, reply)
        asking.finished.put_nowait(to_result(request, reply))
        if reply.text is not None or reply.is_row_fault:
            asking.num_failed_in_a_row = 0
            continue
        asking.num_failed_in_a_row += 1
        if asking.num_failed_in_a_row >= asking.most_failed_in_a_row:
            raise endpoint.error(
                f"{asking.num_failed_in_a_row} rows failed in a row, the last one: {reply.error}"
            )


def _sampling(request: Request, endpoint: EndpointClient) -> ChatSampling:
    sampling = ChatSampling(max_tokens=request.max_tokens)
    # Greedy sampling draws nothing: its rows are the same for every seed.
    if endpoint.sampling.get("temperature", 1.0) > 0:
        sampling["seed"] = request.seed
    return sampling
