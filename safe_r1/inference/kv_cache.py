"""How many sequences an engine decodes at once: the room for keys and values that model and memory leave."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from safe_r1.config import EngineConfig
from safe_r1.errors import ConfigError
from safe_r1.inference.memory import (
    MAX_NUM_SEQS_ON_CPU,
    context_length,
    cpu_bytes_per_number,
    cpu_kv_cache_gib,
    expected_tokens,
)
from safe_r1.models.size import gpu_memory_gib, kv_room_gib
from safe_r1.models.variant import Variant
from safe_r1.resources import Device

MAX_NUM_SEQS: Mapping[Device, int] = {"cpu": MAX_NUM_SEQS_ON_CPU, "gpu": 256}
"""Most sequences that an engine decodes at once. With more, a step takes about as much longer as it yields
more tokens: on GPUs for reading the cache, which is then several times the weights.
"""


@dataclass(frozen=True)
class ParallelSizes:
    """How the GPUs of an engine share the model; vLLM's sizes of the same names.

    Attributes:
        tensor: GPUs that share each layer.
        pipeline: Groups of so many GPUs, each with some of the layers.
        decode_context: GPUs of a group that share the tokens of its cache, in place of copies.
    """

    tensor: int
    pipeline: int = 1
    decode_context: int = 1

    @property
    def num_gpus(self) -> int:
        """GPUs of the engine."""
        return self.tensor * self.pipeline


@dataclass(frozen=True)
class KvCapacity:
    """What an engine's key-value cache holds, and the sequences that it decodes at once.

    Attributes:
        room_gib: Of the engine's memory, or of all its GPUs; negative where these do not hold the weights.
        bytes_per_token: In that room, with the copies on several GPUs.
        context: Longest sequence in tokens, prompt and completion together.
        tokens_per_sequence: Expected length of a sequence that is being decoded.
        most_num_seqs: Upper limit of ``max_num_seqs``.
        wanted_num_seqs: The setting ``engine.max_num_seqs``.
    """

    room_gib: float
    bytes_per_token: float
    context: int
    tokens_per_sequence: int
    most_num_seqs: int
    wanted_num_seqs: int | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that fit; 0 where not even the weights do."""
        return max(0, math.floor(self.room_gib * 2**30 / self.bytes_per_token))

    def num_sequences(self, tokens: int) -> int:
        """Sequences of a length in tokens that fit at the same time."""
        return self.num_tokens // tokens

    @property
    def max_num_seqs(self) -> int:
        """Sequences that the engine decodes at once: at least one, as vLLM wants it."""
        fitting = max(1, self.num_sequences(self.tokens_per_sequence))
        return self.wanted_num_seqs or min(fitting, self.most_num_seqs)

    @property
    def limit(self) -> str:
        """What ``max_num_seqs`` follows from."""
        if self.wanted_num_seqs:
            return "as engine.max_num_seqs says"
        if self.num_sequences(self.tokens_per_sequence) < self.most_num_seqs:
            return "limited by the cache"
        return "the upper limit: more are hardly faster"

    def describe(self) -> str:
        """All figures in one line."""
        refusal = "" if self.num_sequences(self.context) else "; it will not start: the context does not fit"
        return (
            f"{self.room_gib:.1f} GiB for keys and values, {self.bytes_per_token / 1024:,.4g} KiB a token: "
            f"{self.num_sequences(self.context):,} sequences of the whole context ({self.context:,} tokens), "
            f"{self.num_sequences(self.tokens_per_sequence):,} of {self.tokens_per_sequence:,} tokens as "
            f"expected; max_num_seqs {self.max_num_seqs}, {self.limit}{refusal}"
        )


def parallel_sizes(variant: Variant, engine: EngineConfig, device: Device) -> ParallelSizes:
    """How an engine's GPUs share a model, the variant's sizes where the settings leave them open."""
    tensor = _size(engine, "tensor_parallel_size")
    pipeline = _size(engine, "pipeline_parallel_size")
    decode_context = _size(engine, "decode_context_parallel_size")
    if device == "cpu":
        return ParallelSizes(tensor or 1, pipeline or 1, decode_context or 1)
    if pipeline is None:
        # The variant's number of stages goes with its number of GPUs in each.
        pipeline = variant.pipeline_parallel_size if tensor in (None, variant.tensor_parallel_size) else 1
    sizes = ParallelSizes(tensor or variant.tensor_parallel_size, pipeline, decode_context or 1)
    if decode_context is None and variant.attention.is_latent:
        return _with_decode_context(variant, engine, sizes)
    return sizes


