"""The room for keys and values, by independent arithmetic; vLLM's own is in tests/integration."""

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from safe_r1.config import EngineConfig
from safe_r1.errors import ConfigError, ResourceError
from safe_r1.inference.engine import (
    check_resources,
    describe_capacity,
    engine_arguments,
    resolve_engine,
)
from safe_r1.inference.kv_cache import KvCapacity, kv_capacity, parallel_sizes
from safe_r1.models.attention import UNKNOWN, Attention
from safe_r1.models.registry import VARIANTS, Variant
from safe_r1.resources import Cluster

R1 = VARIANTS["r1"]
LLAMA_70B = VARIANTS["r1-distill-llama-70b"]
QWEN_14B = VARIANTS["r1-distill-qwen-14b"]
DEMO = VARIANTS["demo"]


def gpu_capacity(variant: Variant, engine: EngineConfig) -> KvCapacity:
    capacity = kv_capacity(variant, engine, "gpu")
    assert capacity is not None
    return capacity


@pytest.mark.parametrize(
    ("name", "decode_context", "expected"),
    [
        ("r1-distill-qwen-14b", None, 22),
        ("r1-distill-qwen-32b", None, 30),
        ("r1-distill-llama-70b", None, 45),
        ("r1", 1, 67),
        ("r1", 8, 540),
    ],
)
def test_sequences_of_ten_thousand_tokens(name: str, decode_context: int | None, expected: int):
    engine = EngineConfig(tokens_per_sequence=10_000, decode_context_parallel_size=decode_context)
    assert gpu_capacity(VARIANTS[name], engine).num_sequences(10_000) == pytest.approx(expected, rel=0.01)


def test_a_capacity_worked_by_hand():
    # 4 GPUs of 79.16 GiB: 0.9 of it, less a quarter of 131.4 GiB of weights and 3.3: 35.1 GiB each.
    # 80 layers, 2 of 8 heads on each GPU, 2 × 128 numbers of 2 bytes: 80 KiB a token on each.
    capacity = gpu_capacity(LLAMA_70B, EngineConfig(tokens_per_sequence=4000))
    assert capacity.room_gib == pytest.approx(4 * 35.09, abs=0.1)
    assert capacity.bytes_per_token == 4 * 80 * 1024
    assert capacity.num_sequences(16384) == 28
    assert capacity.max_num_seqs == 114
    assert capacity.limit == "limited by the cache"


attentions = st.builds(
    lambda layers, kv_heads, queries, kv_dim: Attention(layers, kv_heads * queries, kv_heads, kv_dim),
    st.integers(1, 100),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from([1, 2, 3, 4, 5, 7, 8]),
    st.sampled_from([128, 256]),
)
latents = st.builds(
    lambda layers, heads: Attention(layers, heads, 1, 576, is_latent=True),
    st.integers(1, 100),
    st.sampled_from([16, 32, 64, 128]),
)


@given(attentions | latents, st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 4), st.data())
def test_a_token_takes_what_its_copies_take(
    attention: Attention, tensor: int, pipeline: int, data: st.DataObject
):
    """Counts what each GPU of each stage holds of many tokens, one by one."""
    assume(attention.allows_tensor_parallel_size(tensor) and pipeline <= attention.num_layers)
    size = data.draw(st.sampled_from(attention.decode_context_parallel_sizes(tensor)))
    num_tokens = 8 * size
    held: dict[tuple[int, int], int] = {}
    for layer in range(attention.num_layers):
        # As even as possible: the first stages get one layer more.
        stage = layer % pipeline
        for rank in range(tensor):
            heads = {
                head
                for head in range(attention.num_kv_heads)
                if head * tensor // attention.num_kv_heads == rank
                or rank * attention.num_kv_heads // tensor == head
            }
            tokens = sum(token % size == rank % size for token in range(num_tokens))
            place = (stage, rank)
            held[place] = held.get(place, 0) + len(heads) * attention.kv_dim * tokens
    expected = max(held.values()) / num_tokens
    assert attention.kv_elements_per_gpu(tensor, pipeline, size) == pytest.approx(expected)


