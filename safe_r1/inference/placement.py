"""Placement groups for Ray Data's engines of several GPUs.

Ray Data's own function reserves GPUs on any nodes (a job's label selector reaches the engine's actor alone),
splits the GPUs of a tensor-parallel group over nodes, and never releases them.
"""

import logging
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safe_r1.errors import EngineLostError
from safe_r1.inference.engine_process import KV_CACHE_VARIABLE, ignored_variable
from safe_r1.progress import STARTUP_LOGGER
from safe_r1.resources import has_labels, node_labels

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

# Ray's label of each node with its identity.
_NODE_ID = "ray.io/node-id"
# Of a further engine, for which there may never be nodes: meanwhile, the first one gets no rows.
_FURTHER_WAIT_S = 5.0
_BIND_WAIT_S = 30.0
# Longer than a machine takes to start.
_ROUND_S = 900.0
# For what is free already.
_ROOM_WAIT_S = 2.0
# Of the tasks beside an engine.
_STREAM_CPUS = 1.0


@dataclass(frozen=True)
class EnginePlace:
    """What one engine reserves.

    Attributes:
        bundles: Ray resources of each worker, stage by stage.
        num_stages: Stages of the engine's pipeline (``pipeline_parallel_size``).
        timeout_s: How long its nodes may take to come.
    """

    bundles: Sequence[dict[str, float]]
    num_stages: int = 1
    timeout_s: float = 3600.0

    @property
    def stage(self) -> Sequence[dict[str, float]]:
        """The bundles of one stage, which stand on one node."""
        return self.bundles[: len(self.bundles) // self.num_stages]


def describe_nodes(place: EnginePlace) -> str:
    """The nodes that an engine needs and does not find, and those that there are."""
    import ray

    labels = node_labels()
    kind = "GPU" if "GPU" in place.stage[0] else "CPU"
    number = sum(bundle[kind] for bundle in place.stage)
    needed = f"{number:g} free {kind}{'' if number == 1 else 's'}"
    wanted = f"no node with {needed}"
    if place.num_stages > 1:
        wanted = f"no {place.num_stages} nodes with {needed} each"
    nodes = Counter(
        node["Resources"].get(kind, 0.0)
        for node in ray.nodes()
        if node["Alive"] and has_labels(node["Labels"], labels)
    )
    found = ", ".join(f"{number} of {size:g} {kind}s" for size, number in sorted(nodes.items(), reverse=True))
    with_labels = f" with {','.join(f'{key}={value}' for key, value in labels.items())}" if labels else ""
    return f"{wanted} (nodes{with_labels}: {found or 'none'})"


def configure_data(start_timeout_s: int) -> None:
    """Set Ray Data up in this process.

    Args:
        start_timeout_s: Time that an engine, and its machine, may take to start.
    """
    import ray

    startup = logging.getLogger(STARTUP_LOGGER)
    startup.info("engine: starting its process")
    if value := os.environ.get(KV_CACHE_VARIABLE):
        startup.info("engine: %s", ignored_variable(value))
    context = ray.data.DataContext.get_current()
    context.wait_for_min_actors_s = start_timeout_s
    context.enable_progress_bars = False
    # They only warn, and one of them calls the placement function, which would reserve the GPUs twice.
    context.issue_detectors_config.detectors = []


def placement(
    place: EnginePlace, groups: "list[PlacementGroup]"
) -> "Callable[[], dict[str, PlacementGroupSchedulingStrategy]]":
    """A function that reserves the GPUs of one engine, each stage on one of the nodes with the job's labels.

    Args:
        place: What an engine reserves.
        groups: Each placement group that is made is appended here.
    """
    labels = node_labels()
    stage_nodes: list[list[str]] = []

    def reserve() -> "dict[str, PlacementGroupSchedulingStrategy]":
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if place.num_stages == 1:
            # Ray wants a selector for each bundle, also where there are no labels.
            group = _reserve(place.bundles, "STRICT_PACK", [labels] * len(place.bundles))
        else:
            group = _place_stages(place, labels, stage_nodes)
        groups.append(group)
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
        return {"scheduling_strategy": strategy}

    return reserve


def _reserve(
    bundles: Sequence[dict[str, float]], strategy: str, selectors: Sequence[dict[str, str]]
) -> "PlacementGroup":
    import ray

    return ray.util.placement_group(list(bundles), strategy, bundle_label_selector=list(selectors))


def _place_stages(
    place: EnginePlace, labels: dict[str, str], stage_nodes: list[list[str]]
) -> "PlacementGroup":
    """One placement group, as vLLM wants it, with each stage's bundles on one node.

    No strategy of Ray's says that. So the stages are reserved one by one, which also lets nodes start for
    them, and the group is bound to the nodes that they got.

    Args:
        place: What the engine reserves; its time limit is that of the first engine.
        labels: Of the nodes that may be taken.
        stage_nodes: Nodes of the stages of the engines so far; those of this one are added.

    Raises:
        EngineLostError: The nodes were not there in time.
    """
    deadline = time.monotonic() + (_FURTHER_WAIT_S if stage_nodes else place.timeout_s)
    while (left_s := deadline - time.monotonic()) > 0:
        # Two jobs with a stage each would wait for each other forever: both let go, not at the same time.
        round_s = random.uniform(0.3, 1.0) * _ROUND_S
        nodes = _find_nodes(place, labels, min(left_s, round_s))
        if not nodes:
            continue
        group = _bind(place.bundles, nodes)
        # Another job may have been quicker.
        if group.wait(_BIND_WAIT_S):
            stage_nodes.append(nodes)
            return group
        release([group])
    if not stage_nodes:
        raise EngineLostError(
            f"{describe_nodes(place)} for {place.timeout_s:.0f} s (engine.start_timeout_s); the stages of "
            "one engine (engine.pipeline_parallel_size) need them at the same time"
        )
    # Ray Data cannot take a further engine back: it waits for the first one's nodes until the job ends.
    return _bind(place.bundles, stage_nodes[0])


def _bind(bundles: Sequence[dict[str, float]], nodes: Sequence[str]) -> "PlacementGroup":
    """A placement group with as many bundles on each of some nodes."""
    size = len(bundles) // len(nodes)
    return _reserve(bundles, "PACK", [{_NODE_ID: node} for node in nodes for _ in range(size)])


def _find_nodes(place: EnginePlace, labels: dict[str, str], timeout_s: float) -> list[str]:
    """A node for each stage that has its GPUs free at the same time; empty where there are none in time."""
    import ray

    deadline = time.monotonic() + timeout_s
    stage = place.stage
    groups = [_reserve(stage, "STRICT_PACK", [labels] * len(stage)) for _ in range(place.num_stages)]
    try:
        if not all(group.wait(max(0.0, deadline - time.monotonic())) for group in groups):
            return []
        tables = [ray.util.placement_group_table(group) for group in groups]
        return [next(iter(table["bundles_to_node_id"].values())) for table in tables]
    finally:
        release(groups)


def has_room(place: EnginePlace) -> bool:
    """Whether the cluster has the resources of an engine free at this moment; keeps nothing reserved.

    Args:
        place: What the engine reserves.
    """
    import ray

    needed = {"CPU": _STREAM_CPUS}
    for bundle in place.bundles:
        for name, number in bundle.items():
            needed[name] = needed.get(name, 0.0) + number
    free = ray.available_resources()
    # First the sum alone: a placement group that waits would have the autoscaler start machines.
    if any(free.get(name, 0.0) < number for name, number in needed.items()):
        return False
    return bool(_find_nodes(place, node_labels(), _ROOM_WAIT_S))


def release(groups: "Iterable[PlacementGroup]") -> None:
    """Remove placement groups.

    Ray keeps them until the job ends, and the job's next engine would wait for GPUs that nobody uses.
    """
    import ray

    for group in groups:
        ray.util.remove_placement_group(group)
