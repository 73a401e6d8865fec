"""Memory of an engine on CPU: its weights and its key-value cache."""

import math

from safe_r1.config import EngineConfig
from safe_r1.models.variant import Variant

MAX_NUM_SEQS_ON_CPU = 64

# Sizes of a key-value cache are multiples of this.
_KV_CACHE_STEP_GIB = 1 / 8
# Of a variant whose sizes are unknown.
_UNKNOWN_KV_CACHE_GIB = 4
# Of a prompt, on the long side: CHiSafetyBench's questions have 115 to 200 tokens on average.
_PROMPT_TOKENS = 256
# Of the memory that is free beside the weights.
_MAX_FREE_SHARE = 0.5
# Python, torch and vLLM in the engine's process and its owner's, and Ray's workers, beyond the job and Ray,
# which run when memory is looked at. Measured with `demo`: 4.9 GiB in all, of which 1.5 are weights and
# cache, and 0.9 were there before.
_PROCESSES_GIB = 2.5


def context_length(variant: Variant, engine: EngineConfig) -> int:
    """Tokens of prompt and completion together."""
    return engine.max_model_len or variant.context


def sequence_tokens(max_tokens: int, mean_tokens: int | None = None) -> int:
    """Expected length of a sequence that is being decoded, in tokens.

    Args:
        max_tokens: Longest completion.
        mean_tokens: Mean length of a completion; None: unknown.
    """
    # Half-way through the longest one: also where all are as long, that is the mean over time.
    half = max_tokens // 2
    return _PROMPT_TOKENS + (half if mean_tokens is None else min(mean_tokens, half))


def expected_tokens(variant: Variant, engine: EngineConfig) -> int:
    """Expected length of a sequence, within the context; by the settings or the variant's own completions."""
    context = context_length(variant, engine)
    is_long = context > variant.context
    longest = variant.max_tokens_reasoning if is_long else variant.max_tokens_refusal
    return min(context, engine.tokens_per_sequence or sequence_tokens(longest))


def cpu_dtype(engine: EngineConfig) -> str:
    """Type of weights and key-value cache on CPU.

    Most CPUs have no bfloat16 arithmetic: float32 was twice as fast, and its rows were the same in any order.
    """
    return "float32" if engine.dtype == "auto" else engine.dtype


def cpu_bytes_per_number(engine: EngineConfig) -> int:
    """Size of a weight, and of a number in the key-value cache, on CPU."""
    return 4 if cpu_dtype(engine) == "float32" else 2


def cpu_kv_cache_gib(
    variant: Variant, engine: EngineConfig, memory_gib: float | None = None, num_rows: int | None = None
) -> float:
    """Size of the key-value cache on CPU in GiB.

    Unless the settings say it: what ``max_num_seqs`` sequences of the expected length need, but at most half
    of the memory that is free beside the weights, and at least one sequence of the whole context, which vLLM
    insists on.

    Args:
        variant: The model.
        engine: Engine settings.
        memory_gib: Free memory; None: as it is on this machine now.
        num_rows: Completions of the job, of which no more can be decoded at once; None: unknown.
    """
    if engine.cpu_kv_cache_gib is not None:
        return engine.cpu_kv_cache_gib
    if not variant.attention.kv_elements_per_token:
        return _UNKNOWN_KV_CACHE_GIB
    num_seqs = engine.max_num_seqs or MAX_NUM_SEQS_ON_CPU
    if num_rows:
        num_seqs = min(num_seqs, num_rows)
    free_gib = free_memory_gib() if memory_gib is None else memory_gib
    cap_gib = _MAX_FREE_SHARE * (free_gib - _weights_gib(variant, engine) - _PROCESSES_GIB)
    wanted_gib = _kv_gib(variant, engine, num_seqs * expected_tokens(variant, engine))
    smallest_gib = _kv_gib(variant, engine, context_length(variant, engine))
    largest_gib = math.floor(cap_gib / _KV_CACHE_STEP_GIB) * _KV_CACHE_STEP_GIB
    return max(min(round_up_gib(wanted_gib), largest_gib), round_up_gib(smallest_gib))


def round_up_gib(size_gib: float) -> float:
    """The next size of a key-value cache that is given in eighths of a GiB."""
    return math.ceil(size_gib / _KV_CACHE_STEP_GIB) * _KV_CACHE_STEP_GIB


def cpu_memory_gib(variant: Variant, engine: EngineConfig, memory_gib: float) -> float:
    """Memory that a job with an engine on CPU needs, in GiB, where ``memory_gib`` are free."""
    kv_cache_gib = cpu_kv_cache_gib(variant, engine, memory_gib)
    return _weights_gib(variant, engine) + kv_cache_gib + _PROCESSES_GIB


def free_memory_gib() -> float:
    """Free memory of this machine, in GiB."""
    import psutil

    return psutil.virtual_memory().available / 2**30


def _weights_gib(variant: Variant, engine: EngineConfig) -> float:
    return variant.weights_gib(cpu_bytes_per_number(engine))


def _kv_gib(variant: Variant, engine: EngineConfig, tokens: int) -> float:
    elements = variant.attention.kv_elements_per_token
    return tokens * elements * cpu_bytes_per_number(engine) / 2**30
