import asyncio
import importlib
import os
import sys
from types import SimpleNamespace

import pytest

from safe_r1.config import EngineConfig
from safe_r1.errors import ResourceError
from safe_r1.inference.batch import read_result
from safe_r1.inference.device import pick_device
from safe_r1.inference.engine import (
    check_resources,
    engine_arguments,
    engine_bundles,
    placement_strategy,
)
from safe_r1.inference.processor import _left_out
from safe_r1.inference.rendering import Renderer
from safe_r1.inference.requests import Request, Sampling, row_seed
from safe_r1.models.registry import VARIANTS


def test_a_seed_belongs_to_run_sample_and_repeat():
    seeds = {row_seed(seed, sample, repeat) for seed in (0, 1) for sample in ("a", "b") for repeat in (0, 1)}
    assert len(seeds) == 8
    assert row_seed(0, "a", 0) == row_seed(0, "a", 0)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_failed_row_keeps_its_reason():
    row = read_result(
        {
            "key": "k",
            "prompt_tokens": 5,
            "max_tokens": 8,
            "prefix": "<think>\n",
            "__inference_error__": "boom",
        }
    )
    assert (row["error"], row["text"], row["finish_reason"], row["completion_tokens"]) == (
        "boom",
        "",
        None,
        0,
    )


@pytest.mark.parametrize(("generated", "reason"), [(8, "length"), (7, "stop")])
def test_the_token_limit_is_told_from_a_stop(generated, reason):
    row = {
        "key": "k",
        "prompt_tokens": 5,
        "max_tokens": 8,
        "prefix": "<think>\n",
        "num_generated_tokens": generated,
    }
    result = read_result({**row, "generated_text": "嗯</think>好", "__inference_error__": ""})
    assert (result["finish_reason"], result["text"]) == (reason, "<think>\n嗯</think>好")


def test_a_completion_ends_where_the_context_does(monkeypatch):
    monkeypatch.setattr("safe_r1.inference.rendering.load_tokenizer", lambda *_: None)
    monkeypatch.setattr("safe_r1.inference.rendering.render", lambda *_, **__: ([1] * 90, ""))
    request = Request("k", [], 50, 3)
    rendered = Renderer(VARIANTS["demo"], Sampling(0.6, 0.95), 100, False)(request)
    assert rendered["sampling_params"] == {"max_tokens": 10, "temperature": 0.6, "top_p": 0.95, "seed": 3}
    greedy = Renderer(VARIANTS["qwen2.5-14b"], Sampling(0.0, 1.0), 100, False)(request)
    assert "seed" not in greedy["sampling_params"]
    assert greedy["sampling_params"]["stop"]


def test_seeded_sampling_on_cpu_never_chunks_a_prompt():
    arguments = engine_arguments(VARIANTS["demo"], EngineConfig(max_model_len=8192), "cpu")
    assert arguments["enable_chunked_prefill"] is False
    assert arguments["max_num_batched_tokens"] >= 8192


