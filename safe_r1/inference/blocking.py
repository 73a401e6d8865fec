"""Coroutines for callers that are not asynchronous themselves."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def run_blocking(coroutine: Coroutine[object, object, Result]) -> Result:
    """Run a coroutine to its end and return its result; inside a running event loop too, which it blocks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    # A loop cannot be entered twice in one thread.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
