"""Sizes and GPUs, from a config and the bytes of the weights."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from safe_r1.models.attention import read_attention
from safe_r1.models.files import folder_weight_bytes, weight_bytes
from safe_r1.models.registry import DEFAULT_JUDGE, VARIANTS, Variant
from safe_r1.models.size import EngineGpus, engine_gpus, model_size, stored_bytes_per_param
from safe_r1.train.architecture import ARCHITECTURES, Architecture

# Of the config.json on the hub.
JUDGE = {
    "model_type": "qwen2",
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
}


def config_of(architecture: Architecture) -> dict[str, object]:
    """The settings of a config.json that sizes depend on."""
    config: dict[str, object] = {
        "hidden_size": architecture.hidden_size,
        "num_hidden_layers": architecture.num_layers,
        "num_attention_heads": architecture.num_heads,
        "num_key_value_heads": architecture.num_kv_heads,
        "head_dim": architecture.head_dim,
        "torch_dtype": "bfloat16",
    }
    if latent := architecture.latent:
        config |= {"kv_lora_rank": latent.kv_lora_rank, "qk_rope_head_dim": latent.qk_rope_head_dim}
        config |= {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    return config


def architecture_of(variant: Variant) -> Architecture:
    """A base has the architecture of the model distilled into it."""
    names = [
        variant.name,
        variant.base,
        *(each.name for each in VARIANTS.values() if each.base == variant.name),
    ]
    return next(ARCHITECTURES[name] for name in names if name in ARCHITECTURES)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_tables_sizes_follow_from_config_and_weights(name: str):
    variant = VARIANTS[name]
    architecture = architecture_of(variant)
    config = config_of(architecture)
    size = model_size(config, round(variant.params_b * 1e9 * stored_bytes_per_param(config)))
    gpus = EngineGpus(variant.tensor_parallel_size, variant.pipeline_parallel_size, variant.gpu_gb)
    assert size.gpus == gpus
    assert (size.bytes_per_param, size.attention) == (variant.bytes_per_param, variant.attention)
    assert size.params_b == pytest.approx(architecture.total_params / 1e9, rel=0.03)


def test_the_default_judges_size_follows_too():
    size = model_size(JUDGE, round(DEFAULT_JUDGE.params_b * 2e9))
    assert size.gpus == EngineGpus(4, 1, 80)
    assert replace(DEFAULT_JUDGE, **asdict(size.gpus), attention=size.attention) == DEFAULT_JUDGE


@pytest.mark.parametrize(
    ("heads", "kv_heads", "weights_gib", "expected"),
    [
        (28, 4, 10, (1, 1, 80)),
        (28, 4, 150, (4, 1, 80)),  # 3 GPUs would hold it: not a power of two
        (28, 4, 300, (4, 1, 141)),  # 28 heads cannot be split into 8
        (64, 8, 300, (8, 1, 80)),
        (64, 1, 300, (8, 1, 80)),  # one key-value head is copied
        (64, 6, 300, (2, 2, 141)),  # 6 can neither be split into 4 nor copied to 4: two stages
        (128, 8, 1200, (8, 2, 141)),  # of one node no number suffices
    ],
)
def test_the_fewest_gpus_that_the_heads_allow(heads, kv_heads, weights_gib, expected):
    config = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "hidden_size": 64 * heads}
    assert engine_gpus(read_attention(config), weights_gib) == EngineGpus(*expected)


def test_a_cache_without_space_asks_for_another_gpu():
    small = {**JUDGE, "num_hidden_layers": 8}
    large = {**JUDGE, "num_key_value_heads": 64}
    assert engine_gpus(read_attention(small), 60) == EngineGpus(1, 1, 80)
    assert engine_gpus(read_attention(large), 60) != EngineGpus(1, 1, 80)


@pytest.mark.parametrize(
    ("config", "num_bytes"),
    [
        ({}, 2.0),
        ({"torch_dtype": "float32"}, 4.0),
        ({"dtype": "float16"}, 2.0),
        ({"text_config": {"dtype": "float32"}}, 4.0),
        ({"dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}}, 1.0),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, 1.0),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, 0.5),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, 0.5),
        ({"quantization_config": {"quant_method": "mxfp4"}}, 0.5),
        (
            {"quantization_config": {"config_groups": {"group_0": {"weights": {"num_bits": 8}}}}},
            1.0,
        ),
        ({"dtype": "bfloat16", "quantization_config": {"quant_method": "unheard-of"}}, 2.0),
    ],
)
def test_bytes_of_a_stored_parameter(config: dict[str, object], num_bytes: float):
    assert stored_bytes_per_param(config) == num_bytes


def test_engines_load_float32_in_16_bits():
    size = model_size({**JUDGE, "torch_dtype": "float32"}, 4_000_000_000)
    assert (size.params_b, size.bytes_per_param) == (1.0, 2.0)


def test_the_cache_of_a_token():
    def elements(config: dict[str, object]) -> int:
        return read_attention(config).kv_elements_per_token

    assert elements(JUDGE) == 80 * 2 * 8 * 128
    assert elements({"n_layer": 12, "n_head": 12, "n_embd": 768}) == 12 * 2 * 768
    assert elements({"n_layer": 2, "n_head": 4, "n_embd": 64, "multi_query": True}) == 2 * 2 * 16
    assert elements({"text_config": JUDGE}) == elements(JUDGE)
    assert elements({}) == 0


def test_layers_with_a_window_or_a_state_do_not_grow_with_the_sequence():
    kinds = ["sliding_attention", "full_attention", "linear_attention", "full_attention"]
    mixed = read_attention({**JUDGE, "num_hidden_layers": 4, "layer_types": kinds})
    assert mixed.num_layers == 2


@pytest.mark.parametrize(
    ("index", "sizes", "expected"),
    [
        ({"metadata": {"total_size": 7}}, {"model.safetensors": 100}, 7),
        ({"metadata": {}}, {"model-00001-of-00002.safetensors": 3, "model-00002-of-00002.safetensors": 4}, 7),
        ({}, {"model.safetensors": 7, "pytorch_model.bin": 8}, 7),
        ({}, {"model.safetensors": 7, "consolidated.safetensors": 8}, 7),
        ({}, {"consolidated.safetensors": 8}, 8),
        ({}, {"pytorch_model-00001-of-00002.bin": 3, "pytorch_model-00002-of-00002.bin": 4, "x.pt": 1}, 7),
        ({}, {"training_args.bin": 1, "pytorch_model.bin": 7}, 7),
        ({}, {"weights.gguf": 7, "config.json": 1}, 7),
        ({}, {"config.json": 1}, 0),
    ],
)
def test_bytes_of_the_weights(index: dict[str, object], sizes: dict[str, int], expected: int):
    assert weight_bytes(index, sizes) == expected


def test_a_folders_weights_are_counted(tmp_path: Path):
    for name, num in {"model-1.safetensors": 30, "model-2.safetensors": 12, "tokenizer.json": 99}.items():
        (tmp_path / name).write_bytes(b"x" * num)
    assert folder_weight_bytes(tmp_path) == 42
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 40}}')
    assert folder_weight_bytes(tmp_path) == 40
