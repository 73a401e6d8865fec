"""Fetches the weights of an engine's model, where they are at a URI or on ModelScope, to the engine's nodes.

vLLM is given the folder of the cache in which they will be, under the same path on each node.
"""

import json
import os

from safe_r1.models.fetch import fetch
from safe_r1.models.files import cache_folder
from safe_r1.models.variant import Variant

_MODEL = "SAFE_R1_MODEL"


def model_environment(variant: Variant) -> dict[str, str]:
    """Environment variables of an engine's processes, which ``fetch_weights`` reads."""
    return {
        _MODEL: json.dumps([variant.source, variant.revision]),
        "SAFE_R1_CACHE": str(cache_folder().absolute()),
    }


def fetch_weights() -> set[str]:
    """Fetch the weights of this process's engine to each node of its placement group, else to this one.

    Returns:
        Ids of the nodes that have them now; empty where vLLM finds the model itself.

    Raises:
        ModelError: They cannot be had.
    """
    model = os.environ.get(_MODEL)
    if model is None:
        return set()
    source, revision = json.loads(model)
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    group = ray.util.get_current_placement_group()
    if group is None:
        return {_fetch(source, revision)}
    nodes = sorted(set(ray.util.placement_group_table(group)["bundles_to_node_id"].values()))
    fetch_there = ray.remote(num_cpus=0)(_fetch)
    # Beside the group, whose resources are the engine's.
    strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    asked = [fetch_there.options(scheduling_strategy=each).remote(source, revision) for each in strategies]
    return set(ray.get(asked))


def _fetch(source: str, revision: str) -> str:
    import ray

    fetch(source, revision, weights=True)
    return ray.get_runtime_context().get_node_id()
