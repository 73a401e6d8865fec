"""How a model is run and sampled."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from safe_r1.settings import Settings

NonEmpty = Annotated[str, Field(min_length=1)]


def _different(tags: tuple[str, str]) -> tuple[str, str]:
    if tags[0] == tags[1]:
        raise ValueError("expected a closing tag that is not the opening one")
    return tags


TagPair = Annotated[tuple[NonEmpty, NonEmpty], AfterValidator(_different)]
"""Opening and closing tag of a model's thoughts."""


class EngineConfig(Settings):
    """How vLLM runs a model. None: the variant's own value (``safe_r1.models.variant.Variant``)."""

    device: Literal["auto", "cpu", "gpu"] = Field(
        default="auto",
        description="auto: GPU where the cluster has one; gpu: also where the autoscaler has yet to start it",
    )
    dtype: str = Field(default="auto", description="auto: float32 on CPU, the checkpoint's own on GPU")
    max_model_len: int | None = Field(
        default=None, ge=32, description="context in tokens, prompt and completion together"
    )
    tensor_parallel_size: int | None = Field(
        default=None, ge=1, description="GPUs that share each matrix product of one engine"
    )
    pipeline_parallel_size: int | None = Field(
        default=None, ge=1, description="groups of GPUs that each hold some layers of one engine"
    )
    decode_context_parallel_size: int | None = Field(
        default=None,
        ge=1,
        description="GPUs that share the tokens of the key-value cache, in place of copies; None: for latent "
        "attention as many as the sequences need, else 1",
    )
    replicas: int = Field(
        default=1, ge=1, description="maximum number of engines; started as resources become free"
    )
    max_num_seqs: int | None = Field(
        default=None,
        ge=1,
        description="sequences decoded concurrently; None: as many as the key-value cache holds, at most 256 "
        "on GPU and 64 on CPU",
    )
    tokens_per_sequence: int | None = Field(
        default=None,
        ge=1,
        description="expected length of a sequence being decoded, for max_num_seqs; None: by the benchmarks, "
        "or half of the longest completion",
    )
    batch_size: int = Field(default=4, ge=1, description="rows sent to an engine together")
    shard_mib: float = Field(
        default=8, gt=0, description="finished rows are written when they are this many MiB of text"
    )
    shard_age_s: float = Field(
        default=60, ge=0, description="or when one has waited this many seconds, whichever comes first"
    )
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="share of a GPU's memory that vLLM may use"
    )
    gpu_memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="memory of a GPU; None: as the cluster's GPUs report it, or as planned",
    )
    cpu_kv_cache_gib: float | None = Field(
        default=None,
        gt=0,
        description="key-value cache of an engine on CPU; None: what model and max_num_seqs need",
    )
    enforce_eager: bool = Field(default=False, description="run without CUDA graphs")
    trust_remote_code: bool = Field(default=False, description="run code from the model's repository")
    start_timeout_s: int = Field(
        default=3600,
        ge=1,
        description="time limit for the start of the first engine, and for a node in place of a lost one, in "
        "seconds",
    )
    max_restarts: int = Field(
        default=3, ge=0, description="maximum number of restarts of one engine before the job fails"
    )
    extra: dict[str, object] = Field(
        default_factory=dict, description="further engine arguments of vLLM, by vLLM's names"
    )


class GenerationConfig(Settings):
    """Sampling. None: the variant's own value (``safe_r1.models.variant.Variant``)."""

    temperature: float | None = Field(default=None, ge=0, description="sampling temperature; 0: greedy")
    top_p: float | None = Field(
        default=None, gt=0, le=1, description="nucleus sampling: share of the probability that is kept"
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="maximum length of a completion in tokens for every task; overrides the next three",
    )
    max_tokens_mcq: int | None = Field(
        default=None, ge=1, description="maximum length for multiple-choice questions"
    )
    max_tokens_refusal: int | None = Field(
        default=None, ge=1, description="maximum length for refusal and over-refusal"
    )
    max_tokens_reasoning: int | None = Field(
        default=None, ge=1, description="maximum length for mathematics, GPQA and programming"
    )
    thinking_tags: TagPair | None = Field(
        default=None,
        description="opening and closing tag of the model's thoughts; None: of the variant's entry or its "
        "tokenizer, or a known form",
    )
    seed: int = Field(default=0, ge=0, description="seed of sampling and of the selection of questions")
