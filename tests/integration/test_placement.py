"""Engines of several GPUs on nodes with labels; the GPUs are Ray's own count, there are none here."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from safe_r1.config import EngineConfig
from safe_r1.errors import EngineLostError
from safe_r1.inference.engine import engine_arguments, engine_bundles, engine_place
from safe_r1.inference.placement import EnginePlace, configure_data, placement, release
from safe_r1.inference.weights import fetch_weights, model_environment
from safe_r1.models.checkpoints import pin
from safe_r1.models.fetch import loadable
from safe_r1.models.registry import VARIANTS, get_variant
from safe_r1.serve.config import ScalingConfig
from safe_r1.serve.deployment import DeploymentSpec, model_deployment
from tests.unit.models.hubs import serve
from tests.unit.models.test_stored import write_weights

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


def take(node: str, num_gpus: int) -> Any:
    """Reserves GPUs of a node, as another job does."""
    selector = [{"ray.io/node-id": node}] * num_gpus
    group = ray.util.placement_group([{"GPU": 1}] * num_gpus, bundle_label_selector=selector)
    assert group.wait(30)
    return group


def nodes_of(group: Any) -> list[str]:
    """The node of each bundle."""
    nodes = ray.util.placement_group_table(group)["bundles_to_node_id"]
    return [nodes[number] for number in range(len(nodes))]


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
        ray_remote_args_fn=placement(engine_place(arguments, EngineConfig(), "gpu"), groups),
    )
    assert {row["node"] for row in rows.take_all()} == {cluster["gpu-eval"]}
    [group] = ray.util.placement_group_table().values()
    assert group["bundles"] == {number: {"CPU": 1.0, "GPU": 1.0} for number in range(4)}
    assert set(group["bundles_to_node_id"].values()) == {cluster["gpu-eval"]}
    monkeypatch.delenv("SAFE_R1_NODE_LABELS")
    placement(engine_place(arguments, EngineConfig(), "gpu"), groups)()  # on any node
    assert len(groups) == 2
    release(groups)
    assert {each["state"] for each in ray.util.placement_group_table().values()} == {"REMOVED"}


def test_a_tensor_parallel_group_waits_for_one_node(cluster: dict[str, str]):
    """Ray's own strategy split it over two nodes that were half taken."""
    train, eval_ = cluster["gpu-train"], cluster["gpu-eval"]
    taken = [take(train, 2), take(eval_, 2)]
    engine = EngineConfig(tensor_parallel_size=4)
    arguments = engine_arguments(VARIANTS["r1-distill-llama-70b"], engine, "gpu")
    bundles = engine_bundles(arguments, "gpu")
    groups: list[Any] = []
    placement(EnginePlace(bundles), groups)()
    assert not groups[0].wait(3)
    packed = ray.util.placement_group(bundles, "PACK")
    assert packed.wait(30)
    assert len(set(nodes_of(packed))) == 2  # so that this test can fail
    release([packed, taken[1]])
    assert groups[0].wait(30)
    assert nodes_of(groups[0]) == [eval_] * 4


def test_each_stage_of_a_pipeline_stands_on_one_node(cluster: dict[str, str]):
    taken = [take(node, 1) for node in cluster.values()]
    engine = EngineConfig(tensor_parallel_size=2, pipeline_parallel_size=2)
    arguments = engine_arguments(VARIANTS["r1-distill-llama-70b"], engine, "gpu")
    bundles = engine_bundles(arguments, "gpu")
    packed = ray.util.placement_group(bundles, "PACK")
    assert packed.wait(30)
    first, *others = nodes_of(packed)
    assert others.count(first) == 2  # three and one: so that this test can fail
    release([packed])
    groups: list[Any] = []
    place = placement(EnginePlace(bundles, num_stages=2, timeout_s=60), groups)
    place()
    nodes = nodes_of(groups[0])
    assert nodes[0] == nodes[1]
    assert nodes[2] == nodes[3]
    assert set(nodes) == set(cluster.values())
    # There is no room for another one: it waits, and nothing is left reserved for it.
    place()
    assert not groups[1].wait(1)
    states = [each["state"] for each in ray.util.placement_group_table().values()]
    assert states.count("CREATED") == len(taken) + 1
    assert states.count("PENDING") == 1
    release(groups)
    lines = r"no 3 nodes with 2 free GPUs each \(nodes: 2 of 4 GPUs, 1 of 0 GPUs\) for 1 s"
    with pytest.raises(EngineLostError, match=lines):
        placement(EnginePlace([*bundles, *bundles[:2]], num_stages=3, timeout_s=1), groups)()


@pytest.mark.parametrize(("stages", "strategy"), [(1, "STRICT_PACK"), (2, "PACK")])
def test_a_served_model_has_the_same_strategy(stages: int, strategy: str, monkeypatch: pytest.MonkeyPatch):
    # The model is at the hub, with the tokenizer whose tags of thoughts are looked for.
    monkeypatch.setattr("safe_r1.serve.deployment.load_tokenizer", lambda *_: SimpleNamespace(get_vocab=dict))
    engine = EngineConfig(tensor_parallel_size=4, pipeline_parallel_size=stages)
    spec = DeploymentSpec(VARIANTS["r1-distill-llama-70b"], engine, "gpu")
    deployment = model_deployment(spec, ScalingConfig())._bound_deployment
    replica = deployment._replica_config
    assert replica.placement_group_strategy == strategy
    assert [bundle["GPU"] for bundle in replica.placement_group_bundles or []] == [1] * 4 * stages
    assert deployment._deployment_config.max_ongoing_requests == spec.replica_slots
    assert not ray.is_initialized()  # describing one starts no Ray


@pytest.mark.very_long
def test_weights_are_fetched_to_each_node_of_an_engine(
    cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    write_weights(model / "model.safetensors", {"BF16": 1000})
    monkeypatch.setenv("SAFE_R1_CACHE", str(tmp_path / "cache"))
    with serve(model) as hub:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        variant = pin(get_variant("modelscope:owner/model"))
        environment = {**model_environment(variant), "MODELSCOPE_ENDPOINT": hub.url}
        # Two stages of a pipeline, as of an engine that one node does not hold.
        group = ray.util.placement_group([{"CPU": 1, "GPU": 4}] * 2, "STRICT_SPREAD")
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
        engine = ray.remote(num_cpus=0)(fetch_weights).options(
            scheduling_strategy=strategy, runtime_env={"env_vars": environment}
        )
        assert ray.get(engine.remote(), timeout=60) == set(cluster.values())
        # Both nodes are this machine, with one cache.
        assert set(hub.reads.values()) == {1}
    folder, revision = loadable(variant.source, variant.revision, weights=True)
    assert (Path(folder) / "model.safetensors").is_file()
    arguments = engine_arguments(variant, EngineConfig(), "gpu")
    assert revision == "main"
    assert "revision" not in arguments
    release([group])
