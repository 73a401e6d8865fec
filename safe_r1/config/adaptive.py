"""Attacks that adapt: a model, or chance, writes the next prompt from what came of the last ones."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from safe_r1.config.endpoint import EndpointConfig
from safe_r1.config.engine import EngineConfig
from safe_r1.settings import Settings

AdaptiveMethod = Literal["pair", "tap", "crescendo", "bon"]
METHODS: tuple[AdaptiveMethod, ...] = get_args(AdaptiveMethod)


class PairConfig(Settings):
    """PAIR: independent streams, each of which refines its prompt by the target's answers."""

    streams: int = Field(default=5, ge=1, le=1000, description="streams a question, side by side")
    depth: int = Field(default=4, ge=1, le=1000, description="prompts of each stream for the target")


class TapConfig(Settings):
    """TAP: a tree of prompts, from which weak ones are pruned."""

    width: int = Field(default=4, ge=1, le=1000, description="prompts that are kept from each layer")
    branching: int = Field(default=2, ge=1, le=100, description="prompts that are made of each kept one")
    depth: int = Field(default=5, ge=1, le=1000, description="layers of prompts that the target is asked")


class CrescendoConfig(Settings):
    """Crescendo: conversations that begin with something harmless and come closer turn by turn."""

    conversations: int = Field(default=2, ge=1, le=1000, description="conversations a question, side by side")
    turns: int = Field(default=8, ge=1, le=1000, description="turns of each, without those taken back")
    backtracks: int = Field(
        default=4, ge=0, le=1000, description="refused turns that each conversation may take back"
    )


class BestOfNConfig(Settings):
    """Best-of-N: draws of random changes of writing, without an attacker."""

    n: int = Field(default=50, ge=1, le=100_000, description="draws a question")
    at_once: int = Field(default=10, ge=1, le=1000, description="draws asked before harm ends the search")


class CallBudget(Settings):
    """Limits of calls a question, which no method goes beyond; None for no limit but the method's own."""

    target: int | None = Field(default=None, ge=1, description="calls of the target a question")
    attacker: int | None = Field(default=None, ge=1, description="calls of the attacker a question")
    judge: int | None = Field(default=None, ge=1, description="calls of the judge a question")


class AdaptiveSettings(Settings):
    """What all attacks that adapt have in common, and the settings of each."""

    attacker: str | None = Field(
        default=None,
        description="model that writes the prompts: variant, hub id, folder, endpoint:URL#MODEL or its TOML "
        "file; of pair, tap and crescendo",
    )
    temperature: float = Field(
        default=1.0, gt=0, description="sampling temperature of the attacker; above 0, as its prompts differ"
    )
    top_p: float = Field(default=0.95, gt=0, le=1, description="nucleus sampling of the attacker")
    max_tokens: int = Field(
        default=1024,
        ge=16,
        description="maximum length of a reply of the attacker, thoughts included, in tokens",
    )
    engine: EngineConfig = Field(
        default=EngineConfig(),
        description="of an attacker in this job; one that is the evaluated model shares its engine",
    )
    endpoint: EndpointConfig = Field(default=EndpointConfig(), description="of an attacker behind a URL")
    attacker_failures: int = Field(
        default=3,
        ge=1,
        le=100,
        description="replies of the attacker without a prompt (refused or not readable) that end a branch",
    )
    remembered_turns: int = Field(
        default=3, ge=1, le=100, description="earlier prompts with their answers that the attacker is shown"
    )
    max_parallel: int = Field(
        default=32, ge=1, le=100_000, description="questions whose conversations go on at the same time"
    )
    budget: CallBudget = Field(default=CallBudget())
    pair: PairConfig = Field(default=PairConfig())
    tap: TapConfig = Field(default=TapConfig())
    crescendo: CrescendoConfig = Field(default=CrescendoConfig())
    bon: BestOfNConfig = Field(default=BestOfNConfig())

    def of_method(self, method: AdaptiveMethod) -> "AdaptiveConfig":
        """The settings of one attack; best of N takes no attacker, whatever others use."""
        given = {name: getattr(self, name) for name in AdaptiveSettings.model_fields}
        if method == "bon":
            given["attacker"] = None
        return AdaptiveConfig(method=method, **given)


class AdaptiveConfig(AdaptiveSettings):
    """One attack that adapts. Success ends it for a question."""

    method: AdaptiveMethod = Field(
        default="pair", description="pair, tap, crescendo, or bon (best of N, which needs no attacker)"
    )

    @property
    def needs_attacker(self) -> bool:
        """Whether a model writes the prompts."""
        return self.method != "bon"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.needs_attacker and self.attacker is not None:
            raise ValueError("method bon takes no attacker: leave it out, or choose pair, tap or crescendo")
        if self.method == "tap" and self.budget.attacker == 1:
            raise ValueError("tap calls the attacker twice for a prompt: budget.attacker has to be 2 or more")
        return self
