"""How large a model is, and how many GPUs an engine of it takes: from its config.json and its weights' bytes.

Source: transformers' configuration classes for the names of the settings; vLLM's ``ModelConfig`` for which
tensor-parallel sizes a model allows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

# Bytes of one number by the name of its type in config.json.
_DTYPE_BYTES = {"float64": 8.0, "float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8_e4m3fn": 1.0}
_BITS_BY_METHOD = {"fp8": 8, "fbgemm_fp8": 8, "awq": 4, "gptq": 4, "mxfp4": 4, "bitsandbytes": 8}

# GPUs that models are planned for, by memory in GB, and how many of them one node holds.
_GPU_SIZES_GB = (80, 141)
_GPUS_PER_NODE = 8
_MAX_TENSOR_PARALLEL_SIZE = 64
# vLLM's default gpu_memory_utilization.
_USABLE_SHARE = 0.9
# Beside the weights, an engine has to hold the keys and values of four sequences of 16,384 tokens: with less,
# reasoning models are decoded a sequence at a time.
_KV_TOKENS = 4 * 16384


@dataclass(frozen=True)
class ModelSize:
    """Size of a model and of the GPUs that hold it.

    Attributes:
        params_b: Parameters in billions; 0 where unknown.
        bytes_per_param: Of the weights as an engine on GPU loads them.
        kv_elements_per_token: Numbers that one token adds to the key-value cache, over all layers.
        tensor_parallel_size: GPUs of one engine.
        gpu_gb: Memory that each of them needs, in GB.
    """

    params_b: float
    bytes_per_param: float
    kv_elements_per_token: int
    tensor_parallel_size: int
    gpu_gb: int


def model_size(config: Mapping[str, object], weight_bytes: int) -> ModelSize:
    """The size of a model.

    Args:
        config: Its ``config.json``.
        weight_bytes: Bytes of its weights on disk; 0 where unknown, which gives one GPU.
    """
    stored = stored_bytes_per_param(config)
    loaded = loaded_bytes_per_param(config)
    params_b = weight_bytes / stored / 1e9
    weights_gib = params_b * 1e9 * loaded / 2**30
    tensor_parallel_size, gpu_gb = engine_gpus(config, weights_gib)
    return ModelSize(params_b, loaded, kv_elements_per_token(config), tensor_parallel_size, gpu_gb)


def stored_bytes_per_param(config: Mapping[str, object]) -> float:
    """Bytes of a parameter on disk, by the model's quantization or type; 2 where the config says neither."""
    quantization = config.get("quantization_config")
    if isinstance(quantization, Mapping) and (bits := _quantized_bits(quantization)):
        return bits / 8
    text = text_config(config)
    dtypes = (source.get(name) for source in (config, text) for name in ("dtype", "torch_dtype"))
    return next((_DTYPE_BYTES[str(dtype)] for dtype in dtypes if str(dtype) in _DTYPE_BYTES), 2.0)


def loaded_bytes_per_param(config: Mapping[str, object]) -> float:
    """Bytes of a parameter in an engine on GPU, which computes in 16 bits at most."""
    return min(stored_bytes_per_param(config), 2.0)


def _quantized_bits(quantization: Mapping[str, object]) -> int | None:
    """Bits of a quantized weight, in the words of the methods that vLLM loads; None where it is unknown."""
    if isinstance(bits := quantization.get("bits", quantization.get("w_bit")), int):
        return bits
    if quantization.get("load_in_4bit"):
        return 4
    groups = quantization.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping) and isinstance(bits := weights.get("num_bits"), int):
            return bits
    return _BITS_BY_METHOD.get(str(quantization.get("quant_method")))


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The settings of the language model: multimodal models have them in a group of their own."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def kv_elements_per_token(config: Mapping[str, object]) -> int:
    """Numbers that one token adds to the key-value cache, over all layers; 0 where the config does not say.

    DeepSeek's latent attention keeps one latent and one rotated key for all heads.
    """
    text = text_config(config)
    layers = _number(text, "num_hidden_layers", "n_layer", "num_layers")
    if latent := _number(text, "kv_lora_rank"):
        return layers * (latent + _number(text, "qk_rope_head_dim"))
    heads = _heads(text)
    head_dim = _number(text, "head_dim") or _number(text, "hidden_size", "n_embd", "d_model") // max(heads, 1)
    return layers * 2 * _kv_heads(text) * head_dim


def _heads(text: Mapping[str, object]) -> int:
    return _number(text, "num_attention_heads", "n_head", "num_heads")


def _kv_heads(text: Mapping[str, object]) -> int:
    if text.get("multi_query"):
        return 1
    # A configuration without a number of key-value heads has as many as attention heads.
    return _number(text, "num_key_value_heads", "num_kv_heads") or _heads(text)


def engine_gpus(config: Mapping[str, object], weights_gib: float) -> tuple[int, int]:
    """Tensor-parallel size of an engine, and the memory of each of its GPUs in GB.

    The smallest power of two that the model allows and that holds the weights with room for the key-value
    cache, on one node of 80 GB GPUs, else of 141 GB GPUs, else on several nodes.
    """
    for gpu_gb in _GPU_SIZES_GB:
        size = tensor_parallel_size(config, weights_gib, gpu_gb, _GPUS_PER_NODE)
        if size is not None:
            return size, gpu_gb
    largest = _GPU_SIZES_GB[-1]
    size = tensor_parallel_size(config, weights_gib, largest, _MAX_TENSOR_PARALLEL_SIZE)
    return size or max(_allowed_sizes(config, _MAX_TENSOR_PARALLEL_SIZE)), largest


def tensor_parallel_size(
    config: Mapping[str, object], weights_gib: float, gpu_gb: int, largest: int
) -> int | None:
    """The smallest power of two up to ``largest`` that a model can be split into and that holds it.

    Args:
        config: The model's ``config.json``.
        weights_gib: Its weights as loaded.
        gpu_gb: Memory of a GPU in GB (10^9 bytes).
        largest: Most GPUs to use.

    Returns:
        None where no such number of GPUs holds the weights and the key-value cache of ``_KV_TOKENS``.
    """
    usable_gib = _USABLE_SHARE * gpu_gb * 1e9 / 2**30
    text = text_config(config)
    kv_gib = kv_elements_per_token(config) * 2 * _KV_TOKENS / 2**30
    # Every GPU keeps the whole latent, and at least one head of the others.
    kv_shards = 1 if _number(text, "kv_lora_rank") else max(_kv_heads(text), 1)
    return next(
        (
            size
            for size in _allowed_sizes(config, largest)
            if weights_gib / size + kv_gib / min(size, kv_shards) <= usable_gib
        ),
        None,
    )


def _allowed_sizes(config: Mapping[str, object], largest: int) -> list[int]:
    """Powers of two that divide the attention heads; key-value heads are split evenly, or copied evenly."""
    text = text_config(config)
    heads = _heads(text)
    kv_heads = 0 if _number(text, "kv_lora_rank") else _kv_heads(text)
    sizes = [2**power for power in range(largest.bit_length())]
    return [
        size
        for size in sizes
        if heads % size == 0 and (not kv_heads or kv_heads % size == 0 or size % kv_heads == 0)
    ]


def _number(config: Mapping[str, object], *names: str) -> int:
    """The first of some settings that is a number; 0 where none is."""
    return next((value for name in names if isinstance(value := config.get(name), int)), 0)
