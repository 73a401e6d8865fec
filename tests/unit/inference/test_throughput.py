"""The simulation of batch inference against published figures (tests/baselines/inference.toml)."""

import math
import statistics
import tomllib
from pathlib import Path
from typing import Any

import pytest

from safe_r1.config import EngineConfig
from safe_r1.errors import ConfigError
from safe_r1.inference.kv_cache import kv_capacity
from safe_r1.inference.simulate import lognormal_lengths, simulate_batch
from safe_r1.inference.simulated_engine import BatchRow, EngineRoom
from safe_r1.inference.throughput import engine_speed
from safe_r1.models.attention import Attention
from safe_r1.models.gpus import GPUS, get_gpu
from safe_r1.models.registry import VARIANTS
from safe_r1.models.variant import Variant

BASELINES = tomllib.loads((Path(__file__).parents[2] / "baselines" / "inference.toml").read_text("utf-8"))
RUNS: list[dict[str, Any]] = BASELINES["run"]
# Of a single figure: engines, versions and servers in front of them differ by as much.
LARGEST_FACTOR = 1.8
# Of the factors of all figures that were not fitted to.
TYPICAL_FACTOR = 1.25


def model(name: str) -> tuple[Variant, dict[str, object]]:
    """A model of the table, and the further arguments of its engine."""
    entry = BASELINES["models"][name]
    attention = Attention(*entry["attention"], is_latent=entry["family"] == "deepseek_v3")
    variant = Variant(
        name=name,
        source=f"published/{name}",
        family=entry["family"],
        kind="custom",
        params_b=entry["params_b"],
        prompt=None,
        bytes_per_param=1.0 if entry.get("fp8") else 2.0,
        attention=attention,
    )
    return variant, {"kv_cache_dtype": "fp8"} if entry.get("kv_fp8") else {}


def simulated(run: dict[str, Any]) -> float:
    """Output tokens a second by the simulation."""
    variant, extra = model(run["model"])
    gpu = get_gpu(run["gpu"])
    engine = EngineConfig(
        tensor_parallel_size=run["gpus"],
        decode_context_parallel_size=1,
        max_num_seqs=run.get("concurrency", run["requests"]),
        gpu_memory_gib=gpu.memory_gib,
        extra=extra,
    )
    capacity = kv_capacity(variant, engine, "gpu")
    assert capacity is not None
    number, mean = run["requests"], run["completion"]
    lengths = lognormal_lengths(number, mean, run["longest"]) if "longest" in run else [mean] * number
    rows = [BatchRow(run["prompt"], length) for length in lengths]
    speed = engine_speed(variant, engine, gpu)
    return simulate_batch(rows, speed, EngineRoom(capacity.max_num_seqs, capacity.num_tokens)).tokens_per_s


def test_every_figure_has_a_source():
    assert {run["source"] for run in RUNS} == set(BASELINES["sources"])
    assert sum(not run.get("fitted") for run in RUNS) >= 2 * sum(run.get("fitted", False) for run in RUNS)


@pytest.mark.slow
def test_published_figures():
    factors = [(simulated(run) / run["tokens_per_s"], run) for run in RUNS]
    for factor, run in factors:
        assert 1 / LARGEST_FACTOR < factor < LARGEST_FACTOR, f"{factor:.2f} of {run}"
    logs = [math.log(factor) for factor, run in factors if not run.get("fitted")]
    assert math.exp(statistics.median(map(abs, logs))) < TYPICAL_FACTOR
    # Neither too fast nor too slow on the whole.
    assert abs(statistics.mean(logs)) < math.log(1.15)


def test_every_gpu_of_the_planner_has_a_speed():
    for name in set(GPUS) - {"cpu"}:
        assert engine_speed(VARIANTS["demo"], EngineConfig(), get_gpu(name)).token_s > 0
    with pytest.raises(ConfigError, match="no speed of inference is known for GPU 'cpu': known are a100-40"):
        engine_speed(VARIANTS["demo"], EngineConfig(), get_gpu("cpu"))


def test_times_worked_by_hand():
    # 8.03 B parameters of 2 bytes at 0.8 of 3,350 GB/s; 32 layers × 8 heads × 256 numbers of 2 bytes a token;
    # two operations for each parameter at 0.4 of 989 TFLOP/s.
    speed = engine_speed(VARIANTS["r1-distill-llama-8b"], EngineConfig(), get_gpu("h100-80"))
    assert speed.weights_s == pytest.approx(16.06e9 / 2680e9)
    assert speed.context_s == pytest.approx(131072 / 2680e9)
    assert speed.token_s == pytest.approx(16.06e9 / 395.6e12)
    assert speed.experts_s == 0
    # One token of R1 uses 37 of 671 B parameters: 8 of 256 experts; two use up to twice as many.
    r1 = engine_speed(VARIANTS["r1"], EngineConfig(), get_gpu("h200-141"))
    one, two, many = (r1.decode(1, number, 0) - number * r1.sequence_s - r1.step_s for number in (1, 2, 256))
    bandwidth = 8 * 4800e9
    assert one == pytest.approx(17e9 / (0.8 * bandwidth) + 654e9 / 32 / (0.5 * bandwidth))
    assert two < 2 * one
    assert many == pytest.approx(17e9 / (0.8 * bandwidth) + 654e9 / (0.5 * bandwidth), rel=1e-3)
    # More GPUs of an engine are faster, but not as many times as there are.
    slow, fast = (
        engine_speed(
            VARIANTS["r1-distill-llama-70b"], EngineConfig(tensor_parallel_size=size), get_gpu("h100-80")
        )
        for size in (4, 8)
    )
    assert slow.decode(1, 64, 64_000) / 2 < fast.decode(1, 64, 64_000) < slow.decode(1, 64, 64_000)
