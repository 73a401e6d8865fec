import asyncio
from typing import Any

from safe_r1.serve.drain import Drain


def test_what_is_begun_is_finished_and_what_is_new_refused():
    drain, go_on, sent = Drain(), asyncio.Event(), []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await send({"type": "done"})

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> tuple[bool, bool]:
        app = drain.middleware(slow)
        begun = asyncio.create_task(app({"type": "http"}, None, send))
        await asyncio.sleep(0)
        was_in_time = await drain.close(0.2)
        await app({"type": "http"}, None, send)
        go_on.set()
        is_empty = await drain.close(5)
        await begun
        return was_in_time, is_empty

    assert asyncio.run(run()) == (False, True)
    assert [message.get("status") for message in sent if "status" in message] == [503]
    assert sent[-1] == {"type": "done"}
