"""What the service tells Prometheus, through Ray's own exporter. No content, no key: names, counts, seconds.

Queues, replicas and the engines' own figures (running and waiting sequences, tokens, cache) come from Serve
and vLLM.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

from safe_r1.serve.api import ItemResult

_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0]
_SIZES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0]


class Meter(Protocol):
    """Whoever counts."""

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        ...

    def stage(self, stage: str, seconds: float) -> None:
        """A stage of a request took so long: ``generate``, ``judge``."""
        ...

    def tokens(self, model: str, prompt: int, completion: int) -> None:
        """A model read and wrote so many tokens."""
        ...

    def results(self, results: Sequence[ItemResult]) -> None:
        """Items were judged."""
        ...


class NoMeter:
    """Counts nothing: for tests, and where there is no Ray."""

    def request(self, path: str, status: int, seconds: float) -> None:
        """See ``Meter``."""

    def stage(self, stage: str, seconds: float) -> None:
        """See ``Meter``."""

    def tokens(self, model: str, prompt: int, completion: int) -> None:
        """See ``Meter``."""

    def results(self, results: Sequence[ItemResult]) -> None:
        """See ``Meter``."""


class RayMeter:
    """Counts in Ray's metrics."""

    def request(self, path: str, status: int, seconds: float) -> None:
        """See ``Meter``."""
        counter = _counter("safe_r1_requests_total", "Requests answered", "path", "status")
        counter.inc(1, {"path": path, "status": str(status)})
        histogram = _histogram("safe_r1_request_seconds", "Seconds to the answer or its first event", "path")
        histogram.observe(seconds, {"path": path})

    def stage(self, stage: str, seconds: float) -> None:
        """See ``Meter``."""
        _histogram("safe_r1_stage_seconds", "Seconds of one stage", "stage").observe(
            seconds, {"stage": stage}
        )

    def tokens(self, model: str, prompt: int, completion: int) -> None:
        """See ``Meter``."""
        counter = _counter("safe_r1_tokens_total", "Tokens read and written", "model", "kind")
        for kind, number in (("prompt", prompt), ("completion", completion)):
            if number:  # Ray's counters refuse 0
                counter.inc(number, {"model": model, "kind": kind})

    def results(self, results: Sequence[ItemResult]) -> None:
        """See ``Meter``."""
        counter = _counter("safe_r1_verdicts_total", "Verdicts by label", "model", "part", "degree")
        for outcome in (outcome for result in results for outcome in result.outcomes):
            for part, verdict in outcome.verdicts.items():
                degree = verdict.unscored_reason if verdict.degree is None else str(verdict.degree)
                counter.inc(1, {"model": outcome.model or "given", "part": part, "degree": degree or "none"})


def observe_batch(size: int) -> None:
    """The judge was given so many items at once."""
    _histogram("safe_r1_judge_batch_items", "Items judged together", boundaries=_SIZES).observe(size)


@cache
def _counter(name: str, text: str, *tags: str) -> Any:
    from ray.util.metrics import Counter

    return Counter(name, description=text, tag_keys=tags)


@cache
def _make_histogram(name: str, text: str, boundaries: tuple[float, ...], tags: tuple[str, ...]) -> Any:
    from ray.util.metrics import Histogram

    return Histogram(name, description=text, boundaries=list(boundaries), tag_keys=tags)


def _histogram(name: str, text: str, *tags: str, boundaries: list[float] = _SECONDS) -> Any:
    return _make_histogram(name, text, tuple(boundaries), tags)
