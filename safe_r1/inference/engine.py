"""How vLLM is started for a variant: its arguments, its environment, and whether the cluster holds it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safe_r1.config import EngineConfig
from safe_r1.errors import ConfigError, ResourceError
from safe_r1.inference.device import MAX_PARAMS_B_ON_CPU, cluster_gpu_memory_gib
from safe_r1.inference.kv_cache import MAX_NUM_SEQS, KvCapacity, ParallelSizes, kv_capacity, parallel_sizes
from safe_r1.inference.memory import (
    context_length,
    cpu_dtype,
    cpu_kv_cache_gib,
    cpu_memory_gib,
    round_up_gib,
)
from safe_r1.inference.placement import EnginePlace
from safe_r1.inference.weights import model_environment
from safe_r1.models.size import gpu_memory_gib
from safe_r1.models.variant import Variant
from safe_r1.resources import Cluster, Device

__all__ = [
    "check_resources",
    "context_length",
    "describe_capacity",
    "engine_arguments",
    "engine_bundles",
    "engine_environment",
    "engine_place",
    "placement_strategy",
    "resolve_engine",
]


IN_ENGINE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""On CPU, vLLM runs a model in a process beside its engine, to bind threads to the cores of one memory node.

Where there is one node alone, that is half a GiB and ten seconds for a second import of vLLM, for nothing.
By its short name, ``uni``, vLLM would not take it.
"""


def engine_arguments(variant: Variant, engine: EngineConfig, device: Device) -> dict[str, Any]:
    """vLLM's own arguments for a variant."""
    context = context_length(variant, engine)
    sizes = parallel_sizes(variant, engine, device)
    arguments: dict[str, Any] = {
        "max_model_len": context,
        "max_num_seqs": max_num_seqs(variant, engine, device),
        "tensor_parallel_size": sizes.tensor,
        "pipeline_parallel_size": sizes.pipeline,
        "enable_prefix_caching": True,
        "trust_remote_code": engine.trust_remote_code,
        "dtype": engine.dtype,
    }
    if sizes.decode_context > 1:
        arguments["decode_context_parallel_size"] = sizes.decode_context
    if not (variant.is_local or variant.is_fetched):
        arguments["revision"] = arguments["tokenizer_revision"] = variant.revision
    if device == "cpu":
        # A seeded sampler cannot be rolled back on CPU. A prompt that is prefilled in chunks needs that, and
        # the engine dies of it.
        arguments |= {
            "dtype": cpu_dtype(engine),
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(context, 4096),
            "kv_cache_memory_bytes": int(cpu_kv_cache_gib(variant, engine) * 2**30),
        }
        if sizes.num_gpus == 1 and _num_memory_nodes() == 1:
            arguments["distributed_executor_backend"] = IN_ENGINE_PROCESS
    else:
        arguments |= {
            "gpu_memory_utilization": engine.gpu_memory_utilization,
            "enforce_eager": engine.enforce_eager,
        }
    return arguments | engine.extra


def _num_memory_nodes() -> int:
    """NUMA nodes of this machine; 1 where the system does not say."""
    return max(1, len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))))


def _num_cores() -> int:
    """Cores that this process may use: the second thread of a core makes a matrix product no faster."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def max_num_seqs(variant: Variant, engine: EngineConfig, device: Device) -> int:
    """Sequences that an engine decodes at once; the most where the model's dimensions are unknown."""
    if capacity := kv_capacity(variant, engine, device):
        return capacity.max_num_seqs
    return engine.max_num_seqs or MAX_NUM_SEQS[device]


