"""Which jobs go next: a pure function of what is ready and what is free, for the real campaign and the
simulated one.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from safe_r1.campaign.graph import Step

Order = Literal["largest", "longest-path", "declared"]
ORDERS: tuple[Order, ...] = ("largest", "longest-path", "declared")


def longest_paths(steps: Mapping[str, Step]) -> dict[str, float]:
    """Hours from the start of each step to the end of all that waits for it, as planned."""
    paths: dict[str, float] = {}
    for step in reversed(list(steps.values())):  # each step stands after those that it needs
        after = (paths[each.name] for each in steps.values() if step.name in each.needs)
        paths[step.name] = step.estimate.hours + max(after, default=0.0)
    return paths


def choose(ready: Iterable[Step], free: Mapping[str, int], priority: Callable[[Step], object]) -> list[Step]:
    """The steps to start now, in their order; one that does not fit lets smaller ones past.

    Args:
        ready: Steps whose needs are met.
        free: Room of each group that nobody holds, see ``NodeGroup.room``.
        priority: A key to sort by, the first to start first.
    """
    left, chosen = dict(free), []
    for step in sorted(ready, key=priority):  # type: ignore[arg-type]
        if step.units <= left[step.group]:
            left[step.group] -= step.units
            chosen.append(step)
    return chosen


def priority_of(order: Order, steps: Mapping[str, Step]) -> Callable[[Step], tuple[float, ...]]:
    """The key of an order.

    ``largest``: most GPUs first, then the longest. ``longest-path``: what the end waits for longest.
        ``declared``: as written.
    """
    paths, places = longest_paths(steps), {name: place for place, name in enumerate(steps)}
    keys: dict[Order, Callable[[Step], tuple[float, ...]]] = {
        "largest": lambda step: (-step.estimate.gpus, -step.estimate.hours, places[step.name]),
        "longest-path": lambda step: (-paths[step.name], -step.estimate.gpus, places[step.name]),
        "declared": lambda step: (places[step.name],),
    }
    return keys[order]
