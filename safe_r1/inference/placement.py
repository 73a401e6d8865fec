"""Where Ray Data's engines of several GPUs run.

Its own function reserves GPUs on any nodes (a job's labels reach the engine's actor alone), and gives none
back.
"""

from collections.abc import Callable, Iterable
from typing import Any

from safe_r1.resources import node_labels


def configure_data(start_timeout_s: int) -> None:
    """Set Ray Data up in this process.

    Args:
        start_timeout_s: How long an engine, and its machine, may take to start.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.wait_for_min_actors_s = start_timeout_s
    context.enable_progress_bars = False
    # They only warn; and one of them asks where an engine shall run, which reserves its GPUs a second time.
    context.issue_detectors_config.detectors = []


def placement(bundles: list[dict[str, float]], groups: list[Any]) -> Callable[[], dict[str, Any]]:
    """A function that places one engine: its bundles together, on nodes with the job's labels.

    Args:
        bundles: Of one engine.
        groups: Gets what is reserved.
    """
    labels = node_labels()
    where: dict[str, Any] = {"bundle_label_selector": [labels] * len(bundles)} if labels else {}

    def place() -> dict[str, Any]:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        groups.append(ray.util.placement_group(bundles, "PACK", **where))
        return {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                groups[-1], placement_group_capture_child_tasks=True
            )
        }

    return place


def give_back(groups: Iterable[Any]) -> None:
    """End the reservations: Ray keeps them to the end of the job, and its next engine would wait for GPUs
    that nobody uses.
    """
    import ray

    for group in groups:
        ray.util.remove_placement_group(group)
