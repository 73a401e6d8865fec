"""State of one ingress replica that all routes share: models, judge, API keys, limits and batches."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from safe_r1.judge.base import JudgeItem, Judgement
from safe_r1.schema import Message
from safe_r1.serve.base import Generation, JudgeClient, Model, SamplingParams
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.errors import ApiError
from safe_r1.serve.evaluator import Evaluator
from safe_r1.serve.keys import KeyRing, RateLimits
from safe_r1.serve.middleware import Drain
from safe_r1.serve.request_queue import RequestQueue, SharedRetry
from safe_r1.serve.store import BatchStore, Retention
from safe_r1.serve.telemetry import Telemetry
from safe_r1.serve.traces import TracedTelemetry, make_tracer

# Share of the models' slots that the rows of all batches together may use; the rest stays free for
# interactive requests.
_BATCH_SHARE = 0.875
_MISSING_S = 1.0


class Service:
    """State of one ingress replica.

    Attributes:
        config: The settings.
        models: The models by name.
        judge_name: Label of the judge (``NAME@IDENTITY``), as in the verdicts of an evaluation.
        judges: Further judges by the name that requests use.
        policies: Names of those that are the service's judge with another policy.
        telemetry: Telemetry sink.
        read_metrics: Reads the metrics in Prometheus' text form; None where they are kept nowhere.
        tracer: Makes the spans of requests; None without traces.
        keys: API keys.
        limits: Rate limits of the keys.
        drain: Rejects new requests at shutdown.
        store: Files and batches; None without the batch API.
        start_batch: Starts the batch of an id; None without the batch API.
    """

    def __init__(
        self,
        config: ServeConfig,
        models: Mapping[str, Model],
        judge: JudgeClient,
        find_missing: Callable[[], Awaitable[list[str]]],
        telemetry: Telemetry,
        start_batch: Callable[[str], None] | None = None,
        judges: Mapping[str, JudgeClient] | None = None,
        read_metrics: Callable[[], Awaitable[bytes]] | None = None,
    ):
        self.config = config
        self.tracer = make_tracer(config.traces) if config.traces else None
        telemetry = TracedTelemetry(telemetry, self.tracer) if self.tracer else telemetry
        self.models = models
        self._judge = _RetryingJudge(judge, config, telemetry)
        self.judge_name = judge.judge_name
        self.judges = {name: _RetryingJudge(each, config, telemetry) for name, each in (judges or {}).items()}
        self.policies = tuple(name for name in self.judges if name in config.policies)
        self._find_missing = find_missing
        self._missing: tuple[float, list[str]] | None = None
        self._missing_lock = asyncio.Lock()
        self.read_metrics = read_metrics
        self.telemetry = telemetry
        self.start_batch = start_batch
        self.keys = KeyRing(config.api_keys)
        self.limits = RateLimits(config.limits)
        self.drain = Drain()
        retention = Retention(config.limits.files_mib * 2**20, config.limits.file_days * 24 * 3600)
        self.store = BatchStore(config.batches, retention) if config.batches else None
        self._queues = {name: RequestQueue(served, config) for name, served in models.items()}
        self._batch_slots = self._make_slots(_BATCH_SHARE)
        self._num_pending = 0

    async def missing(self) -> list[str]:
        """The deployments that are not up, asked for at most once a second: callers need no key for it."""
        async with self._missing_lock:
            if self._missing is None or time.monotonic() - self._missing[0] > _MISSING_S:
                self._missing = time.monotonic(), await self._find_missing()
            return self._missing[1]

    def evaluator(self, judges: Sequence[JudgeClient], *, is_batch: bool) -> Evaluator:
        """Evaluator of one request; the rows of all batches share their slots."""
        slots = self._batch_slots if is_batch else self._make_slots()
        return Evaluator(self, judges[0], slots, judges[1:])

    def _make_slots(self, share: float = 1.0) -> dict[str, asyncio.Semaphore]:
        return {
            name: asyncio.Semaphore(max(1, int(served.slots * share))) for name, served in self.models.items()
        }

    def model(self, name: str) -> Model:
        """A model by its name.

        Raises:
            ApiError: 404 with the known names.
        """
        if name not in self.models:
            known = ", ".join(self.models) or "none"
            message = f"unknown model {name[:200]!r}; available: {known}"
            raise ApiError(404, "model_not_found", message, "model")
        return self.models[name]

    def token_counter(self, name: str) -> Callable[[str], Awaitable[int]] | None:
        """Counts the tokens of a text that a model wrote; None for one whose tokenizer is not here."""
        return getattr(self.model(name), "count_tokens", None)

    async def generate(self, model: str, messages: list[Message], params: SamplingParams) -> Generation:
        """See ``GenerationClient.generate``."""
        self.model(model)
        started = time.monotonic()
        generation = await self._queues[model].generate(messages, params)
        self.telemetry.stage("generate", time.monotonic() - started)
        self.telemetry.tokens(model, generation.prompt_tokens, generation.completion_tokens)
        return generation

    @contextlib.contextmanager
    def admit(self, num_items: int) -> Iterator[None]:
        """Count the items of a request as pending for the duration of the block.

        Rows of a batch are not counted: a batch sends only a few of them at a time.

        Raises:
            ApiError: 429, this ingress has too many pending items.
        """
        # A request above the limit is accepted while nothing is pending, or it could never be served.
        if self._num_pending and self._num_pending + num_items > self.config.max_pending_items:
            message = f"{self._num_pending} items are pending; try again"
            raise ApiError(429, "overloaded", message, retry_after_s=10)
        self._num_pending += num_items
        try:
            yield
        finally:
            self._num_pending -= num_items

    async def judge(self, items: Sequence[JudgeItem], *, retry: bool = True) -> list[Judgement]:
        """See ``JudgeClient.judge``; the service's own judge."""
        return await self._judge.judge(items, retry=retry)

    def find_judges(self, names: Sequence[str]) -> list[JudgeClient]:
        """Judges by name; the service's own for no name.

        Raises:
            ApiError: 404 with the known names.
        """
        own = short_name(self.judge_name)
        known: dict[str, JudgeClient] = {own: self._judge, **self.judges}
        for name in names:
            if name not in known:
                message = f"unknown judge or policy {name[:200]!r}; available: {', '.join(known)}"
                raise ApiError(404, "judge_not_found", message, "judges")
        found = {known[name].judge_name: known[name] for name in names}
        return list(found.values()) or [self._judge]

    def describe_judges(self) -> list[dict[str, object]]:
        """The judges that requests can name, the service's own first."""
        own: list[dict[str, object]] = [
            {"id": short_name(self.judge_name), "object": "judge", "label": self.judge_name, "policy": False}
        ]
        return own + [
            {"id": name, "object": "judge", "label": judge.judge_name, "policy": name in self.policies}
            for name, judge in self.judges.items()
        ]


def short_name(label: str) -> str:
    """Name of a judge without its identity."""
    return label.partition("@")[0]


class _RetryingJudge:
    """A judge that is asked again while it is down or overloaded.

    Attributes:
        judge_name: See ``JudgeClient``.
    """

    def __init__(self, judge: JudgeClient, config: ServeConfig, telemetry: Telemetry):
        self.judge_name = judge.judge_name
        self._judge = judge
        self._retry = SharedRetry(config.first_answer_timeout_s)
        self._telemetry = telemetry

    async def judge(self, items: Sequence[JudgeItem], *, retry: bool = True) -> list[Judgement]:
        """See ``JudgeClient.judge``."""
        started = time.monotonic()

        async def attempt() -> list[Judgement]:
            return await self._judge.judge(items, retry=retry)

        judgements = await (self._retry.call(attempt) if retry else attempt())
        self._telemetry.stage("judge", time.monotonic() - started)
        return judgements
