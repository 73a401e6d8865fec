"""Which jobs start next: pure functions, for the real campaign and the simulated one."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from safe_r1.campaign.graph import Step

Order = Literal["largest", "longest-path", "declared"]
ORDERS: tuple[Order, ...] = ("largest", "longest-path", "declared")
Priority = Callable[[Step], tuple[float, ...]]
"""A key to sort by, the first to start first."""


def longest_paths(steps: Mapping[str, Step]) -> dict[str, float]:
    """Planned hours from the start of each step to the end of the longest chain of steps that needs it."""
    paths: dict[str, float] = {}
    # Backwards, as each step stands after those that it needs.
    for step in reversed(list(steps.values())):
        after = (paths[each.name] for each in steps.values() if step.name in each.needs)
        paths[step.name] = step.estimate.hours + max(after, default=0.0)
    return paths


def choose(ready: Iterable[Step], free: Mapping[str, int], priority: Priority) -> list[Step]:
    """The steps to start now, in their order; smaller ones may overtake one that does not fit.

    Args:
        ready: Steps whose needs are met.
        free: Units of each group that no job holds, see ``NodeGroup.capacity``.
        priority: Their order.
    """
    left = dict(free)
    chosen: list[Step] = []
    for step in sorted(ready, key=priority):
        if step.units <= left[step.group]:
            left[step.group] -= step.units
            chosen.append(step)
    return chosen


def priority_of(order: Order, steps: Mapping[str, Step]) -> Priority:
    """The key of an order.

    ``largest``: most GPUs first, then the longest. ``longest-path``: what the end waits for longest.
    ``declared``: as written.
    """
    paths = longest_paths(steps)
    positions = {name: position for position, name in enumerate(steps)}
    keys: dict[Order, Priority] = {
        "largest": lambda step: (-step.estimate.gpus, -step.estimate.hours, positions[step.name]),
        "longest-path": lambda step: (-paths[step.name], -step.estimate.gpus, positions[step.name]),
        "declared": lambda step: (positions[step.name],),
    }
    return keys[order]
