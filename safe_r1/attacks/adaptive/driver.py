"""Runs many conversations at the same time: calls of one moment go to each model as one batch."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

from safe_r1.attacks.adaptive.conversation import Conversation, advance, next_calls
from safe_r1.attacks.adaptive.turns import Call, Reply, Role, Turn

Ask = Callable[[Sequence[Call]], Awaitable[Sequence[Reply | None]]]
"""Asks a model. One reply a call, in order; None where there is none in this session, as a machine was lost:
the conversation stops there, and a later session asks again.
"""
Record = Callable[[list[Turn]], None]
"""Stores turns. A conversation goes on only after it has returned."""
# Conversations that wake at the same time reach their next call within so many turns of the event loop.
_LINGER = 3


async def run_conversations(
    states: Iterable[Conversation],
    ask: Mapping[Role, Ask],
    record: Record,
    *,
    max_parallel: int,
    max_batch: int = 256,
    on_end: Callable[[Conversation], None] = lambda _: None,
) -> list[Conversation]:
    """Run conversations to their end, or as far as there are replies.

    Args:
        states: New or restored; each is taken when there is room for it.
        ask: By role; the attacker may be left out where no method needs one.
        record: Stores the turns of a batch of replies.
        max_parallel: Conversations at the same time.
        max_batch: Calls in one batch.
        on_end: Called with each conversation that goes on no more in this session.

    Returns:
        The conversations in the order in which they came; ``end`` is None where replies were missing.

    Raises:
        Exception: Whatever ``ask`` or ``record`` raises. What was recorded until then is complete.
        ValueError: A limit below 1, or another number of replies than calls.
    """
    if max_parallel < 1 or max_batch < 1:
        raise ValueError("max_parallel and max_batch have to be 1 or more")
    batches: dict[Role, _Batches] = {role: _Batches(each, record, max_batch) for role, each in ask.items()}
    waiting = enumerate(states)
    found: dict[int, Conversation] = {}
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(max_parallel):
                group.create_task(_work(waiting, batches, found, on_end))
    except BaseExceptionGroup as errors:
        raise _first(errors) from errors
    return [found[number] for number in sorted(found)]


async def _work(
    waiting: Iterator[tuple[int, Conversation]],
    batches: "Mapping[Role, _Batches]",
    found: dict[int, Conversation],
    on_end: Callable[[Conversation], None],
) -> None:
    for number, state in waiting:
        found[number] = await _converse(state, batches)
        on_end(found[number])


async def _converse(state: Conversation, batches: "Mapping[Role, _Batches]") -> Conversation:
    while calls := next_calls(state):
        method = state.config.method
        replies = await asyncio.gather(*(batches[call.role].reply(method, call) for call in calls))
        answered = {
            call.place: reply for call, reply in zip(calls, replies, strict=True) if reply is not None
        }
        state = advance(state, answered)
        if len(answered) < len(calls):
            break
    return state


class _Batches:
    """Calls of one role, which are sent together."""

    def __init__(self, ask: Ask, record: Record, max_batch: int) -> None:
        self._ask = ask
        self._record = record
        self._max_batch = max_batch
        self._queue: list[tuple[str, Call, asyncio.Future[Reply | None]]] = []

    async def reply(self, attack: str, call: Call) -> Reply | None:
        """The reply to a call, once its batch has come back and is stored."""
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        batch = self._queue
        batch.append((attack, call, future))
        if len(batch) >= self._max_batch:
            await self._send()
        elif len(batch) == 1:
            # The first one sends the batch, unless that was filled and sent meanwhile.
            for _ in range(_LINGER):
                await asyncio.sleep(0)
            if self._queue is batch:
                await self._send()
        return await future

    async def _send(self) -> None:
        batch, self._queue = self._queue, []
        replies = await self._ask([call for _, call, _ in batch])
        if len(replies) != len(batch):
            raise ValueError(f"{len(replies)} replies to {len(batch)} calls")
        turns = [
            Turn.of(attack, call, reply)
            for (attack, call, _), reply in zip(batch, replies, strict=True)
            if reply is not None
        ]
        if turns:
            self._record(turns)
        for (_, _, future), reply in zip(batch, replies, strict=True):
            if not future.done():
                future.set_result(reply)


def _first(errors: BaseExceptionGroup) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
