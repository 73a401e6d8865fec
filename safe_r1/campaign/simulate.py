"""A campaign on paper: the real one's decisions, on nodes that start after a while and jobs that take what
was planned.

Nodes of a group are filled whole: a job of several nodes' GPUs gets nodes of its own, smaller ones share a
node.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from safe_r1.campaign.graph import Step
from safe_r1.campaign.recipe import NodeGroup
from safe_r1.campaign.schedule import Order, choose, longest_paths, priority_of


@dataclass(frozen=True)
class Span:
    """One job's time.

    Attributes:
        step: Its name.
        submitted: Hours from the campaign's start.
        started: When its nodes were there.
        ended: When it was done.
        nodes: Those that it ran on, as numbers within its group.
    """

    step: str
    submitted: float
    started: float
    ended: float
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Simulation:
    """What came of it.

    Attributes:
        spans: Every job, by its end.
        makespan_hours: From the first submission to the last end.
        critical_hours: The longest chain of jobs that wait for each other: no number of nodes makes it
            shorter.
        critical_path: Its steps.
        gpu_hours: What the jobs hold.
        node_hours: What the nodes are up, by group; until they have been idle for so long.
        peak_nodes: Most nodes up at once, by group.
    """

    spans: tuple[Span, ...]
    makespan_hours: float
    critical_hours: float
    critical_path: tuple[str, ...]
    gpu_hours: float
    node_hours: dict[str, float]
    peak_nodes: dict[str, int]


@dataclass
class _Node:
    """A node: its free units, when it is up, how many jobs are on it, since when it is idle."""

    free: int
    ready_at: float
    up_at: float
    jobs: int = 0
    idle_since: float | None = None


@dataclass
class _Pool:
    """The nodes of a group."""

    group: NodeGroup
    idle_hours: float
    nodes: dict[int, _Node] = field(default_factory=dict)
    node_hours: float = 0.0
    peak: int = 0

    @property
    def node_room(self) -> int:
        return self.group.node_gpus or self.group.jobs_per_node

    def release_idle(self, now: float) -> None:
        for number, node in list(self.nodes.items()):
            if not node.jobs and node.idle_since is not None and now - node.idle_since >= self.idle_hours:
                self.node_hours += node.idle_since + self.idle_hours - node.up_at
                del self.nodes[number]

    def take(self, units: int, now: float) -> tuple[float, dict[int, int]] | None:
        """Places for a job and when the last of its nodes is up; None where there is no room for it."""
        room, places, left = self.node_room, {}, units
        # The fullest node that still holds the job, so that whole nodes stay free for large ones.
        for number, node in sorted(self.nodes.items(), key=lambda each: (each[1].free, each[0])):
            wanted = min(left, room)
            if left and node.free >= wanted:
                places[number] = wanted
                left -= wanted
        new = (number for number in range(self.group.max_nodes) if number not in self.nodes)
        started = []
        while left and (number := next(new, None)) is not None:
            places[number] = min(left, room)
            left -= places[number]
            started.append(number)
        if left:
            return None
        for number in started:
            self.nodes[number] = _Node(room, now + self.group.start_minutes / 60, now)
        for number, taken in places.items():
            node = self.nodes[number]
            node.free, node.jobs, node.idle_since = node.free - taken, node.jobs + 1, None
        self.peak = max(self.peak, len(self.nodes))
        return max(now, *(self.nodes[number].ready_at for number in places)), places

    def give_back(self, places: Mapping[int, int], now: float) -> None:
        for number, taken in places.items():
            node = self.nodes[number]
            node.free, node.jobs = node.free + taken, node.jobs - 1
            if not node.jobs:
                node.idle_since = now


def simulate(
    steps: Mapping[str, Step],
    groups: Mapping[str, NodeGroup],
    order: Order = "largest",
    idle_minutes: float = 5.0,
) -> Simulation:
    """Run all steps on paper.

    Args:
        steps: As of ``make_steps``.
        groups: Their node groups.
        order: Who goes first.
        idle_minutes: After which the autoscaler takes an idle node down.
    """
    pools = {name: _Pool(group, idle_minutes / 60) for name, group in groups.items()}
    priority = priority_of(order, steps)
    running: list[tuple[float, str]] = []
    places: dict[str, dict[int, int]] = {}
    spans: dict[str, Span] = {}
    done: set[str] = set()
    now = 0.0
    while len(done) < len(steps):
        for pool in pools.values():
            pool.release_idle(now)
        waiting = [
            step
            for step in steps.values()
            if step.name not in spans and all(name in done for name in step.needs)
        ]
        held = {
            name: sum(steps[each].units for _, each in running if steps[each].group == name) for name in pools
        }
        free = {name: pool.group.room - held[name] for name, pool in pools.items()}
        for step in choose(waiting, free, priority):
            found = pools[step.group].take(step.units, now)
            if found is None:
                continue  # enough GPUs, but on nodes that others share
            started, places[step.name] = found
            spans[step.name] = Span(
                step.name, now, started, started + step.estimate.hours, tuple(places[step.name])
            )
            heapq.heappush(running, (spans[step.name].ended, step.name))
        now, name = heapq.heappop(running)
        done.add(name)
        pools[steps[name].group].give_back(places[name], now)
    return _result(steps, spans, pools, now)


def _result(
    steps: Mapping[str, Step], spans: Mapping[str, Span], pools: Mapping[str, _Pool], now: float
) -> Simulation:
    for pool in pools.values():
        pool.release_idle(float("inf"))
    path = _critical_path(steps)
    return Simulation(
        tuple(sorted(spans.values(), key=lambda span: span.ended)),
        now,
        sum(steps[name].estimate.hours for name in path),
        path,
        sum(step.gpu_hours for step in steps.values()),
        {name: pool.node_hours for name, pool in pools.items()},
        {name: pool.peak for name, pool in pools.items()},
    )


def _critical_path(steps: Mapping[str, Step]) -> tuple[str, ...]:
    paths, path = longest_paths(steps), []
    ready = [step for step in steps.values() if not step.needs]
    while ready:
        longest = max(ready, key=lambda step: paths[step.name])
        path.append(longest.name)
        ready = [step for step in steps.values() if longest.name in step.needs]
    return tuple(path)