def _size(engine: EngineConfig, name: str) -> int | None:
    """A size from the settings; ``engine.extra`` has the last word, as it has with vLLM."""
    size = engine.extra.get(name, getattr(engine, name))
    if size is None or (isinstance(size, int) and size >= 1):
        return size
    raise ConfigError(f"engine.extra.{name} {size!r}: expected a whole number of at least 1")


def _with_decode_context(variant: Variant, engine: EngineConfig, sizes: ParallelSizes) -> ParallelSizes:
    """The sizes with as much decode context parallelism as the engine's sequences need.

    Every GPU of a tensor-parallel group holds a copy of all latents, unless their tokens are divided, which
    costs an exchange among the GPUs in each layer and step: so no further than until the cache is not what
    limits ``max_num_seqs``. Models without a latent have few copies or none, and not every attention kernel
    can divide them: there it is left to the settings.
    """
    allowed = variant.attention.decode_context_parallel_sizes(sizes.tensor)
    choices = [ParallelSizes(sizes.tensor, sizes.pipeline, size) for size in allowed]
    wanted = _wanted_num_seqs(engine) or MAX_NUM_SEQS["gpu"]
    for choice in choices:
        capacity = _gpu_capacity(variant, engine, choice)
        if capacity is None or capacity.num_sequences(capacity.tokens_per_sequence) >= wanted:
            return choice
    return choices[-1]


def kv_capacity(variant: Variant, engine: EngineConfig, device: Device) -> KvCapacity | None:
    """What an engine of a variant holds; None where the model's dimensions are unknown."""
    if device == "gpu":
        return _gpu_capacity(variant, engine, parallel_sizes(variant, engine, device))
    elements = variant.attention.kv_elements_per_token
    if not elements:
        return None
    return _capacity(
        variant, engine, device, cpu_kv_cache_gib(variant, engine), elements * cpu_bytes_per_number(engine)
    )


def _gpu_capacity(variant: Variant, engine: EngineConfig, sizes: ParallelSizes) -> KvCapacity | None:
    elements = variant.attention.kv_elements_per_gpu(sizes.tensor, sizes.pipeline, sizes.decode_context)
    if not elements or not variant.params_b:
        return None
    memory_gib = engine.gpu_memory_gib or gpu_memory_gib(variant.gpu_gb)
    weights_gib = variant.weights_gib(bytes_per_param(variant, engine)) / sizes.num_gpus
    room_gib = kv_room_gib(memory_gib, engine.gpu_memory_utilization, weights_gib)
    bytes_per_token = elements * _bytes_per_number(engine)
    # The cache of the GPU with the most layers is full first, and they all get as many tokens.
    return _capacity(variant, engine, "gpu", room_gib * sizes.num_gpus, bytes_per_token * sizes.num_gpus)


def _capacity(
    variant: Variant, engine: EngineConfig, device: Device, room_gib: float, bytes_per_token: float
) -> KvCapacity:
    return KvCapacity(
        room_gib,
        bytes_per_token,
        context_length(variant, engine),
        expected_tokens(variant, engine),
        MAX_NUM_SEQS[device],
        _wanted_num_seqs(engine),
    )


def _wanted_num_seqs(engine: EngineConfig) -> int | None:
    return _size(engine, "max_num_seqs")


def bytes_per_param(variant: Variant, engine: EngineConfig) -> float:
    """Bytes of a weight as an engine on GPU holds it."""
    if engine.extra.get("quantization"):
        # vLLM quantizes to 8 bits while it loads, where the weights are not quantized already.
        return min(variant.bytes_per_param, 1.0)
    return 4.0 if engine.dtype == "float32" else variant.bytes_per_param


def _bytes_per_number(engine: EngineConfig) -> float:
    """Of the cache on GPU: as vLLM's ``kv_cache_dtype``, else the type of the activations."""
    if str(engine.extra.get("kv_cache_dtype", "")).startswith(("fp8", "int8")):
        return 1.0
    return 4.0 if engine.dtype == "float32" else 2.0
