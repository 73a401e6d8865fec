"""Applies a function to the shards of a run: here, or in Ray's workers where the shards hold many rows."""

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import numpy as np

from safe_r1.errors import ClusterLostError, SafeR1Error
from safe_r1.inference.batch import is_loss, last_line

Item = TypeVar("Item")
Result = TypeVar("Result")

# Fewer rows are through before a worker has imported what it needs.
_ROWS_HERE = 10_000


@dataclass(frozen=True)
class Workers:
    """Where functions are applied.

    Attributes:
        num: Processes at the same time; 0 where there is no Ray, and all is done here.
    """

    num: int

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item], num_rows: int
    ) -> Iterator[tuple[int, Result]]:
        """Apply a function to every item.

        Args:
            function: Must be picklable, and safe to repeat: what a lost worker did is done again.
            items: Must be picklable.
            num_rows: Rows of all items together.

        Yields:
            Each item's position and its result, in the order in which they are finished.

        Raises:
            SafeR1Error: What the function raised.
            ClusterLostError: Workers kept dying.
        """
        if not self.num or num_rows <= _ROWS_HERE:
            yield from enumerate(map(function, items))
            return
        from ray.exceptions import RayError

        try:
            yield from self._map_there(function, items)
        except RayError as error:
            if not is_loss(error):
                raise
            raise ClusterLostError(
                f"a worker died again and again: {last_line(error)}; what was written is kept, the same "
                "command does the rest"
            ) from error

    def _map_there(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[int, Result]]:
        import ray
        from ray.data import TaskPoolStrategy

        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [{"position": place, "item": pickle.dumps(item)} for place, item in enumerate(items)]
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            cast(Any, _Apply(function)), batch_size=1, num_cpus=1, compute=TaskPoolStrategy(size=self.num)
        )
        for batch in results.iter_batches(batch_size=1, prefetch_batches=0):
            columns = cast(Mapping[str, Sequence[Any]], batch)
            result = pickle.loads(columns["result"][0])
            if isinstance(result, SafeR1Error):
                raise result
            yield int(columns["position"][0]), result


@dataclass(frozen=True)
class _Apply(Generic[Item, Result]):
    """The function as a stage of Ray Data."""

    function: Callable[[Item], Result]

    def __call__(self, batch: Mapping[str, Sequence[bytes]]) -> dict[str, object]:
        result: Result | SafeR1Error
        try:
            result = self.function(pickle.loads(batch["item"][0]))
        except SafeR1Error as error:
            # As a result: Ray would wrap it, and its kind decides the job's exit code.
            result = error
        return {"position": batch["position"], "result": np.asarray([pickle.dumps(result)], object)}
