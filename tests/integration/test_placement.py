"""Engines of several GPUs on nodes with labels; the GPUs are Ray's own count, there are none here."""

from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from safe_r1.config import EngineConfig
from safe_r1.inference.engine import engine_arguments, engine_bundles
from safe_r1.inference.placement import configure_data, placement, release
from safe_r1.models.registry import VARIANTS

GROUP = "safe-r1/group"


@pytest.fixture
def cluster():
    """A head, and a node of four GPUs in each of two groups."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0})
    nodes = {
        name: made.add_node(num_cpus=6, num_gpus=4, labels={GROUP: name}).node_id
        for name in ("gpu-train", "gpu-eval")
    }
    ray.init(address=made.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    made.shutdown()


class Where:
    """Stands for an engine: says where it is."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"node": [ray.get_runtime_context().get_node_id()] * len(batch["id"])}


def test_an_engine_reserves_its_gpus_once_and_by_labels(
    cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAFE_R1_NODE_LABELS", f"{GROUP}=gpu-eval")
    monkeypatch.setattr(
        ray.data.DataContext.get_current().execution_options, "label_selector", {GROUP: "gpu-eval"}
    )
    configure_data(60)
    arguments = engine_arguments(VARIANTS["r1-distill-llama-70b"], EngineConfig(), "gpu")
    groups: list[Any] = []
    rows = ray.data.range(4, override_num_blocks=2).map_batches(
        Where,
        concurrency=1,
        num_gpus=0,
        batch_size=2,
        ray_remote_args_fn=placement(engine_bundles(arguments, "gpu"), groups),
    )
    assert {row["node"] for row in rows.take_all()} == {cluster["gpu-eval"]}
    [group] = ray.util.placement_group_table().values()
    assert group["bundles"] == {number: {"CPU": 1.0, "GPU": 1.0} for number in range(4)}
    assert set(group["bundles_to_node_id"].values()) == {cluster["gpu-eval"]}
    monkeypatch.delenv("SAFE_R1_NODE_LABELS")
    placement(engine_bundles(arguments, "gpu"), groups)()  # on any node
    assert len(groups) == 2
    release(groups)
    assert {each["state"] for each in ray.util.placement_group_table().values()} == {"REMOVED"}
