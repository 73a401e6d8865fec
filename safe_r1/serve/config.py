"""Settings of the service."""

from pydantic import Field

from safe_r1.config import EngineConfig, GenerationConfig, JudgeConfig
from safe_r1.settings import Settings

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses of this machine; a service without API keys accepts requests from these alone."""


class ScalingConfig(Settings):
    """Autoscaling of each model, and the length of the queue in front of it."""

    min_replicas: int = Field(
        default=1, ge=0, description="0: an idle model releases its resources (scale to zero)"
    )
    max_replicas: int = Field(default=1, ge=1, description="maximum number of replicas of each model")
    target_share: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="share of a replica's max_num_seqs in use at which another replica is started",
    )
    queue_share: float = Field(
        default=2.0, ge=0, description="maximum queue length, as a multiple of one replica's max_num_seqs"
    )
    downscale_delay_s: float = Field(
        default=600.0, ge=0, description="seconds of low load before a replica is stopped"
    )
    surge_percent: int = Field(
        default=100,
        ge=0,
        le=100,
        description="when a changed service is deployed: replicas that start in addition, in percent, before "
        "old ones stop; 0: old ones stop first, for a cluster without room for both",
    )


class LimitConfig(Settings):
    """Limits of one API key; an entry of the key file can override the first three."""

    requests_per_minute: int = Field(default=600, ge=1, description="maximum requests per minute")
    items_per_minute: int = Field(
        default=60_000, ge=1, description="maximum evaluation items and moderation inputs per minute"
    )
    items_per_batch: int = Field(
        default=500_000, ge=1, description="maximum evaluation items and chat requests in one batch"
    )
    body_mib: int = Field(default=32, ge=1, description="maximum size of a request body in MiB")
    body_timeout_s: float = Field(
        default=60.0, gt=0, description="maximum time in seconds to receive a request body"
    )
    bodies_mib: int = Field(
        default=1024,
        ge=1,
        description="maximum size in MiB of all request bodies that one ingress replica holds",
    )
    json_elements: int = Field(
        default=250_000, ge=1, description="maximum number of JSON values in a request body"
    )
    files_mib: int = Field(
        default=10_240, ge=1, description="maximum size in MiB of the files and batches that one key stores"
    )
    file_days: float = Field(
        default=30.0, gt=0, description="days after which files, and batches that have ended, are deleted"
    )
    storage: str = Field(
        default="async+memory://",
        description="storage of the rate limiter's counts; async+redis://... to share them among ingresses",
    )


class ServeConfig(Settings):
    """Settings of one service: models, judge, access and limits."""

    variants: tuple[str, ...] = Field(
        default=(),
        description="models to serve: names of `safe-r1 models`, hub ids, folders, URIs, or "
        "endpoint:URL#MODEL",
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=1, le=65535, description="port to listen on")
    api_keys: str | None = Field(
        default=None, description="TOML file of API keys; None: requests from this machine only"
    )
    cors_origins: tuple[str, ...] = Field(
        default=(), description="origins of web pages that may call the service (CORS)"
    )
    traces: str | None = Field(
        default=None,
        description="URL of an OTLP collector (HTTP) for OpenTelemetry traces, e.g. http://localhost:4318",
    )
    log_content: bool = Field(
        default=False, description="also write requests and responses to the log safe_r1.content"
    )
    judge: JudgeConfig = Field(default=JudgeConfig(), description="the judge")
    judges: tuple[str, ...] = Field(
        default=(),
        description="further judges that a request can name (`judges`): kinds as of judge.kind, each with "
        "its own model",
    )
    policies: dict[str, str] = Field(
        default_factory=dict,
        description="files of judge.policy by the name that a request uses (`policy`), for the judge's model",
    )
    judge_replicas: int = Field(
        default=1, ge=1, description="replicas of a judge that is not one of the models"
    )
    engine: EngineConfig = Field(default=EngineConfig(), description="vLLM settings of the models")
    generation: GenerationConfig = Field(
        default=GenerationConfig(), description="sampling defaults; a request can override them"
    )
    tool_parser: str = Field(
        default="auto",
        description="how calls of tools are read: auto (by the model's chat template), or a tool parser of "
        "vLLM's by name",
    )
    scaling: ScalingConfig = Field(default=ScalingConfig(), description="autoscaling of the models")
    limits: LimitConfig = Field(default=LimitConfig(), description="limits of each API key")
    ingress_replicas: int = Field(default=1, ge=1, description="replicas of the HTTP ingress")
    max_ongoing_requests: int = Field(
        default=256, ge=1, description="maximum concurrent requests of one ingress replica"
    )
    max_pending_items: int = Field(
        default=4000, ge=1, description="maximum unfinished evaluation items of one ingress replica"
    )
    first_answer_timeout_s: float = Field(
        default=900.0,
        gt=0,
        description="seconds that an item waits for a model that is starting, full or being replaced",
    )
    answer_timeout_s: float = Field(
        default=3600.0, gt=0, description="maximum seconds for an answer, or for the first chunk of a stream"
    )
    drain_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="longest time in seconds for requests in progress to end when the service is stopped",
    )
    batches: str | None = Field(
        default=None, description="folder or URI of files and batches; None: no batch API"
    )
