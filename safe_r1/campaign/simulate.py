"""A simulated campaign: the real one's decisions, with nodes and jobs that take the time that was planned.

Nodes of a group are filled whole: a job of several nodes' GPUs gets nodes of its own, smaller ones share a
node.
"""

import heapq
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from safe_r1.campaign.graph import Step
from safe_r1.campaign.recipe import NodeGroup
from safe_r1.campaign.schedule import Order, choose, longest_paths, priority_of


@dataclass(frozen=True)
class Span:
    """One job's time, in hours from the campaign's start.

    Attributes:
        step: Its name.
        submitted: When it was submitted.
        started: When the last of its nodes was up.
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
    """Result of a simulated campaign.

    Attributes:
        spans: Every job, by its end.
        makespan_hours: From the first submission to the last end.
        critical_hours: The longest chain of jobs that wait for each other: no number of nodes makes it
            shorter.
        critical_path: Its steps.
        gpu_hours: What the jobs hold.
        node_hours: How long the nodes are up, by group, until they are taken down as idle.
        peak_nodes: Most nodes up at the same time, by group.
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
    """A node.

    Attributes:
        free: Units that no job holds.
        ready_at: When jobs can run on it.
        up_at: When it was requested.
        jobs: Number of jobs on it.
        idle_since: None while it has a job.
    """

    free: int
    ready_at: float
    up_at: float
    jobs: int = 0
    idle_since: float | None = None


@dataclass
class _Pool:
    """The nodes of a group that are up, by number."""

    group: NodeGroup
    idle_hours: float
    nodes: dict[int, _Node] = field(default_factory=dict)
    node_hours: float = 0.0
    peak: int = 0

    @property
    def node_capacity(self) -> int:
        return self.group.node_gpus or self.group.jobs_per_node

    def take_down_idle(self, now: float) -> None:
        for number, node in list(self.nodes.items()):
            if not node.jobs and node.idle_since is not None and now - node.idle_since >= self.idle_hours:
                self.node_hours += node.idle_since + self.idle_hours - node.up_at
                del self.nodes[number]

    def allocate(self, units: int, now: float) -> tuple[float, dict[int, int]] | None:
        """Units on nodes for a job, and when the last of its nodes is up; None where they are not free."""
        capacity = self.node_capacity
        allocated: dict[int, int] = {}
        left = units
        # The fullest node that still holds the job, so that whole nodes stay free for large ones.
        for number, node in sorted(self.nodes.items(), key=lambda each: (each[1].free, each[0])):
            wanted = min(left, capacity)
            if left and node.free >= wanted:
                allocated[number] = wanted
                left -= wanted
        unused = (number for number in range(self.group.max_nodes) if number not in self.nodes)
        started: list[int] = []
        while left and (number := next(unused, None)) is not None:
            allocated[number] = min(left, capacity)
            left -= allocated[number]
            started.append(number)
        # Nothing was changed up to here, so that a job that does not fit leaves no trace.
        if left:
            return None
        for number in started:
            self.nodes[number] = _Node(capacity, now + self.group.start_minutes / 60, now)
        for number, taken in allocated.items():
            node = self.nodes[number]
            node.free -= taken
            node.jobs += 1
            node.idle_since = None
        self.peak = max(self.peak, len(self.nodes))
        return max(now, *(self.nodes[number].ready_at for number in allocated)), allocated

    def release(self, allocated: Mapping[int, int], now: float) -> None:
        """End a job's allocation."""
        for number, taken in allocated.items():
            node = self.nodes[number]
            node.free += taken
            node.jobs -= 1
            if not node.jobs:
                node.idle_since = now


def simulate(
    steps: Mapping[str, Step],
    groups: Mapping[str, NodeGroup],
    order: Order = "largest",
    idle_minutes: float = 5.0,
) -> Simulation:
    """Simulate all steps.

    Args:
        steps: As of ``make_steps``.
        groups: Their node groups.
        order: Which of the steps that are ready starts first.
        idle_minutes: After which the autoscaler takes an idle node down.
    """
    pools = {name: _Pool(group, idle_minutes / 60) for name, group in groups.items()}
    priority = priority_of(order, steps)
    running: list[tuple[float, str]] = []
    allocations: dict[str, dict[int, int]] = {}
    spans: dict[str, Span] = {}
    done: set[str] = set()
    now = 0.0
    while len(done) < len(steps):
        for pool in pools.values():
            pool.take_down_idle(now)
        waiting = [step for step in steps.values() if step.name not in spans and done.issuperset(step.needs)]
        for step in choose(waiting, _free_units(steps, pools, {name for _, name in running}), priority):
            found = pools[step.group].allocate(step.units, now)
            if found is None:
                # Enough GPUs are free, but on nodes that others share.
                continue
            started, allocations[step.name] = found
            ended = started + step.estimate.hours
            spans[step.name] = Span(step.name, now, started, ended, tuple(allocations[step.name]))
            heapq.heappush(running, (ended, step.name))
        # Something is always running here, as each step fits into an empty group, see `make_steps`.
        now, name = heapq.heappop(running)
        done.add(name)
        pools[steps[name].group].release(allocations[name], now)
    return _result(steps, spans, pools, now)


def _free_units(steps: Mapping[str, Step], pools: Mapping[str, _Pool], running: Set[str]) -> dict[str, int]:
    free = {name: pool.group.capacity for name, pool in pools.items()}
    for name in running:
        free[steps[name].group] -= steps[name].units
    return free


def _result(
    steps: Mapping[str, Step], spans: Mapping[str, Span], pools: Mapping[str, _Pool], now: float
) -> Simulation:
    # The nodes that are still up at the end are idle for as long as any other.
    for pool in pools.values():
        pool.take_down_idle(float("inf"))
    path = _critical_path(steps)
    return Simulation(
        spans=tuple(sorted(spans.values(), key=lambda span: span.ended)),
        makespan_hours=now,
        critical_hours=sum(steps[name].estimate.hours for name in path),
        critical_path=path,
        gpu_hours=sum(step.gpu_hours for step in steps.values()),
        node_hours={name: pool.node_hours for name, pool in pools.items()},
        peak_nodes={name: pool.peak for name, pool in pools.items()},
    )


def _critical_path(steps: Mapping[str, Step]) -> tuple[str, ...]:
    """The longest chain of steps that need each other, by planned hours."""
    hours = longest_paths(steps)
    path: list[str] = []
    candidates = [step for step in steps.values() if not step.needs]
    while candidates:
        longest = max(candidates, key=lambda step: hours[step.name])
        path.append(longest.name)
        candidates = [step for step in steps.values() if longest.name in step.needs]
    return tuple(path)
