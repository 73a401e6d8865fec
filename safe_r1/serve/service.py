"""What the routes work with: the models by name, the judge, the keys and the limits."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from safe_r1.judge.base import JudgeItem, Judgement
from safe_r1.schema import Message
from safe_r1.serve.api import ApiError
from safe_r1.serve.config import ServeConfig
from safe_r1.serve.drain import Drain
from safe_r1.serve.engine import ServedModel
from safe_r1.serve.evaluator import Asked, Evaluator, Generated, JudgeCaller
from safe_r1.serve.keys import KeyRing, Limits
from safe_r1.serve.line import Line, Patience
from safe_r1.serve.metrics import Meter, NoMeter
from safe_r1.serve.store import Store

# Of the models' room, what the rows of all batches take at once; the rest stays free for those who wait for
# an answer.
_BATCH_SHARE = 0.875


class Service:
    """One ingress's view of the service.

    Attributes:
        config: The settings.
        models: By the name under which they are asked.
        judge_name: As in the rows of an evaluation.
        missing: Tells which parts of the service are not up.
        meter: Counts.
        keys: Who may ask.
        limits: How much.
        drain: What is being answered.
        store: Files and batches; None where there is no place for them.
        start_batch: Sees to it that a batch is run.
    """

    def __init__(
        self,
        config: ServeConfig,
        models: dict[str, ServedModel],
        judge: JudgeCaller,
        missing: Callable[[], Awaitable[list[str]]],
        meter: Meter | None = None,
        start_batch: Callable[[str], None] | None = None,
    ):
        self.config, self.models, self.missing, self.meter = config, models, missing, meter or NoMeter()
        self.judge_name, self._judge = judge.judge_name, judge
        self.keys, self.limits = KeyRing(config.api_keys), Limits(config.limits)
        self._batch_rooms = self._rooms(_BATCH_SHARE)
        self._lines = {name: Line(served, config) for name, served in models.items()}
        self._patience = Patience(config.first_answer_timeout_s)
        self._num_pending, self.drain = 0, Drain()
        self.store = Store(config.batches) if config.batches else None
        self.start_batch = start_batch

    def evaluator(self, *, is_batch: bool) -> Evaluator:
        """Evaluates one request with these models and this judge; the rows of batches share their room."""
        return Evaluator(self, self, self._batch_rooms if is_batch else self._rooms())

    def _rooms(self, share: float = 1.0) -> dict[str, asyncio.Semaphore]:
        return {
            name: asyncio.Semaphore(max(1, int(served.room * share))) for name, served in self.models.items()
        }

    def model(self, name: str) -> ServedModel:
        """A model by its name.

        Raises:
            ApiError: 404 with the names there are.
        """
        if name not in self.models:
            known = ", ".join(self.models) or "none"
            raise ApiError(
                404, "model_not_found", f"no model {name[:200]!r} here; there is: {known}", "model"
            )
        return self.models[name]

    async def generate(self, model: str, messages: list[Message], asked: Asked) -> Generated:
        """See ``Engine.generate``."""
        self.model(model)
        started = time.monotonic()
        generated = await self._lines[model].generate(messages, asked)
        self.meter.stage("generate", time.monotonic() - started)
        self.meter.tokens(model, generated.prompt_tokens, generated.completion_tokens)
        return generated

    @contextlib.contextmanager
    def admit(self, num_items: int) -> Iterator[None]:
        """Hold room for the items of a request. The rows of a batch need none: it asks for a few at a time.

        Raises:
            ApiError: 429 where this ingress has taken in as much as it may.
        """
        if self._num_pending and self._num_pending + num_items > self.config.max_pending_items:
            raise ApiError(
                429,
                "overloaded",
                f"{self._num_pending} items are waiting already; try again",
                retry_after_s=10,
            )
        self._num_pending += num_items
        try:
            yield
        finally:
            self._num_pending -= num_items

    async def judge(self, items: Sequence[JudgeItem], *, is_patient: bool = True) -> list[Judgement]:
        """See ``JudgeCaller.judge``."""
        started = time.monotonic()

        async def call() -> list[Judgement]:
            return await self._judge.judge(items, is_patient=is_patient)

        judgements = await (self._patience.ask(call) if is_patient else call())
        self.meter.stage("judge", time.monotonic() - started)
        return judgements
