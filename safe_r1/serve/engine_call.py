"""What an ingress and a model's replica exchange for one completion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safe_r1.serve.deltas import Sink


@dataclass(frozen=True)
class EngineRequest:
    """One completion.

    Attributes:
        id: Its name in the engine.
        tokens: The prompt.
        sampling: Arguments of ``vllm.SamplingParams``.
        sink: Where its text goes while it is generated; None: nowhere.
    """

    id: str
    tokens: list[int]
    sampling: Mapping[str, Any]
    sink: Sink | None = None


@dataclass(frozen=True)
class EngineReply:
    """A whole completion, or why there is none.

    Attributes:
        text: The text.
        finish_reason: ``stop`` or ``length``.
        num_tokens: Tokens of the completion.
        error: What the engine says of a request that it rejects.
    """

    text: str = ""
    finish_reason: str = "stop"
    num_tokens: int = 0
    error: str | None = None
