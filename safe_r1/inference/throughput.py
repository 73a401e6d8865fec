"""How long the steps of an engine on GPUs take, by the shares of the hardware's peaks that it achieves.

Every step reads the weights and the keys and values of all sequences, and computes: the larger of reading and
computing counts, for the matrix products and for attention apart. Launching a step and the exchanges among
the GPUs of an engine come on top, and so does sampling for each sequence.

Source: ``safe_r1.models.gpus`` for the peaks; the shares are fitted to the rows of
    ``tests/baselines/inference.toml`` that say so, and held against all others there by a test.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from safe_r1.config import EngineConfig
from safe_r1.errors import ConfigError
from safe_r1.inference.kv_cache import bytes_per_param, kv_capacity, parallel_sizes
from safe_r1.models.attention import Attention
from safe_r1.models.gpus import GPUS, Gpu
from safe_r1.models.variant import Variant

# Of the peak of matrix products, what prompts of a dense model achieve.
_COMPUTE_SHARE: Mapping[str, float] = {"ampere": 0.6, "hopper": 0.4, "blackwell": 0.4, "ada": 0.5}
# An H20 computes little beside its bandwidth, so that its peak is easier to reach.
_COMPUTE_SHARE_OF_GPU: Mapping[str, float] = {"h20-96": 0.6}
# Of the bandwidth, for weights that every token needs and for keys and values.
_READ_SHARE = 0.8
# Of the bandwidth for routed experts, whose matrix products are many and small.
_EXPERTS_READ_SHARE = 0.5
# Of what a dense model computes in the same time: so much a model of experts does.
_EXPERTS_COMPUTE = 0.3
# Launching a step, and the scheduler.
_STEP_S = 1.5e-3
# One of the two exchanges of a layer among the GPUs that share it.
_EXCHANGE_S = 15e-6
# Sampling, the scheduler's work and the text of one sequence in one step.
_SEQUENCE_S = 10e-6
# Sum of the sizes of a query and a value in DeepSeek's prompts, where latents are expanded: 192 and 128.
_LATENT_PROMPT_DIM = 320


@dataclass(frozen=True)
class _Experts:
    """A model of experts.

    Attributes:
        routed: Share of the parameters that routed experts hold.
        used: Share of these that one token uses.
    """

    routed: float
    used: float


# DeepSeek-V3: 58 layers with 256 experts of 44 million parameters, of which a token uses 8.
_EXPERTS: Mapping[str, _Experts] = {"deepseek_v3": _Experts(654 / 671, 8 / 256)}


@dataclass(frozen=True)
class EngineSpeed:
    """Times that the steps of one engine consist of, in seconds.

    Attributes:
        step_s: Each step.
        sequence_s: Each sequence in a step.
        weights_s: Reading the weights that every token needs, once a step.
        experts_s: Reading all routed experts; 0 for a dense model.
        expert_share: Share of the routed experts that one token uses.
        token_s: Matrix products of one token of a prompt or a completion.
        context_s: Attention to one earlier token, while a completion is written.
        prompt_pair_s: Attention of one token of a prompt to one token before it.
    """

    step_s: float
    sequence_s: float = 0.0
    weights_s: float = 0.0
    experts_s: float = 0.0
    expert_share: float = 0.0
    token_s: float = 0.0
    context_s: float = 0.0
    prompt_pair_s: float = 0.0

    def decode(self, steps: int, sequences: int, context: float) -> float:
        """Seconds of some steps in which the same sequences get a token each.

        Args:
            steps: Number of steps.
            sequences: Sequences that are written.
            context: Tokens of all sequences together before the first of the steps.
        """
        fixed = self._fixed(sequences, sequences)
        context_tokens = steps * context + sequences * steps * (steps - 1) / 2
        return steps * fixed + self.context_s * context_tokens

    def prefill(self, sequences: int, context: float, admitted: int, tokens: int, pairs: float) -> float:
        """Seconds of a step in which new sequences' prompts are computed beside those that are written.

        Args:
            sequences: Sequences that were written before.
            context: Tokens of these.
            admitted: New sequences, which get their first token.
            tokens: Tokens of their prompts that have to be computed.
            pairs: Of these tokens, each with a token before it or itself.
        """
        fixed = self._fixed(sequences + admitted, sequences + tokens)
        return fixed + self.context_s * context + self.prompt_pair_s * pairs

    def _fixed(self, sequences: int, tokens: int) -> float:
        """Seconds of a step without attention."""
        return self.step_s + sequences * self.sequence_s + max(self._read_s(tokens), tokens * self.token_s)

    def _read_s(self, tokens: int) -> float:
        """Reading the weights that so many tokens need; each picks its experts independently."""
        if not self.experts_s:
            return self.weights_s
        return self.weights_s + self.experts_s * (1 - (1 - self.expert_share) ** tokens)


def engine_speed(variant: Variant, engine: EngineConfig, gpu: Gpu) -> EngineSpeed:
    """The times of an engine's steps.

    GPUs of an engine share reading and computing evenly, also as stages of a pipeline: vLLM keeps all of them
    busy with parts of the batch.

    Args:
        variant: The model.
        engine: Engine settings.
        gpu: The GPU type.

    Raises:
        ConfigError: It is ``cpu``.
    """
    compute_share = _COMPUTE_SHARE_OF_GPU.get(gpu.name, _COMPUTE_SHARE.get(gpu.generation))
    if compute_share is None:
        known = ", ".join(each.name for each in GPUS.values() if each.generation in _COMPUTE_SHARE)
        raise ConfigError(f"no speed of inference is known for GPU {gpu.name!r}: known are {known}")
    sizes = parallel_sizes(variant, engine, "gpu")
    capacity = kv_capacity(variant, engine, "gpu")
    attention = variant.attention
    experts = _EXPERTS.get(variant.family, _Experts(0.0, 0.0))
    bytes_per_s = sizes.num_gpus * gpu.memory_gb_s * 1e9
    flops_per_s = sizes.num_gpus * gpu.tflops * 1e12 * compute_share
    weight_bytes = bytes_per_param(variant, engine)
    params = max(0.1, variant.params_b) * 1e9
    active = params * (1 - experts.routed * (1 - experts.used))
    product_flops_per_s = flops_per_s
    if gpu.has_fp8 and weight_bytes <= 1:
        product_flops_per_s *= 2
    if experts.routed:
        product_flops_per_s *= _EXPERTS_COMPUTE
    context_flops, pair_flops = _attention_flops(attention)
    read_s = (capacity.bytes_per_token if capacity else 0.0) / (bytes_per_s * _READ_SHARE)
    exchanges = 2 * attention.num_layers if sizes.tensor > 1 else 0
    return EngineSpeed(
        step_s=_STEP_S + exchanges * _EXCHANGE_S,
        sequence_s=_SEQUENCE_S,
        weights_s=params * (1 - experts.routed) * weight_bytes / (bytes_per_s * _READ_SHARE),
        experts_s=params * experts.routed * weight_bytes / (bytes_per_s * _EXPERTS_READ_SHARE),
        expert_share=experts.used,
        token_s=2 * active / product_flops_per_s,
        context_s=max(read_s, context_flops / flops_per_s),
        prompt_pair_s=pair_flops / flops_per_s,
    )


def _attention_flops(attention: Attention) -> tuple[float, float]:
    """Operations of attention to one earlier token: while a completion is written, and in a prompt.

    Products of query and keys, and of weights and values: two operations for each number that is kept of a
    token, for each head. Of a latent each head uses all numbers for both, but in prompts it is expanded.
    """
    heads = attention.num_layers * attention.num_heads
    if attention.is_latent:
        return 4.0 * heads * attention.kv_dim, 2.0 * heads * _LATENT_PROMPT_DIM
    return 2.0 * heads * attention.kv_dim, 2.0 * heads * attention.kv_dim
