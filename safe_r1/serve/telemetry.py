"""Prometheus metrics of the service, exported by Ray: names, counts and seconds, without content or keys.

Serve and vLLM export the rest: queues and replicas; running and waiting sequences, tokens and cache of each
engine.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol

from safe_r1.serve.schemas import ItemResult

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0)


class Telemetry(Protocol):
    """Telemetry sink."""

    def request(self, path: str, status: int, seconds: float) -> None:
        """Record a finished request."""
        ...

    def stage(self, stage: str, seconds: float) -> None:
        """Record the duration of a stage of a request: ``generate`` or ``judge``."""
        ...

    def tokens(self, model: str, prompt: int, completion: int) -> None:
        """Record the tokens of a completion and its prompt."""
        ...

    def results(self, results: Sequence[ItemResult]) -> None:
        """Record the verdicts of evaluated items."""
        ...


class RayTelemetry:
    """Telemetry sink that writes to Ray's metrics."""

    def request(self, path: str, status: int, seconds: float) -> None:
        """See ``Telemetry.request``."""
        counter = _counter("safe_r1_requests_total", "Requests answered", "path", "status")
        counter.inc(1, {"path": path, "status": str(status)})
        histogram = _histogram("safe_r1_request_seconds", "Seconds to the answer or its first event", "path")
        histogram.observe(seconds, {"path": path})

    def stage(self, stage: str, seconds: float) -> None:
        """See ``Telemetry.stage``."""
        histogram = _histogram("safe_r1_stage_seconds", "Seconds of one stage", "stage")
        histogram.observe(seconds, {"stage": stage})

    def tokens(self, model: str, prompt: int, completion: int) -> None:
        """See ``Telemetry.tokens``."""
        counter = _counter("safe_r1_tokens_total", "Tokens read and written", "model", "kind")
        for kind, number in (("prompt", prompt), ("completion", completion)):
            if number:  # Ray's counters reject 0
                counter.inc(number, {"model": model, "kind": kind})

    def results(self, results: Sequence[ItemResult]) -> None:
        """See ``Telemetry.results``."""
        counter = _counter("safe_r1_verdicts_total", "Verdicts by label", "model", "part", "degree")
        for outcome in (outcome for result in results for outcome in result.outcomes):
            for part, verdict in outcome.verdicts.items():
                degree = verdict.unscored_reason if verdict.degree is None else str(verdict.degree)
                counter.inc(1, {"model": outcome.model or "given", "part": part, "degree": degree or "none"})


def observe_batch(size: int) -> None:
    """Record the number of items in one call of the judge."""
    _histogram("safe_r1_judge_batch_items", "Items judged together", boundaries=_SIZES).observe(size)


# Cached: Ray's metrics are registered once per process and name.
@cache
def _counter(name: str, description: str, *tags: str) -> "Counter":
    from ray.util.metrics import Counter

    return Counter(name, description=description, tag_keys=tags)


@cache
def _histogram(
    name: str, description: str, *tags: str, boundaries: tuple[float, ...] = _SECONDS
) -> "Histogram":
    from ray.util.metrics import Histogram

    return Histogram(name, description=description, boundaries=list(boundaries), tag_keys=tags)
