"""Text in progress between a replica and an ingress: all of it and in order, never a stranger's."""

import asyncio
import contextlib
import functools
import json
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace

import pytest

from safe_r1.serve.deltas import DeltaReceiver, DeltaSender, Subscription
from safe_r1.serve.engine_call import ChoiceReply, Delta, EngineReply, TokenScore

HOST = "127.0.0.1"


def in_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """A test that is a coroutine; its sockets are gone with its event loop."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def read(subscription: Subscription, length: int) -> str:
    """The first characters of a completion."""
    found = ""
    async with asyncio.timeout(10):
        async for delta in subscription.deltas():
            found += delta.text
            if len(found) >= length:
                break
    return found


@pytest.mark.parametrize("seed", range(5))
@in_loop
async def test_each_completion_gets_its_own_text_in_order(seed: int):
    """Parts of many completions at random moments, with line breaks and characters of all lengths."""
    dice = random.Random(seed)
    texts = ["".join(dice.choices('ab\n"\\ 中文😀\u2028é', k=dice.randrange(1, 200))) for _ in range(20)]
    receiver = DeltaReceiver(HOST)
    senders = [DeltaSender(), DeltaSender()]

    async def complete(text: str) -> str:
        async with receiver.subscribe() as subscription:
            sender = dice.choice(senders)
            start = 0
            while start < len(text):
                part = text[start : start + dice.randrange(1, 9)]
                sender.send(subscription.sink, Delta(0, start, part))
                start += len(part)
                if dice.random() < 0.5:
                    await asyncio.sleep(dice.random() / 1000)
            return await read(subscription, len(text))

    assert await asyncio.gather(*map(complete, texts)) == texts


@pytest.mark.parametrize("seed", range(5))
@in_loop
async def test_with_lost_parts_the_beginning_is_given_and_the_rest_is_known(seed: int):
    """Two choices with a score for each character, whose parts come mixed; some of them get lost."""
    dice = random.Random(seed)
    texts = ["".join(dice.choices("abc中", k=60)) for _ in range(2)]
    scores: list[list[TokenScore]] = [[(ord(char), -0.5, []) for char in text] for text in texts]
    whole = tuple(
        ChoiceReply(Delta(index, 0, text, 0, scores[index]), "stop") for index, text in enumerate(texts)
    )
    lost = [dice.randrange(60) for _ in texts]
    parts = [(start, index) for start in range(60) for index in range(2)]
    async with DeltaReceiver(HOST).subscribe() as subscription:
        for start, index in parts:
            if start != lost[index]:
                score = scores[index][start : start + 1]
                subscription.put(Delta(index, start, texts[index][start], start, score))
        subscription.end()
        given = [delta async for delta in subscription.deltas()]
        reply = subscription.rest(EngineReply(whole, 120))
        left = [choice.text for choice in reply.choices]
        assert (reply.num_tokens, [choice.finish_reason for choice in reply.choices]) == (120, ["stop"] * 2)
        for index, text in enumerate(texts):
            mine = [delta for delta in given if delta.index == index]
            assert "".join(delta.text for delta in mine) == text[: lost[index]]
            assert "".join(delta.text for delta in (*mine, left[index])) == text
            assert [score for delta in (*mine, left[index]) for score in delta.logprobs] == scores[index]


@in_loop
async def test_many_streams_wait_for_more_text_and_never_for_the_end():
    receiver = DeltaReceiver(HOST)
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(receiver.subscribe()) for _ in range(500)]
        assert receiver.pause_s == pytest.approx(0.5)
        first = opened[0]
        deltas = first.deltas()
        first.put(Delta(0, 0, "a"))
        assert await anext(deltas) == Delta(0, 0, "a")
        first.put(Delta(0, 1, "b"))
        first.put(Delta(0, 2, "c"))
        first.end()
        async with asyncio.timeout(0.4):
            assert await anext(deltas) == Delta(0, 1, "bc")
            assert await anext(deltas, None) is None


@in_loop
async def test_text_for_a_completion_that_has_ended_is_dropped():
    receiver, sender = DeltaReceiver(HOST), DeltaSender()
    async with receiver.subscribe() as ended:
        pass
    async with receiver.subscribe() as subscription:
        sender.send(ended.sink, Delta(0, 0, "late"))
        sender.send(subscription.sink, Delta(0, 0, "text"))
        assert await read(subscription, 4) == "text"


@in_loop
async def test_a_connection_without_the_secret_delivers_nothing():
    receiver, sender, stranger = DeltaReceiver(HOST), DeltaSender(), DeltaSender()
    async with receiver.subscribe() as subscription:
        stranger.send(replace(subscription.sink, secret="guessed"), Delta(0, 0, "forged"))
        await asyncio.sleep(0.05)
        sender.send(subscription.sink, Delta(0, 0, "text"))
        assert await read(subscription, 4) == "text"


@in_loop
async def test_broken_lines_end_the_connection_and_the_next_one_works():
    receiver, sender = DeltaReceiver(HOST), DeltaSender()
    async with receiver.subscribe() as subscription:
        sink = subscription.sink
        for line in (b"not json\n", b'[["a"]]\n', b"[1, 2]\n", json.dumps({"a": 1}).encode() + b"\n"):
            reader, writer = await asyncio.open_connection(HOST, sink.port)
            writer.write(sink.secret.encode() + b"\n" + line)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
        sender.send(sink, Delta(0, 0, "text"))
        assert await read(subscription, 4) == "text"


@in_loop
async def test_an_ingress_that_is_gone_does_not_disturb_the_others():
    """Nobody listens at its port any more."""
    receiver, sender = DeltaReceiver(HOST), DeltaSender()
    server = await asyncio.start_server(lambda *_: None, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    async with receiver.subscribe() as subscription:
        gone = replace(subscription.sink, port=port, secret="of another")
        for start in range(3):
            sender.send(gone, Delta(0, start, "x"))
            sender.send(subscription.sink, Delta(0, start, "y"))
            await asyncio.sleep(0.01)
        assert await read(subscription, 3) == "yyy"
