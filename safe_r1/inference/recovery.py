"""Goes on when an engine loses a node: its stream is started again with the rows that are left.

Ray starts a lost actor again in the placement group that it had, and waits for a node as long as it takes:
without end where no node fits, and always where a group is bound to the nodes of its stages
(``safe_r1.inference.placement``). Such an engine is given up here, which ends its stream.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from safe_r1.errors import EngineLostError
from safe_r1.inference.placement import EnginePlace, describe_nodes, release
from safe_r1.inference.requests import Request, RequestBatch
from safe_r1.progress import STARTUP_LOGGER

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

_INTERVAL_S = 1.0
# In Ray Data's name of an actor: the stage of an engine.
_STAGE = "FinalOutputStage"

StartStream = Callable[[Sequence[RequestBatch]], Iterable[pa.Table]]
"""Starts an engine for some rows, and gives its results."""


def recovering(
    variant: str,
    start: StartStream,
    batches: Sequence[RequestBatch],
    groups: "list[PlacementGroup]",
    place: EnginePlace,
    max_restarts: int,
    first: Iterable[pa.Table] | None = None,
) -> Iterator[pa.Table]:
    """The results of all rows, of as many streams as it takes.

    Args:
        variant: Name of the model.
        start: Starts a stream.
        batches: The rows.
        groups: To which a stream adds the placement groups of its engines.
        place: What an engine reserves.
        max_restarts: Streams after the first one.
        first: The first stream, where it was started before.

    Yields:
        Blocks of the engine's stage.

    Raises:
        EngineLostError: No node came in place of a lost one, or at the start, or nodes were lost too often.
    """
    from ray.exceptions import GetTimeoutError

    done: set[str] = set()
    left = list(batches)
    stream = first
    for number in range(max_restarts + 1):
        watch = EngineWatch(groups, place)
        try:
            with watch:
                for block in start(left) if stream is None else stream:
                    done.update(block.column(0).combine_chunks().field("key").to_pylist())
                    yield block
            return
        except Exception as error:
            has_waited = isinstance(error, GetTimeoutError) and groups and not watch.has_place
            if not watch.is_lost and not has_waited:
                raise
            if has_waited or watch.is_final or number == max_restarts:
                raise EngineLostError(f"{variant}: {watch.explain()}") from error
        release(groups)
        groups.clear()
        stream = None
        left = list(_remaining(batches, done))
        if not left:
            return
        logging.getLogger(STARTUP_LOGGER).info("engine: one of its nodes was lost, it is started again")


@dataclass
class EngineWatch:
    """Watches the engines of a stream; a context manager.

    Attributes:
        groups: The stream's placement groups so far; an engine of one GPU or on CPU has none.
        place: What an engine reserves.
        has_place: An engine of the stream has had its nodes.
        is_lost: An engine was given up.
        is_final: It waited for another node as long as it may, and no other engine works.
    """

    groups: "list[PlacementGroup]"
    place: EnginePlace
    has_place: bool = False
    is_lost: bool = False
    is_final: bool = False
    _placed: set[str] = field(default_factory=set)
    _lost_at: dict[str, float] = field(default_factory=dict)
    _is_closed: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "EngineWatch":
        self._thread = threading.Thread(target=self._watch, name="engine-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_closed.set()
        self._thread.join()

    def explain(self) -> str:
        """What is missing, in one line."""
        if self.is_lost and not self.is_final:
            return "nodes of its engines were lost too often (engine.max_restarts)"
        before = "the node of its engine was lost, and there was " if self.has_place else ""
        return (
            f"{before}{describe_nodes(self.place)} for {self.place.timeout_s:.0f} s (engine.start_timeout_s);"
            " what is finished is kept: the same command goes on when there are such nodes"
        )

    def _watch(self) -> None:
        is_over = False
        while not is_over:
            # Also at the end once: an error may be quicker than the interval.
            is_over = self._is_closed.wait(_INTERVAL_S)
            self._check()
            is_over |= self.is_lost

    def _check(self) -> None:
        import ray

        # A question to a Ray that has ended would start another one.
        if not ray.is_initialized():
            return
        now = time.monotonic()
        has_groups = len(self.place.bundles) > 1
        states = self._group_states() if has_groups else _actor_states()
        self._placed |= {name for name, is_placed in states.items() if is_placed}
        self.has_place = bool(self._placed)
        lost = {name for name, is_placed in states.items() if not is_placed and name in self._placed}
        self._lost_at = {name: self._lost_at.get(name, now) for name in lost}
        # A group of several stages is bound to its nodes: no other one can take the place of a lost node.
        limit_s = self.place.timeout_s if self.place.num_stages == 1 else 0.0
        given_up = {name for name, since in self._lost_at.items() if now - since >= limit_s}
        if not given_up:
            return
        self.is_lost = True
        self.is_final = self.place.num_stages == 1 and not any(states.values())
        # Ends the engines, which may hang, and whoever waits for them.
        release([group for group in self.groups if group.id.hex() in given_up])
        # Ray goes on to start the actor of a group that was removed.
        waiting = (name for name, is_alive in _actor_states().items() if not is_alive)
        _kill_actors(waiting if has_groups else given_up)

    def _group_states(self) -> dict[str, bool]:
        import ray

        tables = {group.id.hex(): ray.util.placement_group_table(group) for group in list(self.groups)}
        return {name: table["state"] == "CREATED" for name, table in tables.items()}


def _actor_states() -> dict[str, bool]:
    """The engines of this job that have not ended, and whether each one has a process."""
    import ray
    from ray._private.state import actors

    found = actors(job_id=ray.JobID(bytes.fromhex(ray.get_runtime_context().get_job_id())))
    return {
        name: actor["State"] == "ALIVE"
        for name, actor in found.items()
        if _STAGE in actor["ActorClassName"] and actor["State"] in ("ALIVE", "RESTARTING")
    }


def _kill_actors(names: Iterable[str]) -> None:
    # As `ray.kill`, for which Ray Data keeps the handles to itself.
    import ray
    from ray._private.worker import global_worker

    core_worker: Any = global_worker.core_worker  # pyright: ignore[reportAttributeAccessIssue]
    for name in names:
        core_worker.kill_actor(ray.ActorID(bytes.fromhex(name)), True)


def _remaining(batches: Sequence[RequestBatch], done: Collection[str]) -> Iterator[RequestBatch]:
    for batch in batches:
        keys = [request.key for request in batch.read()]
        done_keys = frozenset(key for key in keys if key in done)
        if len(done_keys) < len(keys):
            yield _Remaining(batch, len(keys) - len(done_keys), done_keys)


@dataclass(frozen=True)
class _Remaining:
    """The requests of a batch but those that are done."""

    batch: RequestBatch
    num_rows: int
    done: frozenset[str]

    def read(self) -> Iterator[Request]:
        """The requests."""
        return (request for request in self.batch.read() if request.key not in self.done)
