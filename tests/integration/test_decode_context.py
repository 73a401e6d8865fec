"""The sizes of decode context parallelism against vLLM's own rules."""

from types import SimpleNamespace

import pytest
from vllm.config import ModelConfig, ParallelConfig

from safe_r1.models.attention import Attention
from safe_r1.models.registry import VARIANTS


def vllm_takes(attention: Attention, tensor: int, decode_context: int) -> bool:
    """By vLLM's own checks."""
    try:
        parallel = ParallelConfig(
            tensor_parallel_size=tensor,
            decode_context_parallel_size=decode_context,
            distributed_executor_backend="external_launcher",
        )
    except ValueError:
        return False
    model = SimpleNamespace(
        use_mla=attention.is_latent,
        model_arch_config=SimpleNamespace(total_num_attention_heads=attention.num_heads),
        get_total_num_kv_heads=lambda: attention.num_kv_heads,
        multimodal_config=None,
    )
    try:
        ModelConfig.verify_with_parallel_config(model, parallel)  # pyright: ignore[reportArgumentType]
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "attention",
    [
        VARIANTS["r1"].attention,
        Attention(61, 64, 1, 576, is_latent=True),
        *(
            Attention(2, heads, kv_heads, 256)
            for heads, kv_heads in [(64, 8), (64, 2), (32, 1), (40, 8), (28, 4)]
        ),
    ],
)
def test_the_sizes_are_those_that_vllm_takes(attention: Attention):
    for tensor in (1, 2, 4, 8, 16):
        if not attention.allows_tensor_parallel_size(tensor):
            continue
        expected = [size for size in range(1, 17) if vllm_takes(attention, tensor, size)]
        assert attention.decode_context_parallel_sizes(tensor) == expected, tensor
