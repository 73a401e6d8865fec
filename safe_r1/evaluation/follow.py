"""Drives the stream of a stage: progress for the terminal, and how long it took."""

import time
from collections.abc import Iterator

from safe_r1.inference.requests import BatchCounts
from safe_r1.progress import Progress, ProgressCallback


def follow(
    stage: str, stream: Iterator[BatchCounts], done: int, total: int, on_progress: ProgressCallback
) -> dict[str, float]:
    """Drive a stream, report on it and time it; gives seconds, those before its first rows, and tokens."""
    failed = tokens = 0
    begin = first = last = time.monotonic()
    is_first = True
    on_progress(Progress(stage, done, total))
    for counts in stream:
        last = time.monotonic()
        if is_first:
            first = last
            is_first = False
        done += counts.rows
        failed += counts.failed
        tokens += counts.tokens
        on_progress(Progress(stage, done, total, failed, tokens))
    return {
        f"{stage}_s": round(last - begin, 2),
        f"{stage}_first_rows_s": round(first - begin, 2),
        f"{stage}_tokens": tokens,
    }
