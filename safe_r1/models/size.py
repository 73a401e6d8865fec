"""How large a model is, and how many GPUs an engine of it takes: from its config.json and its weights' bytes.

Source: transformers' configuration classes for the names of the settings.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from safe_r1.models.attention import Attention, read_attention, text_config

# Bytes of one number by the name of its type in config.json.
_MAX_BITS = 64
_DTYPE_BYTES = {"float64": 8.0, "float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8_e4m3fn": 1.0}
_BITS_BY_METHOD = {"fp8": 8, "fbgemm_fp8": 8, "awq": 4, "gptq": 4, "mxfp4": 4, "bitsandbytes": 8}

DEFAULT_GPU_MEMORY_UTILIZATION = 0.9
"""Share of a GPU's memory that vLLM uses unless the settings say otherwise."""

ENGINE_BYTES_PER_PARAM = 2.0
"""Bytes of a parameter in an engine on GPU, which computes in 16 bits, unless the model is quantized."""

# GPUs that models are planned for, by memory in GB; a node has eight of them.
_GPU_SIZES_GB = (80, 141)
_MAX_NODES = 8
# Activations of vLLM's largest batch, CUDA graphs, and the buffers of CUDA and NCCL.
_WORKSPACE_GIB = 3.3
# Beside the weights, an engine has to hold the keys and values of four sequences of 16,384 tokens: with less,
# reasoning models are decoded a sequence at a time.
_KV_TOKENS = 4 * 16384


@dataclass(frozen=True)
class EngineGpus:
    """The GPUs of one engine.

    Attributes:
        tensor_parallel_size: GPUs that share each layer; they stand on one node.
        pipeline_parallel_size: Groups of so many GPUs, each with some of the layers.
        gpu_gb: Memory that each GPU needs, in GB.
    """

    tensor_parallel_size: int
    pipeline_parallel_size: int
    gpu_gb: int


@dataclass(frozen=True)
class ModelSize:
    """Size of a model and of the GPUs that hold it.

    Attributes:
        params_b: Parameters in billions; 0 where unknown.
        bytes_per_param: Of the weights as an engine on GPU loads them.
        attention: What its key-value cache depends on.
        gpus: Of one engine.
    """

    params_b: float
    bytes_per_param: float
    attention: Attention
    gpus: EngineGpus


def model_size(
    config: Mapping[str, object], weight_bytes: int, bytes_per_number: float | None = None
) -> ModelSize:
    """The size of a model.

    Args:
        config: Its ``config.json``.
        weight_bytes: Bytes of its weights on disk; 0 where unknown, which gives one GPU.
        bytes_per_number: Of its weights as they are stored; None: as the configuration says.
    """
    stored = stored_bytes_per_param(config, bytes_per_number)
    loaded = min(_quantized_bytes(config) or ENGINE_BYTES_PER_PARAM, ENGINE_BYTES_PER_PARAM)
    params_b = weight_bytes / stored / 1e9
    weights_gib = params_b * 1e9 * loaded / 2**30
    attention = read_attention(config)
    return ModelSize(params_b, loaded, attention, engine_gpus(attention, weights_gib))


def stored_bytes_per_param(config: Mapping[str, object], bytes_per_number: float | None = None) -> float:
    """Bytes of a parameter on disk.

    Args:
        config: The model's ``config.json``.
        bytes_per_number: By the files of the weights, where they have been read.

    Returns:
        By the model's quantization, else by its files, else by the type in its configuration; 2 where none
        says anything.
    """
    if known := _quantized_bytes(config) or bytes_per_number:
        return known
    text = text_config(config)
    dtypes = (source.get(name) for source in (config, text) for name in ("dtype", "torch_dtype"))
    return next((_DTYPE_BYTES[str(dtype)] for dtype in dtypes if str(dtype) in _DTYPE_BYTES), 2.0)


def _quantized_bytes(config: Mapping[str, object]) -> float | None:
    """Bytes of a weight by the model's quantization; None where there is none, or it is unknown."""
    quantization = config.get("quantization_config")
    bits = _quantized_bits(quantization) if isinstance(quantization, Mapping) else None
    return bits / 8 if bits and 0 < bits <= _MAX_BITS else None


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


def engine_gpus(attention: Attention, weights_gib: float) -> EngineGpus:
    """The GPUs of an engine that holds a model with room for the key-value cache.

    The smallest power of two that the heads allow, on one node of 80 GB GPUs, else of 141 GB GPUs, else the
    most GPUs of one node on as few nodes as hold it: tensor parallelism needs the links inside a node, the
    stages of a pipeline exchange little.
    """
    sizes = [size for size in (1, 2, 4, 8) if attention.allows_tensor_parallel_size(size)]
    for gpu_gb in _GPU_SIZES_GB:
        for size in sizes:
            if _holds(attention, weights_gib, EngineGpus(size, 1, gpu_gb)):
                return EngineGpus(size, 1, gpu_gb)
    on_nodes = [EngineGpus(sizes[-1], num_nodes, _GPU_SIZES_GB[-1]) for num_nodes in range(2, _MAX_NODES + 1)]
    return next((gpus for gpus in on_nodes if _holds(attention, weights_gib, gpus)), on_nodes[-1])


def _holds(attention: Attention, weights_gib: float, gpus: EngineGpus) -> bool:
    elements = attention.kv_elements_per_gpu(gpus.tensor_parallel_size, gpus.pipeline_parallel_size)
    weights_per_gpu = weights_gib / gpus.tensor_parallel_size / gpus.pipeline_parallel_size
    room_gib = kv_room_gib(gpu_memory_gib(gpus.gpu_gb), DEFAULT_GPU_MEMORY_UTILIZATION, weights_per_gpu)
    return elements * 2 * _KV_TOKENS / 2**30 <= room_gib


def gpu_memory_gib(gpu_gb: int) -> float:
    """Memory of a GPU that is sold with this many GB, as CUDA reports it."""
    # 79.1 of an H100's 80, 139.8 of an H200's 141: the binary GiB, less what the driver keeps.
    return 0.9895 * gpu_gb


def kv_room_gib(memory_gib: float, utilization: float, weights_gib: float) -> float:
    """Memory that vLLM leaves for the key-value cache of one GPU; negative where the weights do not fit.

    Args:
        memory_gib: Of the GPU.
        utilization: vLLM's ``gpu_memory_utilization``.
        weights_gib: Of that GPU's share of the model.
    """
    return utilization * memory_gib - weights_gib - _WORKSPACE_GIB
