"""Memory of an engine on CPU, and that its check and its environment agree on it."""

from dataclasses import replace

import psutil
import pytest

from safe_r1.config import EngineConfig
from safe_r1.errors import ResourceError
from safe_r1.inference.engine import check_resources, engine_arguments
from safe_r1.inference.memory import cpu_kv_cache_gib, cpu_memory_gib
from safe_r1.models.attention import UNKNOWN
from safe_r1.models.registry import VARIANTS

DEMO = VARIANTS["demo"]
R1_SMALL = VARIANTS["r1-distill-qwen-1.5b"]


def test_the_demos_cache_is_one_gib():
    # 64 sequences of 256 + 192 / 2 tokens, 11,520 numbers of 4 bytes each: 0.97 GiB.
    assert cpu_kv_cache_gib(DEMO, EngineConfig(), memory_gib=16) == 1
    assert engine_arguments(DEMO, EngineConfig(), "cpu")["kv_cache_memory_bytes"] == 2**30


def test_the_cache_grows_with_sequences_and_type():
    assert cpu_kv_cache_gib(DEMO, EngineConfig(max_num_seqs=256), memory_gib=64) == 3.875
    assert cpu_kv_cache_gib(DEMO, EngineConfig(max_num_seqs=256, dtype="bfloat16"), memory_gib=64) == 2
    # 64 sequences of 256 + 8,192 / 2 tokens, 14,336 numbers of 4 bytes each: 14.9 GiB.
    assert cpu_kv_cache_gib(R1_SMALL, EngineConfig(), memory_gib=64) == 14.875


def test_a_short_context_bounds_a_sequence():
    assert cpu_kv_cache_gib(R1_SMALL, EngineConfig(max_model_len=1024), memory_gib=64) == 3.5


def test_a_reasoning_benchmark_has_longer_completions():
    # 8 sequences of min(36,864, 256 + 32,768 / 2) tokens of 57,344 bytes: 7.1 GiB.
    engine = EngineConfig(max_model_len=36864, max_num_seqs=8)
    assert cpu_kv_cache_gib(R1_SMALL, engine, memory_gib=64) == 7.125


def test_longer_completions_need_more():
    # 64 sequences of 768 tokens of 46,080 bytes: 2.1 GiB, and a cache of 2 would not hold them all.
    assert cpu_kv_cache_gib(DEMO, EngineConfig(tokens_per_sequence=768), memory_gib=16) == 2.125


def test_few_rows_need_a_small_cache():
    # 64 sequences of 384 tokens: 1.05 GiB; 32: 0.53.
    engine = EngineConfig(tokens_per_sequence=384)
    assert cpu_kv_cache_gib(DEMO, engine, memory_gib=16) == 1.125
    assert cpu_kv_cache_gib(DEMO, engine, memory_gib=16, num_rows=32) == 0.625
    assert cpu_kv_cache_gib(DEMO, engine, memory_gib=16, num_rows=1_000_000) == 1.125
    # One sequence of the whole context fits, however few there are.
    long = EngineConfig(max_model_len=36864)
    assert cpu_kv_cache_gib(R1_SMALL, long, memory_gib=64, num_rows=1) == 2


def test_the_cache_takes_half_of_what_is_free_beside_the_weights():
    # (21 - 6.6 - 2.5) / 2 GiB.
    assert cpu_kv_cache_gib(R1_SMALL, EngineConfig(), memory_gib=21) == 5.875


def test_the_cache_holds_one_sequence_however_little_is_free():
    engine = EngineConfig(max_model_len=36864)
    # 36,864 tokens of 57,344 bytes: 1.97 GiB.
    assert cpu_kv_cache_gib(R1_SMALL, engine, memory_gib=4) == 2
    with pytest.raises(ResourceError, match=r"needs 11\.1 GiB of memory on CPU; 4\.0 GiB are free"):
        check_resources(R1_SMALL, engine, "cpu", 0, 4)


def test_what_the_settings_say_counts():
    engine = EngineConfig(cpu_kv_cache_gib=3)
    assert cpu_kv_cache_gib(DEMO, engine, memory_gib=1) == 3
    assert engine_arguments(DEMO, engine, "cpu")["kv_cache_memory_bytes"] == 3 * 2**30


def test_a_model_of_unknown_sizes_gets_four_gib():
    assert cpu_kv_cache_gib(replace(DEMO, attention=UNKNOWN), EngineConfig(), memory_gib=64) == 4


def test_the_check_and_the_engine_have_the_same_figure(monkeypatch: pytest.MonkeyPatch):
    free = psutil.virtual_memory()._replace(available=20 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    size = engine_arguments(R1_SMALL, EngineConfig(), "cpu")["kv_cache_memory_bytes"] / 2**30
    assert cpu_memory_gib(R1_SMALL, EngineConfig(), 20) == pytest.approx(R1_SMALL.weights_gib(4) + size + 2.5)
    check_resources(R1_SMALL, EngineConfig(), "cpu", 0, 20)
