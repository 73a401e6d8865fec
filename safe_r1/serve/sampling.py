"""Which sampling settings a request gets: its own, else the service's, else those of the model."""

from dataclasses import dataclass
from typing import TypeVar

from safe_r1.config import GenerationConfig
from safe_r1.models.variant import Variant
from safe_r1.serve.base import SamplingParams

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Sampling:
    """Sampling of one completion.

    Attributes:
        seed: None where nothing is drawn: greedy decoding is deterministic without a seed.
    """

    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None


def choose_sampling(params: SamplingParams, generation: GenerationConfig, variant: Variant) -> Sampling:
    """The settings of a request to a model."""
    limits = (params.max_tokens, generation.max_tokens, generation.max_tokens_refusal)
    temperature = _first(params.temperature, generation.temperature, variant.temperature)
    return Sampling(
        max_tokens=_first(*limits, variant.max_tokens_refusal),
        temperature=temperature,
        top_p=_first(params.top_p, generation.top_p, variant.top_p),
        seed=params.seed if temperature > 0 else None,
    )


def _first(*values: _Value | None) -> _Value:
    return next(value for value in values if value is not None)