@pytest.mark.parametrize(("memory_nodes", "sizes"), [(1, {}), (2, {}), (1, {"tensor_parallel_size": 3})])
def test_on_cpu_a_model_runs_in_the_engines_process_where_nothing_is_bound(
    memory_nodes: int, sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("safe_r1.inference.engine._num_memory_nodes", lambda: memory_nodes)
    arguments = engine_arguments(VARIANTS["demo"], EngineConfig.model_validate(sizes), "cpu")
    is_expected = memory_nodes == 1 and not sizes
    assert ("distributed_executor_backend" in arguments) == is_expected
    chosen = EngineConfig(extra={"distributed_executor_backend": "mp"})
    assert engine_arguments(VARIANTS["demo"], chosen, "cpu")["distributed_executor_backend"] == "mp"
    assert "distributed_executor_backend" not in engine_arguments(VARIANTS["demo"], EngineConfig(), "gpu")


def test_remote_code_stays_off_unless_asked_for():
    variant = VARIANTS["r1-distill-qwen-7b"]
    assert engine_arguments(variant, EngineConfig(), "gpu")["trust_remote_code"] is False
    assert engine_arguments(variant, EngineConfig(trust_remote_code=True), "gpu")["trust_remote_code"] is True


def test_a_large_model_without_gpus_is_refused_with_its_needs():
    with pytest.raises(ResourceError, match=r"4 GPU\(s\) of 80 GB .*131 GiB"):
        pick_device(VARIANTS["r1-distill-llama-70b"], "auto", 0)
    with pytest.raises(ResourceError, match=r"needs 4 GPU\(s\).*has 2"):
        check_resources(VARIANTS["r1-distill-llama-70b"], EngineConfig(), "gpu", 2, 500)
    with pytest.raises(ResourceError, match="GiB of memory on CPU"):
        check_resources(VARIANTS["r1-distill-qwen-7b"], EngineConfig(device="cpu"), "cpu", 0, 16)


def test_gpu_nodes_may_start_on_demand():
    variant = VARIANTS["r1-distill-llama-70b"]
    assert pick_device(variant, "gpu", 0) == "gpu"
    check_resources(variant, EngineConfig(device="gpu"), "gpu", 0, 16)


def test_a_small_model_runs_on_cpu():
    assert pick_device(VARIANTS["demo"], "auto", 0) == "cpu"
    assert pick_device(VARIANTS["demo"], "auto", 8) == "gpu"


def test_module_is_left_out_only_where_it_was_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with _left_out("colorsys"), pytest.raises(ImportError):
        importlib.import_module("colorsys")
    module = importlib.import_module("colorsys")
    with _left_out("colorsys"):
        assert importlib.import_module("colorsys") is module
    assert sys.modules["colorsys"] is module


@pytest.mark.slow
@pytest.mark.parametrize("value", ["7", ""])
def test_a_variable_of_vllms_does_not_go_before_the_setting_of_the_cache(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    stage = importlib.import_module("safe_r1.inference.engine_stage")
    seen: list[str | None] = []
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", value)

    def start(self: SimpleNamespace) -> None:
        seen.append(os.environ.get("VLLM_CPU_KVCACHE_SPACE"))
        self.llm = SimpleNamespace(_prepare_llm_request=None, shutdown=lambda: None)

    monkeypatch.setattr(stage.vLLMEngineStageUDF, "__init__", start)
    stage.FinalOutputStage()
    assert seen == [None]
    assert ("VLLM_CPU_KVCACHE_SPACE=7 in the environment is ignored" in caplog.text) == bool(value)


@pytest.mark.slow
def test_the_engine_makes_one_output_a_request() -> None:
    """Ray's stage makes one a token; this fails where its own name for the step changes."""
    stage = importlib.import_module("safe_r1.inference.engine_stage")
    kinds = importlib.import_module("vllm.sampling_params").RequestOutputKind

    class Engine:
        async def _prepare_llm_request(self, row: dict[str, object]) -> SimpleNamespace:
            return SimpleNamespace(params=SimpleNamespace(output_kind=kinds.CUMULATIVE), row=row)

    engine = Engine()
    stage.ask_for_final_output(engine)
    request = asyncio.run(engine._prepare_llm_request({"prompt": "?"}))
    assert request.params.output_kind is kinds.FINAL_ONLY
    assert request.row == {"prompt": "?"}
    wrapper = importlib.import_module("ray.llm._internal.batch.stages.vllm_engine_stage").vLLMEngineWrapper
    assert asyncio.iscoroutinefunction(wrapper._prepare_llm_request)


@pytest.mark.parametrize(("num_stages", "strategy"), [(1, "STRICT_PACK"), (2, "PACK")])
def test_a_tensor_parallel_group_stands_on_one_node(num_stages: int, strategy: str) -> None:
    """Batch jobs and served models alike; `tests/integration/test_placement.py` holds both to it."""
    engine = EngineConfig(tensor_parallel_size=4, pipeline_parallel_size=num_stages, max_model_len=4096)
    arguments = engine_arguments(VARIANTS["r1-distill-llama-70b"], engine, "gpu")
    assert placement_strategy(arguments) == strategy
    assert engine_bundles(arguments, "gpu") == [{"CPU": 1, "GPU": 1}] * 4 * num_stages
