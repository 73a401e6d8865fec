"""The same work on many files: in this process, or in processes on all nodes of the cluster."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from safe_r1.errors import SafeR1Error, WorkersLostError
from safe_r1.resources import connect, node_labels

Item = TypeVar("Item")
Result = TypeVar("Result")


class RunAll(Protocol):
    """Calls a function with each item and gives the results as they come, in any order."""

    def __call__(
        self, function: Callable[[Item], Result], items: Sequence[Item], memory: int
    ) -> Iterator[Result]:
        """Run all.

        Args:
            function: Picklable.
            items: Its arguments, picklable.
            memory: Bytes that one call needs.
        """
        ...


def run_here(function: Callable[[Item], Result], items: Sequence[Item], memory: int) -> Iterator[Result]:
    """A ``RunAll`` of this process, one after the other."""
    del memory
    yield from map(function, items)


def run_on_cluster(
    function: Callable[[Item], Result], items: Sequence[Item], memory: int
) -> Iterator[Result]:
    """A ``RunAll`` of Ray tasks, which take no GPU; as many at a time as the CPUs and the memory allow.

    A lost node's are run again by Ray.

    Raises:
        SafeR1Error: The first error of a call.
        WorkersLostError: Machines were lost too often.
    """
    if len(items) <= 1:
        yield from run_here(function, items, memory)
        return
    import ray
    from ray.exceptions import RayError, RayTaskError

    cluster = connect()
    # A node that is smaller than what one call needs takes one at a time.
    largest_node = max(node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"])
    run: Any = ray.remote(_call).options(
        # A local Ray has more logical CPUs than real ones.
        num_cpus=max(1, int(cluster.cpu_total / cluster.num_workers)),
        memory=min(memory, int(largest_node)) or None,
        scheduling_strategy="SPREAD",
        label_selector=node_labels() or None,
    )
    pending = [run.remote(function, item) for item in items]
    try:
        while pending:
            [done, *_], pending = ray.wait(pending, num_returns=1)
            yield ray.get(done)
    except RayTaskError as error:
        if isinstance(error.cause, SafeR1Error):
            raise error.cause from None
        raise
    except RayError as error:
        raise WorkersLostError(f"machines were lost ({error}); run the same command again") from error
    finally:
        for each in pending:
            ray.cancel(each, force=True)


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)
