"""Text of completions in progress, on its way from a model's replica to the ingress that streams it.

A completion is one call through Ray Serve, which returns the whole of it. What is generated meanwhile comes
here: a replica sends all text of one step of its engine to an ingress in one write, where Ray's streaming
generators would cost a call a token and completion. It only makes text come earlier: whatever gets lost on
the way is in the reply of the call.

Each line is a JSON array of ``[id, ...fields of a Delta]``. The first line of a connection is the ingress's
secret.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import astuple, replace
from typing import Any

from safe_r1.serve.engine_call import ChoiceReply, Delta, EngineReply, Sink

logger = logging.getLogger(__name__)
_HELLO_S = 5.0
# One line has the text of one step: a few dozen bytes for each of some hundred completions.
_LINE_BYTES = 4 * 2**20
# Each piece of text costs the ingress and Serve's proxy nearly a millisecond: with many streams, those of one
# wait for each other so long that a core passes all of them on.
_PIECES_PER_S = 1000
# An ingress that does not read this much is stuck, or gone.
_UNSENT_BYTES = 8 * 2**20


class DeltaReceiver:
    """The ingress's side: takes text from all replicas and hands it to those that wait for it."""

    def __init__(self, host: str):
        """Receiver of an ingress.

        Args:
            host: Address at which replicas reach this process.
        """
        self._host = host
        self._secret = secrets.token_urlsafe(32)
        self._open: dict[str, Subscription] = {}
        self._port: asyncio.Task[int] | None = None

    @contextlib.asynccontextmanager
    async def subscribe(self) -> "AsyncIterator[Subscription]":
        """The text of one completion."""
        if self._port is None:
            self._port = asyncio.create_task(self._listen())
        port = await asyncio.shield(self._port)
        sink = Sink(self._host, port, self._secret, secrets.token_hex(16))
        subscription = self._open[sink.id] = Subscription(sink, self)
        try:
            yield subscription
        finally:
            del self._open[sink.id]

    @property
    def pause_s(self) -> float:
        """Seconds between two pieces of one completion."""
        return len(self._open) / _PIECES_PER_S

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._read, self._host, 0, limit=_LINE_BYTES)
        return self._server.sockets[0].getsockname()[1]

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HELLO_S):
                hello = await reader.readline()
            if not hmac.compare_digest(hello.rstrip(b"\n"), self._secret.encode()):
                return
            while line := await reader.readline():
                for key, *fields in json.loads(line):
                    delta = Delta(*fields)
                    if subscription := self._open.get(key):
                        subscription.put(delta)
        except (OSError, TimeoutError, TypeError, ValueError) as error:
            # The completions end with what their calls return.
            logger.warning("connection of a replica ended: %s", type(error).__name__)
        finally:
            writer.close()


class Subscription:
    """The text of one completion, at the ingress.

    Attributes:
        sink: Where replicas send it.
    """

    def __init__(self, sink: Sink, receiver: DeltaReceiver):
        self.sink = sink
        # Characters and log probabilities of each choice that ``deltas`` has given.
        self._given: dict[int, tuple[int, int]] = {}
        self._receiver = receiver
        self._queue: asyncio.Queue[Delta | None] = asyncio.Queue()
        self._has_ended = asyncio.Event()

    def put(self, delta: Delta) -> None:
        """Take text from a replica."""
        self._queue.put_nowait(delta)

    def end(self) -> None:
        """No more is needed: the reply of the call is there."""
        self._has_ended.set()
        self._queue.put_nowait(None)

    async def deltas(self) -> AsyncIterator[Delta]:
        """The text of each choice, in order; once a part is missing there is no more, as the reply has it."""
        while True:
            waiting = [await self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            for delta in self._join(delta for delta in waiting if delta):
                yield delta
            if None in waiting:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._has_ended.wait(), self._receiver.pause_s)

    def rest(self, reply: EngineReply) -> EngineReply:
        """The reply without what ``deltas`` has given."""
        choices: list[ChoiceReply] = []
        for choice in reply.choices:
            whole = choice.text
            num_chars, num_logprobs = self._given.get(whole.index, (0, 0))
            left = Delta(
                whole.index, num_chars, whole.text[num_chars:], num_logprobs, whole.logprobs[num_logprobs:]
            )
            choices.append(replace(choice, text=left))
        return replace(reply, choices=tuple(choices))

    def _join(self, deltas: Iterable[Delta]) -> Iterable[Delta]:
        """Those of each choice as one, without any behind a gap."""
        joined: dict[int, Delta] = {}
        for delta in deltas:
            given = self._given.get(delta.index, (0, 0))
            if (delta.start, delta.first_logprob) != given:
                continue
            self._given[delta.index] = given[0] + len(delta.text), given[1] + len(delta.logprobs)
            if before := joined.get(delta.index):
                delta = replace(
                    before, text=before.text + delta.text, logprobs=before.logprobs + delta.logprobs
                )
            joined[delta.index] = delta
        return joined.values()


class DeltaSender:
    """The replica's side."""

    def __init__(self):
        self._connections: dict[tuple[str, int, str], _Connection] = {}

    def send(self, sink: Sink, delta: Delta) -> None:
        """Send text with all other that comes before the event loop's next round."""
        address = sink.address
        connection = self._connections.get(address)
        if connection is None or connection.is_closed:
            connection = self._connections[address] = _Connection(sink)
        connection.add([sink.id, *astuple(delta)])


class _Connection:
    """A connection to one ingress."""

    def __init__(self, sink: Sink):
        self.is_closed = False
        self._waiting: list[list[Any]] = []
        self._has_text = asyncio.Event()
        self._task = asyncio.create_task(self._run(sink))

    def add(self, delta: list[Any]) -> None:
        self._waiting.append(delta)
        self._has_text.set()

    async def _run(self, sink: Sink) -> None:
        try:
            _, writer = await asyncio.open_connection(sink.host, sink.port)
            with contextlib.closing(writer):
                writer.write(f"{sink.secret}\n".encode())
                while True:
                    await self._has_text.wait()
                    self._has_text.clear()
                    line = json.dumps(self._waiting, ensure_ascii=False, separators=(",", ":"))
                    self._waiting = []
                    if writer.transport.get_write_buffer_size() > _UNSENT_BYTES:
                        raise ConnectionError("it does not read")
                    writer.write(f"{line}\n".encode())
                    if writer.is_closing():
                        raise ConnectionError("it closed")
        except OSError as error:
            logger.warning("text of completions does not reach an ingress: %s", error)
        finally:
            self.is_closed = True
