"""What an evaluation's plan makes of the engine settings."""

from dataclasses import replace

import psutil
import pytest

from safe_r1.benchmarks import evaluate_schema, get_benchmarks
from safe_r1.config import EvaluateConfig
from safe_r1.evaluation.engine_target import EngineTarget
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.models.registry import VARIANTS
from safe_r1.resources import Cluster
from safe_r1.settings import load_config


def plan_of(variant: str, *settings: str) -> EvaluationPlan:
    names = ("chisafetybench-sample",)
    config: EvaluateConfig = load_config(
        evaluate_schema(), None, list(settings), variant=variant, benchmarks=names
    )
    benchmarks = get_benchmarks(config.benchmarks, config)
    samples = {name: benchmark.load(None, None) for name, benchmark in benchmarks.items()}
    return EvaluationPlan(config, VARIANTS[variant], None, benchmarks, samples, {}, {})


@pytest.mark.parametrize(
    ("variant", "settings", "expected"),
    [
        ("r1-distill-qwen-14b", (), 256 + 700),  # what its answers take on average
        ("demo", (), 256 + 192 // 2),  # half of the longest that is allowed
        ("r1-distill-qwen-14b", ("generation.max_tokens=400",), 256 + 200),
        ("r1-distill-qwen-14b", ("engine.tokens_per_sequence=5000",), 5000),
    ],
)
def test_the_expected_length_of_a_sequence(variant: str, settings: tuple[str, ...], expected: int):
    assert plan_of(variant, *settings).engine.tokens_per_sequence == expected


def test_a_run_of_few_completions_needs_a_small_cache(monkeypatch: pytest.MonkeyPatch):
    free = psutil.virtual_memory()._replace(available=16 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    whole = plan_of("demo", "generation.max_tokens=256")
    few = replace(whole, samples={name: samples[:16] for name, samples in whole.samples.items()})
    often = replace(few, config=whole.config.model_copy(update={"repeats": 4}))
    # 64 sequences of 384 tokens of 46,080 bytes: 1.05 GiB.
    assert [plan.engine.cpu_kv_cache_gib for plan in (whole, few, often)] == [1.125, 0.375, 1.125]


def test_the_dry_run_and_the_job_have_the_same_figures():
    target = EngineTarget(plan_of("r1-distill-qwen-14b", "engine.device=gpu"))
    [line] = target.capacity()
    assert target.start(Cluster(gpu_total=8, cpu_total=8, memory_gib=64, node_gpus=8)) == "gpu"
    assert "of 956 tokens as expected; max_num_seqs 230, limited by the cache" in line
    fingerprint = target.fingerprint("chisafetybench-sample")
    # Recorded only where it is used: runs of before have no such entry and go on.
    assert "decode_context_parallel_size" not in fingerprint["engine"]
    latent = EngineTarget(plan_of("r1", "engine.device=gpu", "engine.tokens_per_sequence=10000"))
    latent.start(Cluster(gpu_total=8, cpu_total=8, memory_gib=64, node_gpus=8))
    assert latent.fingerprint("chisafetybench-sample")["engine"]["decode_context_parallel_size"] == 4
