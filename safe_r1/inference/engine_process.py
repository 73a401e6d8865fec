"""What is done in the process that owns an engine, before it starts vLLM."""

import logging
import os

from safe_r1.inference.weights import fetch_weights

logger = logging.getLogger(__name__)

KV_CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
"""An older setting of vLLM, in whole GiB, which wins over ``kv_cache_memory_bytes`` wherever it is set."""


def prepare_engine() -> None:
    """Have the settings decide, and the weights on the nodes of the engine.

    Raises:
        ModelError: The weights cannot be had.
    """
    # Removed: empty, as an environment that Ray makes could have it, it is no number to vLLM.
    if value := os.environ.pop(KV_CACHE_VARIABLE, None):
        logger.warning(ignored_variable(value))
    fetch_weights()


def ignored_variable(value: str) -> str:
    """Tells that the variable has no effect.

    Args:
        value: It has in the environment.
    """
    return f"{KV_CACHE_VARIABLE}={value} in the environment is ignored: set engine.cpu_kv_cache_gib"
