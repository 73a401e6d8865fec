import pytest

from safe_r1.errors import ConfigError
from safe_r1.models.registry import VARIANTS, Layout
from safe_r1.train.config import FinetuneConfig, ParallelConfig
from safe_r1.train.parallel import ParallelDims, check_nodes, dp_rank, resolve_dims


def test_without_settings_every_worker_holds_a_shard():
    assert resolve_dims(ParallelConfig(), None, 4) == ParallelDims(fsdp=4)
    assert resolve_dims(ParallelConfig(tp_size=2), None, 4) == ParallelDims(fsdp=2, tp=2)


def test_more_workers_than_the_layout_are_copies():
    layout = Layout("h100-80", 8)
    assert resolve_dims(ParallelConfig(), layout, 16) == ParallelDims(dp_replicate=2, fsdp=8)
    assert resolve_dims(ParallelConfig(), layout, 12) == ParallelDims(fsdp=12)


def test_the_layouts_of_the_table_are_their_own_sizes():
    for variant in VARIANTS.values():
        if variant.layout:
            dims = resolve_dims(ParallelConfig(), variant.layout, variant.layout.num_gpus)
            own = variant.layout
            assert (dims.fsdp, dims.tp, dims.ep) == (own.fsdp_size, own.tp_size, own.ep_size)


@pytest.mark.parametrize(
    ("settings", "world_size", "message"),
    [
        ({"tp_size": 2}, 3, "3 workers do not divide into tensor-parallel groups of 2"),
        ({"fsdp_size": 3}, 4, "shards of 3"),
        ({"ep_size": 3}, 4, "ep_size 3"),
        ({"tp_size": 2, "ep_size": 1, "fsdp_size": 4}, 4, "shards of 4"),
    ],
)
def test_dimensions_that_do_not_divide(settings, world_size, message):
    with pytest.raises(ConfigError, match=message):
        resolve_dims(ParallelConfig(**settings), None, world_size)


@pytest.mark.parametrize(
    ("dims", "nodes", "message"),
    [
        (ParallelDims(fsdp=4, ep=4), [[0, 1], [2, 3]], None),
        (ParallelDims(fsdp=5, ep=4), [[0, 1], [2, 3, 4]], "nodes, which have 2 and 3 workers"),
        (ParallelDims(fsdp=4, ep=4), [[0, 2], [1, 3]], "nodes of 2 workers, whose ranks are not adjacent"),
        # Tokens are not sent by node: within a node, without experts, with tensor parallelism.
        (ParallelDims(fsdp=6, ep=2), [[0, 1], [2, 3, 4, 5]], None),
        (ParallelDims(fsdp=5), [[0, 1], [2, 3, 4]], None),
        (ParallelDims(fsdp=3, tp=2, ep=6), [[0, 1], [2, 3, 4, 5]], None),
    ],
)
def test_experts_over_nodes_need_nodes_of_equally_many_workers(dims, nodes, message, monkeypatch):
    places = {rank: (len(node), node.index(rank)) for node in nodes for rank in node}
    for rank, (size, local_rank) in places.items():
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(size))
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))

        def gather(values, own, rank=rank):
            assert own == places[rank]
            values[:] = [places[each] for each in sorted(places)]

        monkeypatch.setattr("torch.distributed.all_gather_object", gather)
        # Every worker says the same.
        if message:
            with pytest.raises(ConfigError, match=message):
                check_nodes(dims)
        else:
            check_nodes(dims)


def test_a_tensor_parallel_group_shares_a_batch():
    assert [dp_rank(ParallelDims(fsdp=2, tp=2), rank) for rank in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize(("text", "found"), [("4", (4, 4)), ("2-8", (2, 8)), (None, None)])
def test_number_of_workers(text, found):
    assert FinetuneConfig(variant="demo", corpus="c", num_workers=text).worker_range == found


@pytest.mark.parametrize("text", ["0", "8-2", "two", "-1"])
def test_an_invalid_number_of_workers(text):
    with pytest.raises(ValueError, match=r"N or MIN-MAX|smaller number"):
        FinetuneConfig(variant="demo", corpus="c", num_workers=text)
