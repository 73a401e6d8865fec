"""Settings of the service."""

from pydantic import Field

from safe_r1.config import EngineConfig, GenerationConfig, JudgeConfig, Settings

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that this machine alone can ask from; a service without keys answers no other."""


class ScalingConfig(Settings):
    """How many replicas stand behind one model, and how much waits before them."""

    min_replicas: int = Field(
        default=1, ge=0, description="0: the model's machine is given back when nobody asks"
    )
    max_replicas: int = Field(default=1, ge=1)
    target_share: float = Field(
        default=0.75, gt=0, le=1, description="share of a replica's room at which another is started"
    )
    queue_share: float = Field(
        default=2.0, ge=0, description="requests that may wait, as a multiple of one replica's room"
    )
    downscale_delay_s: float = Field(default=600.0, ge=0)


class LimitConfig(Settings):
    """What one key may ask for; an entry of the key file may say otherwise."""

    requests_per_minute: int = Field(default=600, ge=1)
    items_per_minute: int = Field(
        default=60_000, ge=1, description="items of evaluations and inputs of moderations"
    )
    items_per_batch: int = Field(
        default=500_000, ge=1, description="items of all evaluations, and chats, of one batch"
    )
    body_mib: int = Field(default=32, ge=1)
    storage: str = Field(
        default="async+memory://", description="where counts live; async+redis://... for several ingresses"
    )


class ServeConfig(Settings):
    """One service: models, a judge, and who may ask."""

    variants: tuple[str, ...] = Field(
        default=(), description="names of `safe-r1 models`, hub ids, or folders"
    )
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    api_keys: str | None = Field(
        default=None, description="TOML file of keys; None: this machine alone may ask"
    )
    cors_origins: tuple[str, ...] = ()
    log_content: bool = Field(
        default=False, description="write questions and answers to the log safe_r1.content as well"
    )
    judge: JudgeConfig = Field(default=JudgeConfig())
    judge_replicas: int = Field(default=1, ge=1)
    engine: EngineConfig = Field(default=EngineConfig())
    generation: GenerationConfig = Field(default=GenerationConfig())
    scaling: ScalingConfig = Field(default=ScalingConfig())
    limits: LimitConfig = Field(default=LimitConfig())
    ingress_replicas: int = Field(default=1, ge=1)
    max_ongoing_requests: int = Field(default=256, ge=1, description="requests that one ingress works on")
    max_pending_items: int = Field(
        default=4000, ge=1, description="items of evaluations that one ingress holds"
    )
    first_answer_timeout_s: float = Field(
        default=900.0,
        gt=0,
        description="how long an item waits for a model that starts, is full or is being replaced",
    )
    answer_timeout_s: float = Field(
        default=3600.0, gt=0, description="how long one answer, or its first piece, may take"
    )
    batches: str | None = Field(
        default=None, description="folder or URI of files and batches; None: no batches"
    )
