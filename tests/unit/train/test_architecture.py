import json
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, LlamaConfig, Qwen2Config

from safe_r1.errors import ModelError
from safe_r1.models.registry import VARIANTS, get_variant
from safe_r1.train.architecture import ARCHITECTURES, from_config, get_architecture

SMALL: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
MIXTURE: dict[str, Any] = {
    **SMALL,
    "num_key_value_heads": 6,
    "moe_intermediate_size": 48,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "n_shared_experts": 2,
    "first_k_dense_replace": 2,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "n_group": 4,
    "topk_group": 2,
}


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("r1-distill-qwen-1.5b", 1.777),
        ("r1-distill-qwen-7b", 7.616),
        ("r1-distill-llama-8b", 8.030),
        ("r1-distill-qwen-14b", 14.770),
        ("r1-distill-qwen-32b", 32.764),
        ("r1-distill-llama-70b", 70.554),
        ("r1", 671.026),
        ("demo", 0.135),
    ],
)
def test_parameters_of_the_family(name, billions):
    architecture = ARCHITECTURES[name]
    assert round(architecture.total_params / 1e9, 3) == billions
    assert VARIANTS[name].params_b == pytest.approx(billions, rel=2e-3)
    assert VARIANTS[name].family == architecture.family


def test_r1_uses_37_billion_parameters_for_a_token():
    r1 = ARCHITECTURES["r1"]
    assert r1.active_params / 1e9 == pytest.approx(37.55, abs=0.01)
    assert r1.dense_params + r1.routed_params == r1.total_params


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**SMALL, tie_word_embeddings=True),
        Qwen2Config(**SMALL, tie_word_embeddings=False),
        LlamaConfig(**SMALL, tie_word_embeddings=False),
        LlamaConfig(**SMALL, head_dim=32, attention_bias=True, mlp_bias=True),
        DeepseekV3Config(**MIXTURE, q_lora_rank=40),
        DeepseekV3Config(**MIXTURE, q_lora_rank=None),
        DeepseekV3Config(**MIXTURE, q_lora_rank=40, attention_bias=True),
    ],
)
def test_parameters_are_those_of_transformers(config):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    weights = dict(model.named_parameters())  # tied weights once
    architecture = from_config(config.to_dict())
    assert architecture.total_params == sum(weight.numel() for weight in weights.values())
    assert architecture.routed_params == sum(
        weight.numel() for name, weight in weights.items() if ".experts." in name
    )


def test_r1_is_what_transformers_builds():
    config = DeepseekV3Config(max_position_embeddings=163840)  # its other defaults are R1's
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(weight.numel() for weight in model.parameters()) == ARCHITECTURES["r1"].total_params
    assert from_config(config.to_dict()) == ARCHITECTURES["r1"]


def test_floating_point_operations_by_hand():
    # Llama 8B: 6 × (8.030 B - 0.525 B of embedding) and, for 8,192 tokens, 3 × 32 layers × 32 heads × 256 ×
    # 8,192.
    llama = ARCHITECTURES["r1-distill-llama-8b"]
    assert llama.train_flops_per_token(8192) == pytest.approx(
        6 * 7.505e9 + 3 * 32 * 32 * 256 * 8192, rel=1e-4
    )
    # NVIDIA NeMo: 1,002 tokens/s of 4,096-token sequences of DeepSeek-V3 are 250 TFLOP/s.
    assert ARCHITECTURES["r1"].train_flops_per_token(4096) * 1002 / 1e12 == pytest.approx(250, rel=0.01)
    # A tied embedding multiplies: it is the output layer.
    demo = ARCHITECTURES["demo"]
    assert demo.train_flops_per_token(0) == 6 * demo.total_params


def test_variants_find_their_architecture(tmp_path):
    assert get_architecture(VARIANTS["r1-distill-qwen-7b-safe"]) == ARCHITECTURES["r1-distill-qwen-7b"]
    (tmp_path / "config.json").write_text(json.dumps(LlamaConfig(**SMALL).to_dict()))
    assert get_architecture(get_variant(str(tmp_path))).hidden_size == 96


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gemma3"}, "'gemma3'.*qwen2, llama, deepseek_v3"),
        ({}, "None"),
        ({"model_type": "llama", "num_attention_heads": 4}, "hidden_size"),
        ({"model_type": "deepseek_v3", **SMALL}, "kv_lora_rank"),
    ],
)
def test_other_configurations_are_refused(config, message):
    with pytest.raises(ModelError, match=message):
        from_config(config)


def test_a_model_that_cannot_be_reached_is_one_line(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no network\nsecond line")

    monkeypatch.setattr("safe_r1.train.architecture.pin", lambda variant: variant)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(ModelError, match=r"^owner/model .* no network$"):
        get_architecture(get_variant("owner/model"))
