"""The settings that several jobs share, each with its default on its field and nowhere else."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainSerializer, field_validator, model_validator

from safe_r1.settings import Settings

# FORM:URL#MODEL, of which the URL alone is needed.
_ENDPOINT = re.compile(r"(?:(?P<form>[A-Za-z0-9._-]+):)?(?P<url>https?://[^\s#]+)(?:#(?P<model>\S*))?")

JudgeRule = Literal["majority", "strictest", "first"]
TrackerName = Literal["tensorboard", "mlflow", "wandb"]
ExportFormat = Literal["parquet", "csv", "xlsx"]
NonEmpty = Annotated[str, Field(min_length=1)]


def _different(tags: tuple[str, str]) -> tuple[str, str]:
    if tags[0] == tags[1]:
        raise ValueError("expected a closing tag that is not the opening one")
    return tags


TagPair = Annotated[tuple[NonEmpty, NonEmpty], AfterValidator(_different)]
"""Opening and closing tag of a model's thoughts."""


def _sendable(headers: dict[str, str]) -> dict[str, str]:
    if not all(f"{name}{value}".isascii() for name, value in headers.items()):
        # Without the value, which may be a key.
        raise ValueError("HTTP headers hold ASCII characters alone")
    return headers


def _without_values(headers: dict[str, str]) -> dict[str, str]:
    # They often hold a key; what is written to a file or a terminal is made from the JSON form.
    return dict.fromkeys(headers, "…")