def engine_environment(variant: Variant, engine: EngineConfig, device: Device) -> dict[str, str]:
    """Environment variables of an engine's processes."""
    env = {"VLLM_CONFIGURE_LOGGING": "1", "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        # vLLM would reserve a core for an API server; the processes that send requests to ours need little.
        env |= {
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "OMP_NUM_THREADS": str(_num_cores()),
        }
    if variant.is_fetched:
        env |= model_environment(variant)
    return env


def engine_bundles(arguments: Mapping[str, Any], device: Device) -> list[dict[str, float]]:
    """Ray resources of each worker of an engine, one placement-group bundle a worker."""
    bundle: dict[str, float] = {"CPU": 1} if device == "cpu" else {"CPU": 1, "GPU": 1}
    return [bundle] * (arguments["tensor_parallel_size"] * arguments["pipeline_parallel_size"])


def engine_place(arguments: Mapping[str, Any], engine: EngineConfig, device: Device) -> EnginePlace:
    """What one engine reserves, and how long it waits for it."""
    bundles = engine_bundles(arguments, device)
    return EnginePlace(bundles, arguments["pipeline_parallel_size"], engine.start_timeout_s)


def describe_capacity(variant: Variant, engine: EngineConfig) -> list[str]:
    """What an engine holds and decodes at once, a line for each device that may be chosen."""
    devices: list[Device] = ["gpu", "cpu"] if engine.device == "auto" else [engine.device]
    if engine.device == "auto" and variant.params_b > MAX_PARAMS_B_ON_CPU:
        devices = ["gpu"]
    lines = []
    for device in devices:
        sizes = parallel_sizes(variant, engine, device)
        place = "on CPU"
        if device == "gpu":
            memory_gib = engine.gpu_memory_gib or gpu_memory_gib(variant.gpu_gb)
            place = f"of {sizes.num_gpus} GPU(s), {memory_gib:.1f} GiB each"
            if sizes.decode_context > 1:
                place += f", decode_context_parallel_size {sizes.decode_context}"
        capacity = kv_capacity(variant, engine, device)
        figures = capacity.describe() if capacity else f"max_num_seqs {max_num_seqs(variant, engine, device)}"
        lines.append(f"{place}: {figures}")
    return lines


def placement_strategy(arguments: Mapping[str, Any]) -> Literal["PACK", "STRICT_PACK"]:
    """Ray's strategy for the bundles of an engine in one placement group.

    A tensor-parallel group exchanges data in every layer and has to stand on one node. The stages of a
    pipeline may be on several: ``placement`` keeps each of them on one, where this strategy cannot.
    """
    return "STRICT_PACK" if arguments["pipeline_parallel_size"] == 1 else "PACK"


def resolve_engine(variant: Variant, engine: EngineConfig, device: Device, cluster: Cluster) -> EngineConfig:
    """The settings with all that follows from the cluster, the same for every process that reads them.

    Raises:
        ConfigError, ResourceError: See ``check_resources``.
    """
    if device == "gpu" and engine.gpu_memory_gib is None:
        engine = engine.model_copy(update={"gpu_memory_gib": cluster_gpu_memory_gib(cluster.gpu_kinds)})
    check_resources(variant, engine, device, cluster.gpu_total, cluster.memory_gib, cluster.node_gpus)
    if device == "cpu":
        # As long as its size follows from the free memory, so does the number of sequences.
        size = cpu_kv_cache_gib(variant, engine, cluster.memory_gib)
        engine = engine.model_copy(update={"cpu_kv_cache_gib": size})
    return engine


def check_resources(
    variant: Variant,
    engine: EngineConfig,
    device: Device,
    gpu_total: float,
    memory_gib: float,
    node_gpus: float | None = None,
) -> None:
    """Refuse a model that the cluster cannot hold, before anything starts.

    Args:
        variant: The model.
        engine: Engine settings.
        device: Where the engine runs.
        gpu_total: GPUs of the cluster.
        memory_gib: Free memory of this machine.
        node_gpus: GPUs of the node with the most of them; None: not known.

    Raises:
        ConfigError: The parallel sizes do not suit the model.
        ResourceError: What the variant needs and what there is.
    """
    sizes = parallel_sizes(variant, engine, device)
    _check_sizes(variant, sizes, device)
    if device == "gpu" and engine.device == "auto":
        _check_gpus(variant, sizes, gpu_total, node_gpus)
    if device == "cpu" and (needed := cpu_memory_gib(variant, engine, memory_gib)) > memory_gib:
        raise ResourceError(
            f"{variant.name} needs {needed:.1f} GiB of memory on CPU; {memory_gib:.1f} GiB are free. Use a "
            "GPU cluster, or a smaller variant."
        )
    if capacity := kv_capacity(variant, engine, device):
        _check_context(variant, capacity, sizes, device)


def _check_sizes(variant: Variant, sizes: ParallelSizes, device: Device) -> None:
    attention = variant.attention
    if not attention.num_heads:
        return
    if not attention.allows_tensor_parallel_size(sizes.tensor):
        heads = f"{attention.num_heads} attention heads"
        if not attention.is_latent:
            heads += f" and {attention.num_kv_heads} key-value heads"
        raise ConfigError(
            f"engine.tensor_parallel_size {sizes.tensor}: {variant.name} has {heads}, which cannot be "
            f"divided evenly among {sizes.tensor} GPUs; a power of two is usual"
        )
    allowed = attention.decode_context_parallel_sizes(sizes.tensor) if device == "gpu" else [1]
    if sizes.decode_context not in allowed:
        raise ConfigError(
            f"engine.decode_context_parallel_size {sizes.decode_context}: {variant.name} on {sizes.tensor} "
            f"{device.upper()}(s) allows {', '.join(map(str, allowed))}, as so many hold copies of the same "
            "keys and values"
        )


def _check_gpus(variant: Variant, sizes: ParallelSizes, gpu_total: float, node_gpus: float | None) -> None:
    if gpu_total < sizes.num_gpus:
        raise ResourceError(
            f"{variant.name} needs {sizes.num_gpus} GPU(s) of {variant.gpu_gb} GB "
            f"({variant.weights_gib():.0f} GiB of weights); the cluster has {gpu_total:.0f}. Submit to a "
            "larger one, or --set engine.device=gpu where GPU nodes start on demand."
        )
    if node_gpus is not None and node_gpus < sizes.tensor:
        raise ResourceError(
            f"{variant.name} needs {sizes.tensor} GPUs on one node, as they share each layer; the largest "
            f"node of the cluster has {node_gpus:.0f}: set engine.tensor_parallel_size to what a node has "
            "and engine.pipeline_parallel_size to the number of nodes, or engine.device=gpu where larger "
            "nodes start on demand"
        )


def _check_context(variant: Variant, capacity: KvCapacity, sizes: ParallelSizes, device: Device) -> None:
    """Refuse a context of which the cache cannot hold one sequence; vLLM would, after loading the weights."""
    if capacity.num_sequences(capacity.context):
        return
    more_gpus = (
        "use more GPUs (engine.tensor_parallel_size, engine.pipeline_parallel_size) or larger ones, or a "
        "smaller variant"
    )
    if not capacity.num_tokens:
        weights_gib = variant.weights_gib() / sizes.num_gpus
        raise ResourceError(
            f"{variant.name} needs {weights_gib:.0f} GiB of weights on each of {sizes.num_gpus} GPUs, which "
            f"leave no room for keys and values: {more_gpus}"
        )
    needed_gib = capacity.context * capacity.bytes_per_token / 2**30
    larger_cache = f"set engine.cpu_kv_cache_gib={round_up_gib(needed_gib):g}"
    remedy = larger_cache if device == "cpu" else more_gpus
    raise ResourceError(
        f"{variant.name}: one sequence of {capacity.context:,} tokens needs {needed_gib:.1f} GiB for keys "
        f"and values, and there are {capacity.room_gib:.1f} GiB: {remedy}, or set "
        f"engine.max_model_len={capacity.num_tokens} or less"
    )
