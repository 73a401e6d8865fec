"""The judge of answers."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from safe_r1.config.endpoint import Headers, VariableName
from safe_r1.config.engine import EngineConfig
from safe_r1.settings import Settings

# FORM:URL#MODEL, of which the URL alone is needed.
_ENDPOINT = re.compile(r"(?:(?P<form>[A-Za-z0-9._-]+):)?(?P<url>https?://[^\s#]+)(?:#(?P<model>\S*))?")

JudgeRule = Literal["majority", "strictest", "first"]


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
    api_key_env: VariableName = Field(
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
