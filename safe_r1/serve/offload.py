"""Work on texts of callers and models beside the event loop, with a time limit."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from safe_r1.serve.errors import ApiError

TIMEOUT_S = 30.0
"""Longest time for all texts of a call; a thousand of usual length take about a second."""
# These take less than a thread's start and the wait for it.
_SHORT_CHARS = 10_000
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# Of its own: a text that takes for ever holds up no work on files.
_threads = ThreadPoolExecutor(4, thread_name_prefix="texts")


async def offload(
    function: Callable[[_Item], _Result], items: Iterable[_Item], num_chars: int, timeout_s: float = TIMEOUT_S
) -> list[_Result]:
    """Results of a function of each item, from another thread; at once where the texts of all are short.

    The items left are given up when the time is over or the caller goes away; one that is being worked on
    cannot be.

    Raises:
        ApiError: 503, the time is over.
    """
    if num_chars <= _SHORT_CHARS:
        return [function(item) for item in items]
    is_over = threading.Event()

    def work() -> list[_Result]:
        found: list[_Result] = []
        for item in items:
            if is_over.is_set():
                break
            found.append(function(item))
        return found

    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.get_running_loop().run_in_executor(_threads, work)
    except TimeoutError:
        message = f"the texts could not be worked on within {timeout_s:g} s; send fewer or shorter ones"
        raise ApiError(503, "text_timeout", message, retry_after_s=10) from None
    finally:
        is_over.set()