@given(
    params_b=st.floats(0.1, 700),
    gpu_memory_gib=st.floats(16, 200),
    utilization=st.floats(0.3, 1.0),
    tensor=st.sampled_from([1, 2, 4, 8]),
    pipeline=st.integers(1, 4),
    context=st.integers(32, 200_000),
    tokens=st.integers(1, 200_000),
    wanted=st.none() | st.integers(1, 2000),
)
def test_what_is_chosen_fits(
    params_b: float,
    gpu_memory_gib: float,
    utilization: float,
    tensor: int,
    pipeline: int,
    context: int,
    tokens: int,
    wanted: int | None,
):
    engine = EngineConfig(
        gpu_memory_gib=gpu_memory_gib,
        gpu_memory_utilization=utilization,
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        max_model_len=context,
        tokens_per_sequence=tokens,
        max_num_seqs=wanted,
    )
    variant = replace(LLAMA_70B, params_b=params_b)
    capacity = gpu_capacity(variant, engine)
    chosen = engine_arguments(variant, engine, "gpu")["max_num_seqs"]
    if wanted:
        assert chosen == wanted
        return
    assert 1 <= chosen <= 256
    length = min(context, tokens)
    on_a_gpu = math.ceil(80 / pipeline) * (8 // tensor) * 256 * 2
    room = utilization * gpu_memory_gib - params_b * 2e9 / 2**30 / (tensor * pipeline) - 3.3
    if chosen > 1:
        assert chosen * length * on_a_gpu <= room * 2**30 * (1 + 1e-9)
    if chosen < 256:
        assert (chosen + 1) * length * on_a_gpu > room * 2**30 * (1 - 1e-9)
    assert capacity.num_sequences(length) >= chosen or chosen == 1


@given(st.integers(1, 30_000))
def test_latents_are_divided_no_further_than_the_sequences_need(tokens: int):
    engine = EngineConfig(tokens_per_sequence=tokens, max_model_len=32_768)
    size = parallel_sizes(R1, engine, "gpu").decode_context
    held = {
        each: gpu_capacity(R1, engine.model_copy(update={"decode_context_parallel_size": each}))
        for each in (1, 2, 4, 8)
    }
    enough = [each for each, capacity in held.items() if capacity.num_sequences(tokens) >= 256]
    assert size == min(enough, default=8)
    assert engine_arguments(R1, engine, "gpu").get("decode_context_parallel_size", 1) == size


def test_copies_of_key_value_heads_are_left_to_the_settings():
    variant = replace(LLAMA_70B, attention=Attention(80, 64, 2, 256))
    assert parallel_sizes(variant, EngineConfig(tensor_parallel_size=8), "gpu").decode_context == 1
    one, four = (
        gpu_capacity(variant, EngineConfig(tensor_parallel_size=8, decode_context_parallel_size=size))
        for size in (1, 4)
    )
    assert one.bytes_per_token == 4 * four.bytes_per_token


@pytest.mark.parametrize(
    ("variant", "settings", "said"),
    [
        (R1, {"decode_context_parallel_size": 3}, "r1 on 8 GPU.* allows 1, 2, 4, 8"),
        (LLAMA_70B, {"decode_context_parallel_size": 2}, "on 4 GPU.* allows 1, as"),
        (LLAMA_70B, {"tensor_parallel_size": 3}, "64 attention heads and 8 key-value heads, which cannot"),
        (LLAMA_70B, {"extra": {"tensor_parallel_size": "4"}}, "expected a whole number"),
    ],
)
def test_sizes_that_vllm_refuses_are_refused_before_the_start(
    variant: Variant, settings: dict[str, object], said: str
):
    with pytest.raises(ConfigError, match=said):
        check_resources(variant, EngineConfig.model_validate(settings), "gpu", 8, 500)


def test_no_kernel_on_cpu_divides_a_context():
    engine = EngineConfig(device="cpu", decode_context_parallel_size=2, tensor_parallel_size=2)
    with pytest.raises(ConfigError, match=r"on 2 CPU\(s\) allows 1"):
        check_resources(R1, engine, "cpu", 0, 10_000)


def test_a_context_of_which_not_one_sequence_fits_is_refused_with_the_remedy():
    with pytest.raises(
        ResourceError, match=r"needs 36\.6 GiB .*there are .* set engine\.max_model_len="
    ) as error:
        check_resources(QWEN_14B, EngineConfig(max_model_len=200_000, gpu_memory_gib=48), "gpu", 8, 500)
    fitting = int(str(error.value).rsplit("=", 1)[1].split()[0])
    check_resources(QWEN_14B, EngineConfig(max_model_len=fitting, gpu_memory_gib=48), "gpu", 8, 500)
    with pytest.raises(ResourceError):
        check_resources(QWEN_14B, EngineConfig(max_model_len=fitting + 1, gpu_memory_gib=48), "gpu", 8, 500)


def test_weights_that_leave_no_room_are_refused():
    with pytest.raises(ResourceError, match="28 GiB of weights on each of 1 GPUs, which leave no room"):
        check_resources(QWEN_14B, EngineConfig(gpu_memory_gib=24), "gpu", 8, 500)


def test_a_cache_on_cpu_that_is_too_small_is_refused():
    engine = EngineConfig(cpu_kv_cache_gib=1, max_model_len=100_000)
    with pytest.raises(
        ResourceError, match=r"engine\.cpu_kv_cache_gib=4.375, or set engine\.max_model_len=23301"
    ):
        check_resources(DEMO, engine, "cpu", 0, 64)


def test_a_tensor_parallel_group_needs_a_node():
    with pytest.raises(
        ResourceError, match=r"needs 4 GPUs on one node.* the largest node of the cluster has 2"
    ):
        check_resources(LLAMA_70B, EngineConfig(), "gpu", 8, 500, node_gpus=2)
    # Two stages of two GPUs each are enough.
    engine = EngineConfig(tensor_parallel_size=2, pipeline_parallel_size=2)
    check_resources(LLAMA_70B, engine, "gpu", 8, 500, node_gpus=2)


def test_a_number_of_stages_goes_with_the_variants_gpus():
    bf16 = replace(R1, bytes_per_param=2.0, pipeline_parallel_size=2)
    assert parallel_sizes(bf16, EngineConfig(), "gpu").num_gpus == 16
    assert parallel_sizes(bf16, EngineConfig(tensor_parallel_size=16), "gpu").num_gpus == 16
    assert parallel_sizes(bf16, EngineConfig(pipeline_parallel_size=3), "gpu").num_gpus == 24


def test_a_smaller_cache_type_holds_more():
    plain = gpu_capacity(QWEN_14B, EngineConfig())
    fp8 = gpu_capacity(QWEN_14B, EngineConfig(extra={"kv_cache_dtype": "fp8_e4m3"}))
    assert fp8.bytes_per_token == plain.bytes_per_token / 2


def test_an_unknown_model_gets_the_most():
    unknown = replace(QWEN_14B, attention=UNKNOWN)
    assert kv_capacity(unknown, EngineConfig(), "gpu") is None
    assert engine_arguments(unknown, EngineConfig(), "gpu")["max_num_seqs"] == 256
    check_resources(unknown, EngineConfig(), "gpu", 8, 500)


def test_the_lines_of_a_dry_run():
    [line] = describe_capacity(LLAMA_70B, EngineConfig(tokens_per_sequence=4000))
    assert line == (
        "of 4 GPU(s), 79.2 GiB each: 140.4 GiB for keys and values, 320 KiB a token: 28 sequences of the "
        "whole context (16,384 tokens), 114 of 4,000 tokens as expected; max_num_seqs 114, limited by the "
        "cache"
    )
    assert [line[:6] for line in describe_capacity(DEMO, EngineConfig(cpu_kv_cache_gib=1))] == [
        "of 1 G",
        "on CPU",
    ]


def test_what_is_resolved_stays_the_same_for_all_processes():
    cluster = Cluster(gpu_total=0, cpu_total=8, memory_gib=21)
    engine = resolve_engine(VARIANTS["r1-distill-qwen-1.5b"], EngineConfig(), "cpu", cluster)
    # (21 - 6.6 - 2.5) / 2 GiB, which hold 25 sequences of 4,352 tokens of 56 KiB.
    assert engine.cpu_kv_cache_gib == 5.875
    assert engine_arguments(VARIANTS["r1-distill-qwen-1.5b"], engine, "cpu")["max_num_seqs"] == 25
