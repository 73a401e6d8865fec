"""An engine that starts before its rows are known: its model is loaded while another engine still works.

Its stream begins with tasks that wait at a gate. Ray Data starts an engine before it runs any task, so that
the engine is up, or on its way, when the gate opens.
"""

import asyncio
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from safe_r1.inference.batch import (
    Canary,
    EngineSpec,
    Finished,
    RenderStage,
    collect,
    complete,
    iter_blocks,
    make_stream,
)
from safe_r1.inference.placement import configure_data, release
from safe_r1.inference.requests import BatchCounts, EngineResult, RequestBatch

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

# An engine that is given up dies with its placement group, and its thread with it.
_END_WAIT_S = 15.0


class Gate:
    """Hands the batches of requests to the tasks that wait for them; runs as an actor."""

    def __init__(self) -> None:
        self._is_open = asyncio.Event()
        self._batches: list[bytes] = []

    async def open(self, batches: list[bytes]) -> None:
        """Give the pickled batches; none ends the stream."""
        self._batches = batches
        self._is_open.set()

    async def batches(self) -> list[bytes]:
        """All batches, once they are known."""
        await self._is_open.wait()
        return self._batches


class AtGate:
    """The stage that renders requests, behind the gate; each task takes every ``num_shares``-th batch."""

    def __init__(self, render: RenderStage, gate: Any, num_shares: int):
        self._render = render
        self._gate = gate
        self._num_shares = num_shares

    def __call__(self, rows: Mapping[str, Sequence[Any]]) -> Iterator[pa.Table]:
        """The rows of the batches of some shares."""
        import ray

        batches: list[bytes] = ray.get(self._gate.batches.remote())
        for share in rows["share"]:
            yield from self._render({"batch": batches[int(share) :: self._num_shares]})


class EarlyEngine:
    """An engine that starts now, and completes requests that are known later; it is used once."""

    def __init__(self, spec: EngineSpec):
        import ray

        configure_data(spec.engine.start_timeout_s)
        self._spec = spec
        self._groups: list[PlacementGroup] = []
        self._gate: Any = ray.remote(num_cpus=0)(Gate).remote()
        gate = self._gate
        num_shares = spec.engine.replicas
        stream = make_stream(
            [{"share": number} for number in range(num_shares)],
            spec,
            self._groups,
            lambda render: AtGate(render, gate, num_shares),
        )
        self._blocks = iter_blocks(stream)
        self._first: list[pa.Table] = []
        self._error: BaseException | None = None
        self._is_used = False
        # The first block comes after the engine's start, and when the gate is open.
        self._thread = threading.Thread(target=self._wait_for_first, name="early-engine", daemon=True)
        self._thread.start()

    def _wait_for_first(self) -> None:
        try:
            self._first = list(islice(self._blocks, 1))
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that asks for the rows
            self._error = error

    def generate(
        self,
        batches: Sequence[RequestBatch],
        finish: Callable[[EngineResult], Finished],
        write: Callable[[Sequence[Finished]], None],
        has_worked: bool = False,
    ) -> Iterator[BatchCounts]:
        """Complete requests; see ``safe_r1.inference.batch.generate`` for arguments and errors."""
        self._is_used = True
        self._gate.open.remote([pickle.dumps(batch) for batch in batches])
        num_rows = sum(batch.num_rows for batch in batches)
        canary = Canary(self._spec.variant.name, num_rows, is_alive=has_worked)
        blocks = complete(self._spec, batches, self._groups, first=self._rest())
        yield from collect(blocks, canary, self._spec.engine, self._groups, finish, write)

    def _rest(self) -> Iterator[pa.Table]:
        self._thread.join()
        if self._error is not None:
            raise self._error
        yield from chain(self._first, self._blocks)

    def discard(self) -> None:
        """End it, if it was not used; waits some seconds, as no thread may be inside of Ray when it ends."""
        if not self._is_used:
            self._gate.open.remote([])
            release(self._groups)
        self._thread.join(_END_WAIT_S)
