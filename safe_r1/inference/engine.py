"""How vLLM is started for a variant: its arguments, its environment, and whether the cluster holds it."""

import os
from collections.abc import Mapping
from typing import Any

from safe_r1.config import EngineConfig
from safe_r1.errors import ResourceError
from safe_r1.inference.memory import (
    DEFAULT_MAX_NUM_SEQS_ON_CPU,
    cpu_dtype,
    cpu_kv_cache_gib,
    cpu_memory_gib,
)
from safe_r1.models.variant import Variant
from safe_r1.resources import Device

DEFAULT_MAX_NUM_SEQS: Mapping[Device, int] = {"cpu": DEFAULT_MAX_NUM_SEQS_ON_CPU, "gpu": 256}


def context_length(variant: Variant, engine: EngineConfig) -> int:
    """Tokens of prompt and completion together."""
    return engine.max_model_len or variant.context


def engine_arguments(variant: Variant, engine: EngineConfig, device: Device) -> dict[str, Any]:
    """vLLM's own arguments for a variant."""
    context = context_length(variant, engine)
    num_seqs = engine.max_num_seqs or DEFAULT_MAX_NUM_SEQS[device]
    arguments: dict[str, Any] = {
        "max_model_len": context,
        "max_num_seqs": num_seqs,
        "tensor_parallel_size": engine.tensor_parallel_size
        or (variant.tensor_parallel_size if device == "gpu" else 1),
        "pipeline_parallel_size": engine.pipeline_parallel_size,
        "enable_prefix_caching": True,
        "trust_remote_code": engine.trust_remote_code,
        "dtype": engine.dtype,
    }
    if not variant.is_local:
        arguments["revision"] = arguments["tokenizer_revision"] = variant.revision
    if device == "cpu":
        # A seeded sampler cannot be rolled back on CPU. A prompt that is prefilled in chunks needs that, and
        # the engine dies of it.
        arguments |= {
            "dtype": cpu_dtype(engine),
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(context, 4096),
        }
    else:
        arguments |= {
            "gpu_memory_utilization": engine.gpu_memory_utilization,
            "enforce_eager": engine.enforce_eager,
        }
    return arguments | engine.extra


def engine_environment(variant: Variant, engine: EngineConfig, device: Device) -> dict[str, str]:
    """Environment variables of an engine's processes."""
    env = {"VLLM_CONFIGURE_LOGGING": "1", "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        # vLLM would reserve a core for an API server; the processes that send requests to ours need little.
        env |= {
            "VLLM_CPU_KVCACHE_SPACE": str(cpu_kv_cache_gib(variant, engine)),
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "OMP_NUM_THREADS": str(os.cpu_count() or 1),
        }
    if variant.hub == "modelscope" and not variant.is_local:
        env["VLLM_USE_MODELSCOPE"] = "True"
    return env


def engine_bundles(arguments: Mapping[str, Any], device: Device) -> list[dict[str, float]]:
    """Ray resources of each worker of an engine, one placement-group bundle a worker."""
    bundle: dict[str, float] = {"CPU": 1} if device == "cpu" else {"CPU": 1, "GPU": 1}
    return [bundle] * (arguments["tensor_parallel_size"] * arguments["pipeline_parallel_size"])


def check_resources(
    variant: Variant, engine: EngineConfig, device: Device, gpu_total: float, memory_gib: float
) -> None:
    """Refuse a model that the cluster cannot hold, before anything starts.

    Raises:
        ResourceError: What the variant needs and what there is.
    """
    arguments = engine_arguments(variant, engine, device)
    gpus = arguments["tensor_parallel_size"] * arguments["pipeline_parallel_size"]
    if device == "gpu" and engine.device == "auto" and gpu_total < gpus:
        raise ResourceError(
            f"{variant.name} needs {gpus} GPU(s) of {variant.gpu_gb} GB ({variant.weights_gib():.0f} GiB of "
            f"weights); the cluster has {gpu_total:.0f}. Submit to a larger one, or --set engine.device=gpu "
            "where GPU nodes start on demand."
        )
    if device == "cpu" and (needed := cpu_memory_gib(variant, engine, memory_gib)) > memory_gib:
        raise ResourceError(
            f"{variant.name} needs {needed:.1f} GiB of memory on CPU; {memory_gib:.1f} GiB are free. Use a "
            "GPU cluster, or a smaller variant."
        )