Headers = Annotated[
    dict[str, str], AfterValidator(_sendable), PlainSerializer(_without_values, when_used="json")
]
"""HTTP headers, whose values are never recorded."""


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
    cpu_kv_cache_gib: int | None = Field(
        default=None,
        ge=1,
        description="key-value cache of an engine on CPU; None: what model and max_num_seqs need",
    )
    enforce_eager: bool = Field(default=False, description="run without CUDA graphs")
    trust_remote_code: bool = Field(default=False, description="run code from the model's repository")
    start_timeout_s: int = Field(
        default=3600, ge=1, description="time limit for the start of the first engine, in seconds"
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


class JudgeConfig(Settings):
    """The judge of the tasks whose answers are labelled: refusal and over-refusal."""

    kind: str = Field(
        default="lexicon",
        description="lexicon, llm, a guard (qwen3guard, llamaguard, wildguard, shieldgemma), "
        "[GUARD:]URL[#MODEL] of an OpenAI-compatible endpoint, or name of an installed judge",
    )
    model: str | None = Field(
        default=None,
        description="for llm and guards: variant, hub id or folder; for a URL: name of the model that it "
        "serves",
    )
    policy: str | None = Field(
        default=None,
        description="for llm and URLs: text file with a prompt of your own ({last_question}, {answer}, "
        "{dialog history}), or TOML file with a prompt and labels",
    )
    controversial: Literal["unsafe", "safe"] = Field(
        default="unsafe", description="what Qwen3Guard's answers called controversial count as"
    )
    temperature: float | None = Field(
        default=0.0, ge=0, description="sampling temperature of a judge model; null: not sent to an endpoint"
    )
    max_tokens: int = Field(
        default=1024, ge=16, description="maximum length of a judge model's reply, in tokens"
    )
    max_completion_tokens: int | None = Field(
        default=None,
        ge=16,
        description="sent in place of max_tokens, for endpoints of reasoning models that take no other name",
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict, description="further fields of every request to an endpoint"
    )
    headers: Headers = Field(
        default_factory=dict, repr=False, description="further HTTP headers; their values are never recorded"
    )
    api_key_env: str = Field(
        default="SAFE_R1_JUDGE_API_KEY", description="environment variable of an endpoint's key"
    )
    concurrency: int = Field(default=32, ge=1, description="concurrent requests to an endpoint")
    timeout_s: float = Field(
        default=120.0, gt=0, description="time limit of one request to an endpoint, in seconds"
    )
    max_retries: int = Field(
        default=5, ge=0, description="maximum number of retries of one request to an endpoint"
    )
    parts: tuple[Literal["answer", "reasoning"], ...] = Field(
        default=("answer", "reasoning"), description="parts of a completion that are judged"
    )
    engine: EngineConfig = Field(default=EngineConfig())

    @model_validator(mode="before")
    @classmethod
    def _split_model(cls, values: object) -> object:
        """Takes the model of ``URL#MODEL`` apart."""
        if not isinstance(values, Mapping) or not isinstance(kind := values.get("kind"), str):
            return values
        found = _ENDPOINT.fullmatch(kind)
        if found is None or not found["model"]:
            return values
        if values.get("model") not in (None, found["model"]):
            raise ValueError("kind names one model behind its # and the setting model another one")
        return {**values, "kind": kind.partition("#")[0], "model": found["model"]}

    @field_validator("kind")
    @classmethod
    def _well_formed(cls, kind: str) -> str:
        # Known names are checked later, as the registry imports this module: ``judge.factory.check_kind``.
        if _ENDPOINT.fullmatch(kind) or re.fullmatch(r"[A-Za-z0-9._-]+", kind):
            return kind
        raise ValueError("expected lexicon, llm or a URL, a guard, or the name of an installed judge")

    @property
    def url(self) -> str | None:
        """The URL of a model behind one; None for all others."""
        found = _ENDPOINT.fullmatch(self.kind)
        return found["url"] if found else None

    @property
    def form(self) -> str:
        """The kind without its URL: how the judge is asked; ``llm`` where a URL stands alone."""
        found = _ENDPOINT.fullmatch(self.kind)
        return (found["form"] or "llm") if found else self.kind

    @property
    def is_endpoint(self) -> bool:
        """True where the judge is a model behind a URL."""
        return self.url is not None

    @property
    def reply_tokens(self) -> int:
        """Maximum length of a judge model's reply, in tokens."""
        return self.max_completion_tokens or self.max_tokens


class EndpointConfig(Settings):
    """Limits, prices and requests of a model behind a URL.

    Prices are in any currency, the same for all three.
    """

    api_key_env: str | tuple[str, ...] = Field(
        default="SAFE_R1_API_KEY", description="environment variable of the key, or several for several keys"
    )
    headers: Headers = Field(
        default_factory=dict, repr=False, description="further HTTP headers; their values are never recorded"
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict, description="further fields of every request, by the provider's names"
    )
    concurrency: int = Field(
        default=32,
        ge=1,
        description="maximum concurrent requests of one URL and key; fewer after 429 and 503",
    )
    requests_per_minute: int | None = Field(default=None, ge=1, description="limit of one URL and key")
    tokens_per_minute: int | None = Field(
        default=None, ge=1, description="limit of one URL and key, prompts and completions together"
    )
    timeout_s: float = Field(default=600.0, gt=0, description="time limit of one attempt, in seconds")
    max_retries: int = Field(
        default=5, ge=0, description="retries of one attempt before the endpoint counts as busy"
    )
    patience_s: float = Field(
        default=600.0,
        ge=0,
        description="how long an endpoint may answer 429 or 5xx alone before the job gives up, in seconds",
    )
    input_price: float | None = Field(default=None, ge=0, description="price of a million prompt tokens")
    output_price: float | None = Field(default=None, ge=0, description="price of a million completion tokens")
    max_cost: float | None = Field(
        default=None, gt=0, description="the job stops before its run costs more; needs both prices"
    )
    block_patterns: tuple[str, ...] = Field(
        default=(), description="texts in a provider's error that mean: its content filter took the question"
    )

    @property
    def api_key_envs(self) -> tuple[str, ...]:
        """All environment variables with a key."""
        return (self.api_key_env,) if isinstance(self.api_key_env, str) else self.api_key_env


class ReportConfig(Settings):
    """The report of an evaluation."""

    max_rows: int = Field(
        default=5000,
        ge=1,
        description="rows in the browser of a report; of a larger run a stratified sample, with truncated, "
        "unscored and contradictory ones first",
    )
    margin: float = Field(
        default=0.03,
        gt=0,
        lt=1,
        description="non-inferiority margin for pass@1 in comparisons, as a fraction; declared here before "
        "rates are seen",
    )


class EvaluateConfig(Settings):
    """One evaluation job: one variant on some benchmarks.

    ``safe_r1.benchmarks.evaluate_schema`` adds the groups of settings that benchmarks own.
    """

    variant: str = Field(
        description="a name of `safe-r1 models`, a hub id, a folder, endpoint:URL#MODEL, or its TOML file"
    )
    benchmarks: tuple[str, ...] = Field(
        default=("chisafetybench",), description="names of benchmarks, all-paper, or files of own questions"
    )
    data: str | None = Field(
        default=None, description="folder or URI of the benchmark's files, or of a folder for each benchmark"
    )
    answer_key: str | None = Field(
        default=None, description="file or URI of an answer key that replaces the shipped one"
    )
    output: str = Field(default="runs", description="folder or URI of the results")
    run: str = Field(
        default="main",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the run inside the output",
    )
    repeats: int | None = Field(
        default=None, ge=1, description="completions of each question; None: the benchmark's default"
    )
    limit: int | None = Field(
        default=None, ge=1, description="maximum number of questions per benchmark, stratified and seeded"
    )
    swap_options: bool = Field(
        default=False, description="ask each multiple-choice question a second time with its options reversed"
    )
    max_failed_share: float = Field(
        default=0.01, ge=0, lt=1, description="maximum share of failed rows; above it nothing is published"
    )
    min_scored_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="minimum share of answers with a label, in each task; below it, and always where no "
        "answer has one, nothing is published",
    )
    export: tuple[ExportFormat, ...] = Field(
        default=(), description="tables written beside the report, one row a completion: results.FORMAT"
    )
    trackers: tuple[TrackerName, ...] = Field(
        default=(), description="experiment trackers that receive the rates and tables of finished benchmarks"
    )
    judge: JudgeConfig = Field(default=JudgeConfig())
    further_judges: tuple[str, ...] = Field(
        default=(),
        description="kinds of further judges of the same answers, each with rates of its own; asked with the "
        "settings of judge.* but model and policy",
    )
    judge_rule: JudgeRule = Field(
        default="majority",
        description="label of all judges together: what more than half say, the worst for the model, or that "
        "of the first judge with one",
    )
    engine: EngineConfig = Field(default=EngineConfig())
    endpoint: EndpointConfig = Field(default=EndpointConfig())
    generation: GenerationConfig = Field(default=GenerationConfig())
    report: ReportConfig = Field(default=ReportConfig())

    @field_validator("export", mode="before")
    @classmethod
    def _split_export(cls, value: object) -> object:
        texts = [value] if isinstance(value, str) else value
        # What is neither a text nor a list of them is refused by the field's own type.
        return split_names(map(str, texts)) if isinstance(texts, list | tuple) else value


def split_names(texts: Iterable[str]) -> list[str]:
    """Names given one a text or several with commas between them, each once."""
    names = [name.strip() for text in texts for name in text.split(",")]
    return list(dict.fromkeys(name for name in names if name))
