"""Models that are asked again and again while a job runs: on an engine of their own, or behind a URL.

A batch job's engine (``safe_r1.inference.batch``) starts for requests that are known; here the next request
depends on the last reply.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safe_r1.errors import EngineLostError
from safe_r1.inference.batch import EngineSpec, dispatch, engine_error, read_result
from safe_r1.inference.endpoint_client import EndpointClient
from safe_r1.inference.engine import engine_arguments
from safe_r1.inference.placement import configure_data, release
from safe_r1.inference.processor import make_processor
from safe_r1.inference.remote import Journal, complete_now
from safe_r1.inference.rendering import Renderer
from safe_r1.inference.requests import EngineResult, Request
from safe_r1.inference.spending import Spending
from safe_r1.resources import node_labels

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

CompleteAll = Callable[[Sequence[Request]], Awaitable[list[EngineResult]]]
"""Completes requests; the results are in order. Raises what concerns every request, see its makers."""

_COLUMN = "row"
_REMOTE_OPTIONS = ("num_cpus", "num_gpus", "resources", "runtime_env", "max_restarts")


class EngineActor:
    """An engine in a process of its own; runs as an actor, which Ray starts anew where its engine died."""

    def __init__(self, constructor: Mapping[str, Any]):
        """Start the engine.

        Args:
            constructor: Arguments of ``FinalOutputStage``.
        """
        from safe_r1.inference.engine_stage import FinalOutputStage

        self._stage = FinalOutputStage(**constructor)

    async def ready(self) -> bool:
        """True, once it has started."""
        return True

    async def complete(self, renderer: Renderer, requests: Sequence[Request]) -> list[EngineResult]:
        """Complete requests; one that fails has the error in its result."""
        rows = [renderer(request) for request in requests]
        # The stage gives the rows back in their order, with its own columns beside ours.
        finished = [row async for block in self._stage({_COLUMN: rows}) for row in block[_COLUMN]]
        return [read_result(row) for row in finished]


@dataclass(frozen=True)
class _Started:
    """An engine that was started, and what it takes."""

    actor: Any
    spec: EngineSpec


class DialogueEngines:
    """The engines of a job that are asked again and again; each model is loaded once.

    Used as a context: at its end the engines end.
    """

    def __init__(self) -> None:
        self._started: dict[str, _Started] = {}
        self._groups: list[PlacementGroup] = []

    def __enter__(self) -> "DialogueEngines":
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for each in self._started.values():
            ray.kill(each.actor)
        release(self._groups)
        self._started.clear()
        self._groups.clear()

    def model(self, spec: EngineSpec) -> CompleteAll:
        """A model with its sampling settings, whose engine is started unless it runs already."""
        key = engine_key(spec)
        if key not in self._started:
            self._started[key] = _Started(self._start(spec), spec)
        actor = self._started[key].actor
        context = engine_arguments(spec.variant, spec.engine, spec.device)["max_model_len"]
        renderer = Renderer(spec.variant, spec.sampling, context, spec.engine.trust_remote_code)
        name, max_restarts = spec.variant.name, spec.engine.max_restarts

        async def complete(requests: Sequence[Request]) -> list[EngineResult]:
            with _engine_errors(name, max_restarts):
                return await actor.complete.remote(renderer, list(requests))

        return complete

    def wait(self) -> None:
        """Wait until all engines have started.

        Raises:
            ModelError: One cannot start.
            EngineLostError: Its process died, or found no machine in time.
        """
        import ray

        for each in self._started.values():
            engine = each.spec.engine
            with _engine_errors(each.spec.variant.name, engine.max_restarts):
                ready = each.actor.ready.remote()
                if not ray.wait([ready], timeout=engine.start_timeout_s)[0]:
                    raise EngineLostError(
                        f"{each.spec.variant.name}: its engine did not start within "
                        f"{engine.start_timeout_s} s (engine.start_timeout_s), maybe as the cluster has no "
                        "room for it beside the others"
                    )
                ray.get(ready)

    def _start(self, spec: EngineSpec) -> Any:
        import ray

        configure_data(spec.engine.start_timeout_s)
        arguments = engine_arguments(spec.variant, spec.engine, spec.device)
        sizes = dispatch(arguments["max_num_seqs"], spec.engine.batch_size)
        processor = make_processor(spec.variant, spec.engine, spec.device, sizes, self._groups)
        [stage] = processor.stages.values()
        kwargs = stage.get_dataset_map_batches_kwargs(sizes.rows, _COLUMN)
        options = {name: kwargs[name] for name in _REMOTE_OPTIONS if kwargs.get(name) is not None}
        if reserve := kwargs.get("ray_remote_args_fn"):
            options |= reserve()
        elif labels := node_labels():
            options["label_selector"] = labels
        # What an engine had under way when it died is asked again of the one in its place.
        remote = ray.remote(EngineActor).options(**options, max_task_retries=-1)
        return remote.remote(kwargs["fn_constructor_kwargs"])


def engine_key(spec: EngineSpec) -> str:
    """What two models have in common that can share an engine."""
    return json.dumps(
        [spec.variant.source, spec.variant.revision, spec.device, spec.engine.model_dump_json()]
    )


@contextlib.contextmanager
def _engine_errors(name: str, max_restarts: int) -> Iterator[None]:
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise engine_error(name, max_restarts, error) from error


def endpoint_model(
    endpoints: Sequence[EndpointClient],
    spending: Spending,
    journal: Journal,
    adaptations: dict[str, str],
    after: Callable[[], None] = lambda: None,
) -> CompleteAll:
    """A model behind a URL.

    Args:
        endpoints: From ``make_endpoints``.
        spending: Counts tokens, and says when to stop.
        journal: Keeps each answer from its arrival on.
        adaptations: Filled with what was sent in another form than the settings say.
        after: Called after each call, also one that fails.

    The model raises EndpointError where it cannot be used, and BudgetError at the limit of cost.
    """
    # Its limits hold for one call: several at a time would each take all of them.
    lock = asyncio.Lock()

    async def complete(requests: Sequence[Request]) -> list[EngineResult]:
        async with lock:
            try:
                return await complete_now(requests, endpoints, spending, journal, adaptations)
            finally:
                after()

    return complete
