"""Text of completions in progress, on its way from a model's replica to the ingress that streams it.

A completion is one call through Ray Serve, which returns the whole of it. What is generated meanwhile comes
here: a replica sends all text of one step of its engine to an ingress in one write, where Ray's streaming
generators would cost a call a token and completion. It only makes text come earlier: whatever gets lost on
the way is in the reply of the call.

Each line is a JSON array of ``[id, start, text]``; ``start`` counts the characters before it. The first line
of a connection is the ingress's secret.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)
_HELLO_S = 5.0
# One line has the text of one step: a few dozen bytes for each of some hundred completions.
_LINE_BYTES = 4 * 2**20
# An ingress that does not read this much is stuck, or gone.
_UNSENT_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Sink:
    """Where the text of one completion goes.

    Attributes:
        host: Address of the ingress.
        port: Its port.
        secret: Its secret, which the connection begins with.
        id: The completion.
    """

    host: str
    port: int
    secret: str = field(repr=False)
    id: str

    @property
    def _address(self) -> tuple[str, int, str]:
        return self.host, self.port, self.secret


@dataclass(frozen=True)
class Delta:
    """New text of a completion.

    Attributes:
        start: Characters of the completion before it.
        text: The text.
    """

    start: int
    text: str


class DeltaReceiver:
    """The ingress's side: takes text from all replicas and hands it to those that wait for it."""

    def __init__(self, host: str):
        """Receiver of an ingress.

        Args:
            host: Address at which replicas reach this process.
        """
        self._host = host
        self._secret = secrets.token_urlsafe(32)
        self._queues: dict[str, asyncio.Queue[Delta | None]] = {}
        self._port: asyncio.Task[int] | None = None

    @contextlib.asynccontextmanager
    async def subscribe(self) -> AsyncIterator[tuple[Sink, asyncio.Queue[Delta | None]]]:
        """A sink for one completion, and the queue in which its text arrives."""
        if self._port is None:
            self._port = asyncio.create_task(self._listen())
        key = secrets.token_hex(16)
        queue = self._queues[key] = asyncio.Queue()
        try:
            yield Sink(self._host, await asyncio.shield(self._port), self._secret, key), queue
        finally:
            del self._queues[key]

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
                for key, start, text in json.loads(line):
                    if queue := self._queues.get(key):
                        queue.put_nowait(Delta(start, text))
        except (OSError, TimeoutError, TypeError, ValueError) as error:
            # The completions end with what their calls return.
            logger.warning("connection of a replica ended: %s", type(error).__name__)
        finally:
            writer.close()


class DeltaSender:
    """The replica's side."""

    def __init__(self):
        self._connections: dict[tuple[str, int, str], _Connection] = {}

    def send(self, sink: Sink, delta: Delta) -> None:
        """Send text with all other that comes before the event loop's next round."""
        address = sink._address
        connection = self._connections.get(address)
        if connection is None or connection.is_closed:
            connection = self._connections[address] = _Connection(sink)
        connection.add([sink.id, delta.start, delta.text])


class _Connection:
    """A connection to one ingress."""

    def __init__(self, sink: Sink):
        self.is_closed = False
        self._waiting: list[list[str | int]] = []
        self._has_text = asyncio.Event()
        self._task = asyncio.create_task(self._run(sink))

    def add(self, delta: list[str | int]) -> None:
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
