"""The policy of a gate: lines that rates must keep, and how they are decided."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from safe_r1.errors import ConfigError
from safe_r1.metrics.attack_success import ATTACK_METRICS
from safe_r1.report.labels import METRICS
from safe_r1.schema import Part
from safe_r1.settings import Settings, load_config

Scope = Literal["overall", "area", "category", "history"]


class Rule(Settings):
    """A line for one rate: ``min``, ``max`` or both."""

    metric: str = Field(description="name of the metric, e.g. rejection_rate")
    min: float | None = Field(default=None, ge=0, le=100, description="least value, in percent")
    max: float | None = Field(default=None, ge=0, le=100, description="greatest value, in percent")
    benchmark: str | None = Field(
        default=None, description="name of the benchmark; None: all that have the rate"
    )
    part: Part = Field(default="answer", description="answer or reasoning")
    scope: Scope = Field(default="overall", description="overall, area, category or history")
    key: str | None = Field(
        default=None, description="key of the area, category or history; None: each of the scope"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric {self.metric!r}; known are {', '.join(METRICS)}")
        if self.metric in ATTACK_METRICS and self.part != "answer":
            raise ValueError(f"{self.metric} is of the answer; name reasoning_attack_success, without part")
        if self.min is None and self.max is None:
            raise ValueError(f"the rule for {self.metric} needs min or max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"the rule for {self.metric} has min {self.min:g} above max {self.max:g}")
        return self


class GatePolicy(Settings):
    """What a run has to keep, and how that is decided."""

    rules: tuple[Rule, ...] = Field(default=(), description="lines for rates, as [[rules]] in TOML")
    margin: float = Field(
        default=3.0,
        ge=0,
        lt=100,
        description="points by which a main metric may be worse than the baseline's",
    )
    min_coverage: float = Field(
        default=80.0,
        ge=0,
        le=100,
        description="least share of a rate's rows with an outcome, in percent; below it nothing is decided",
    )
    decide: Literal["interval", "point"] = Field(
        default="interval",
        description="what has to be on its side; interval: the 95% interval with the bounds over missing "
        "rows; point: the value alone",
    )


def load_policy(
    file: str | None,
    lower: Sequence[str],
    upper: Sequence[str],
    margin: float | None = None,
    decide: str | None = None,
) -> GatePolicy:
    """The policy of a file with the rules of ``--min`` and ``--max`` added.

    Args:
        file: A TOML or YAML file, or None.
        lower: ``[BENCHMARK/]METRIC=PERCENT`` of the command line, each a least value.
        upper: The same, each a greatest value.
        margin: Replaces the file's, in points.
        decide: Replaces the file's.

    Raises:
        ConfigError: The file cannot be read, or a rule does not fit.
    """
    policy = load_config(GatePolicy, file, [], margin=margin, decide=decide)
    added = [_read_rule("min", text) for text in lower] + [_read_rule("max", text) for text in upper]
    return policy.model_copy(update={"rules": (*policy.rules, *added)})


# `--max over_refusal=5` is what people write.
_SHORT = {
    "acc": "accuracy",
    "asr": "attack_success",
    "hr": "harm_rate",
    "over_refusal": "over_refusal_rate",
    "pass@1": "pass_at_1",
    "rr-1": "rejection_rate",
    "rr-2": "responsible_rate",
    "rr1": "rejection_rate",
    "rr2": "responsible_rate",
}


def _read_rule(side: Literal["min", "max"], text: str) -> Rule:
    name, equals, value = text.partition("=")
    benchmark, _, metric = name.strip().rpartition("/")
    try:
        percent = float(value.strip().removesuffix("%"))
    except ValueError:
        equals = ""
        percent = 0.0
    if not equals:
        raise ConfigError(
            f"--{side} {text!r}: expected [BENCHMARK/]METRIC=PERCENT, e.g. --min rejection_rate=95"
        )
    fields = {"metric": _SHORT.get(metric.lower(), metric), side: percent, "benchmark": benchmark or None}
    return load_config(Rule, None, [], **fields)
