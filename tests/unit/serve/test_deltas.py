"""Text in progress between a replica and an ingress: all of it and in order, never a stranger's."""

import asyncio
import functools
import json
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace

import pytest

from safe_r1.serve.deltas import Delta, DeltaReceiver, DeltaSender

HOST = "127.0.0.1"


def in_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """A test that is a coroutine; its sockets are gone with its event loop."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def _next(queue: "asyncio.Queue[Delta | None]") -> Delta:
    delta = await asyncio.wait_for(queue.get(), 10)
    assert delta is not None
    return delta


@pytest.mark.parametrize("seed", range(5))
@in_loop
async def test_each_completion_gets_its_own_text_in_order(seed: int):
    """Parts of many completions at random moments, with line breaks and characters of all lengths."""
    dice = random.Random(seed)
    texts = ["".join(dice.choices('ab\n"\\ 中文😀\u2028é', k=dice.randrange(1, 200))) for _ in range(20)]
    receiver = DeltaReceiver(HOST)
    senders = [DeltaSender(), DeltaSender()]

    async def complete(text: str) -> str:
        async with receiver.subscribe() as (sink, queue):
            sender = dice.choice(senders)
            start = 0
            while start < len(text):
                part = text[start : start + dice.randrange(1, 9)]
                sender.send(sink, Delta(start, part))
                start += len(part)
                if dice.random() < 0.5:
                    await asyncio.sleep(dice.random() / 1000)
            found = ""
            while len(found) < len(text):
                delta = await _next(queue)
                assert delta.start == len(found)
                found += delta.text
            return found

    assert await asyncio.gather(*map(complete, texts)) == texts


@in_loop
async def test_text_for_a_completion_that_has_ended_is_dropped():
    receiver, sender = DeltaReceiver(HOST), DeltaSender()
    async with receiver.subscribe() as (ended, _):
        pass
    async with receiver.subscribe() as (sink, queue):
        sender.send(ended, Delta(0, "late"))
        sender.send(sink, Delta(0, "text"))
        assert await _next(queue) == Delta(0, "text")
        assert queue.empty()


@in_loop
async def test_a_connection_without_the_secret_delivers_nothing():
    receiver, sender, stranger = DeltaReceiver(HOST), DeltaSender(), DeltaSender()
    async with receiver.subscribe() as (sink, queue):
        stranger.send(replace(sink, secret="guessed"), Delta(0, "forged"))
        await asyncio.sleep(0.05)
        sender.send(sink, Delta(0, "text"))
        assert await _next(queue) == Delta(0, "text")
        assert queue.empty()


@in_loop
async def test_broken_lines_end_the_connection_and_the_next_one_works():
    receiver, sender = DeltaReceiver(HOST), DeltaSender()
    async with receiver.subscribe() as (sink, queue):
        for line in (b"not json\n", b'[["a"]]\n', b"[1, 2]\n", json.dumps({"a": 1}).encode() + b"\n"):
            reader, writer = await asyncio.open_connection(HOST, sink.port)
            writer.write(sink.secret.encode() + b"\n" + line)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
        sender.send(sink, Delta(0, "text"))
        assert await _next(queue) == Delta(0, "text")


@in_loop
async def test_an_ingress_that_is_gone_does_not_disturb_the_others():
    """Its port is free again, so that nobody listens."""
    receiver, sender = DeltaReceiver(HOST), DeltaSender()
    server = await asyncio.start_server(lambda *_: None, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    async with receiver.subscribe() as (sink, queue):
        gone = replace(sink, port=port, secret="of another")
        for start in range(3):
            sender.send(gone, Delta(start, "x"))
            sender.send(sink, Delta(start, "y"))
            await asyncio.sleep(0.01)
        assert [await _next(queue) for _ in range(3)] == [Delta(start, "y") for start in range(3)]
