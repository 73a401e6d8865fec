"""What a model's attention keeps of each token, and how GPUs may share it.

Source: vLLM 0.32: ``ModelConfig.get_num_kv_heads``, ``ModelConfig.verify_with_parallel_config`` and
    ``ParallelConfig`` for the sizes that it takes; transformers' configuration classes for the names of the
    settings.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

_MAX_NUMBER = 10**7


@dataclass(frozen=True)
class Attention:
    """Dimensions of a model's attention that its key-value cache depends on; 0 where unknown.

    Attributes:
        num_layers: Layers that keep every token. Those with a sliding window or a state keep a bounded amount
            for each sequence and are left out.
        num_heads: Attention heads of a layer.
        num_kv_heads: Key-value heads of a layer; 1 for latent attention, whose heads share one latent.
        kv_dim: Numbers that a layer keeps of a token for each key-value head.
        is_latent: DeepSeek's multi-head latent attention (MLA).
    """

    num_layers: int = 0
    num_heads: int = 0
    num_kv_heads: int = 0
    kv_dim: int = 0
    is_latent: bool = False

    @property
    def kv_elements_per_token(self) -> int:
        """Numbers that a token adds to the key-value cache, over all layers, of one copy."""
        return self.num_layers * self.num_kv_heads * self.kv_dim

    def kv_elements_per_gpu(
        self,
        tensor_parallel_size: int,
        pipeline_parallel_size: int = 1,
        decode_context_parallel_size: int = 1,
    ) -> float:
        """Numbers that a token adds to the cache of the GPU with the most layers, on average over tokens.

        Tensor parallelism divides the key-value heads down to one a GPU; further GPUs hold copies. Decode
        context parallelism divides the tokens among the GPUs that hold copies.
        """
        layers = math.ceil(self.num_layers / pipeline_parallel_size)
        heads = max(1, self.num_kv_heads // tensor_parallel_size)
        return layers * heads * self.kv_dim / decode_context_parallel_size

    def allows_tensor_parallel_size(self, size: int) -> bool:
        """Whether each GPU gets the same number of heads, and of key-value heads, or copies of one."""
        if self.num_heads % size:
            return False
        heads = self.num_kv_heads
        return self.is_latent or not heads or heads % size == 0 or size % heads == 0

    def decode_context_parallel_sizes(self, tensor_parallel_size: int) -> list[int]:
        """The sizes that vLLM takes, ascending: divisors of the tensor-parallel size, up to its copies."""
        size = tensor_parallel_size
        divisors = [each for each in range(1, size + 1) if size % each == 0]
        if self.is_latent:
            return divisors
        copies = size // max(1, self.num_kv_heads)
        heads_per_kv_head = self.num_heads // max(1, self.num_kv_heads)
        return [each for each in divisors if each == 1 or (each <= copies and heads_per_kv_head % each == 0)]


def read_attention(config: Mapping[str, object]) -> Attention:
    """The attention of a language model by its ``config.json``."""
    text = text_config(config)
    num_heads = _number(text, "num_attention_heads", "n_head", "num_heads")
    if latent := _number(text, "kv_lora_rank"):
        kv_dim = latent + _number(text, "qk_rope_head_dim")
        return Attention(_num_layers(text), num_heads, 1, kv_dim, is_latent=True)
    width = _number(text, "hidden_size", "n_embd", "d_model")
    head_dim = _number(text, "head_dim") or width // max(num_heads, 1)
    return Attention(_num_layers(text), num_heads, _num_kv_heads(text, num_heads), 2 * head_dim)


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The settings of the language model: multimodal models have them in a group of their own."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def _num_layers(text: Mapping[str, object]) -> int:
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and kinds:
        return sum(kind == "full_attention" for kind in kinds)
    return _number(text, "num_hidden_layers", "n_layer", "num_layers")


def _num_kv_heads(text: Mapping[str, object], num_heads: int) -> int:
    if text.get("multi_query"):
        return 1
    # A configuration without a number of key-value heads has as many as attention heads.
    return _number(text, "num_key_value_heads", "num_kv_heads") or num_heads


def _number(config: Mapping[str, object], *names: str) -> int:
    """The first of some settings that is a number of a size that models have; 0 where none is."""
    found = (config.get(name) for name in names)
    return next((value for value in found if type(value) is int and 0 < value <= _MAX_NUMBER), 0)


UNKNOWN = Attention()
"""Of a model whose configuration has not been read."""
