"""Placement groups for Ray Data's engines of several GPUs.

Ray Data's own function reserves GPUs on any nodes (a job's label selector reaches the engine's actor alone),
and never releases them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from safe_r1.resources import node_labels

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


def configure_data(start_timeout_s: int) -> None:
    """Set Ray Data up in this process.

    Args:
        start_timeout_s: Time that an engine, and its machine, may take to start.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.wait_for_min_actors_s = start_timeout_s
    context.enable_progress_bars = False
    # They only warn, and one of them calls the placement function, which would reserve the GPUs twice.
    context.issue_detectors_config.detectors = []


def placement(
    bundles: Sequence[dict[str, float]], groups: "list[PlacementGroup]"
) -> "Callable[[], dict[str, PlacementGroupSchedulingStrategy]]":
    """A function that reserves the GPUs of one engine: its bundles together, on nodes with the job's labels.

    Args:
        bundles: Ray resources of each worker of the engine.
        groups: Each placement group that is made is appended here.
    """
    labels = node_labels()
    # Ray wants a selector for each bundle, also where there are no labels.
    selector = [labels] * len(bundles)

    def place() -> "dict[str, PlacementGroupSchedulingStrategy]":
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = ray.util.placement_group(list(bundles), "PACK", bundle_label_selector=selector)
        groups.append(group)
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
        return {"scheduling_strategy": strategy}

    return place


def release(groups: "Iterable[PlacementGroup]") -> None:
    """Remove placement groups.

    Ray keeps them until the job ends, and the job's next engine would wait for GPUs that nobody uses.
    """
    import ray

    for group in groups:
        ray.util.remove_placement_group(group)
