"""What a campaign does: its stages, on which models, on which nodes; a TOML file.

A recipe by name lies in ``safe_r1/campaign/recipes``.
"""

import graphlib
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from safe_r1.attacks.base import PLAIN
from safe_r1.attacks.choose import attack_names
from safe_r1.benchmarks import expand, get_benchmark
from safe_r1.benchmarks.attacked import SEPARATOR
from safe_r1.config import JudgeConfig
from safe_r1.errors import ConfigError, SafeR1Error
from safe_r1.judge.factory import check_kind
from safe_r1.models.gpus import get_gpu
from safe_r1.models.registry import get_variant
from safe_r1.settings import Settings, load_config

T = TypeVar("T")
JobKind = Literal["corpus", "evaluate", "finetune", "compare"]
RUN_ONCE: tuple[JobKind, ...] = ("corpus", "compare")
"""Jobs that run once and not for each variant."""


class NodeGroup(Settings):
    """Nodes of one kind. Its jobs are placed by ``labels``, which the cluster's nodes carry."""

    gpu: str | None = Field(default=None, description="kind of GPU; None: the nodes have none")
    gpus_per_node: int = Field(default=0, ge=0, description="0: as the kind of GPU says")
    max_nodes: int = Field(ge=1, description="the autoscaler's upper limit")
    jobs_per_node: int = Field(default=1, ge=1, description="concurrent jobs on a node without a GPU")
    start_minutes: float = Field(
        default=8.0, ge=0, description="from the request for a node until a job runs on it"
    )
    usd_per_gpu_hour: float = Field(default=0.0, ge=0, description="price for the plan's cost")
    labels: dict[str, str] = Field(default_factory=dict, description="labels of the group's nodes")

    @property
    def capacity(self) -> int:
        """GPUs of all its nodes; for nodes without a GPU, the number of concurrent jobs."""
        # Without GPUs to count, the recipe says how many jobs share a node.
        if self.gpu is None:
            return self.max_nodes * self.jobs_per_node
        return self.max_nodes * self.node_gpus

    @property
    def node_gpus(self) -> int:
        """GPUs of one node."""
        return self.gpus_per_node or (get_gpu(self.gpu).per_node if self.gpu else 0)

    @field_validator("gpu")
    @classmethod
    def _known(cls, gpu: str | None) -> str | None:
        if gpu:
            _as_value_error(get_gpu, gpu)
        return gpu


class StageConfig(Settings):
    """One stage: a job for each of its variants, or one job for all."""

    job: JobKind = Field(description="which job the stage runs")
    group: str = Field(description="node group of its jobs")
    group_of: dict[str, str] = Field(default_factory=dict, description="variants that take another group")
    variants: tuple[str, ...] = Field(
        default=(), description="names, hub ids, folders or URIs; corpus and compare have none"
    )
    models_of: str | None = Field(
        default=None, description="a fine-tuning stage whose models are taken instead of variants"
    )
    needs: tuple[str, ...] = Field(
        default=(), description="stages that come before, variant by variant where both have it"
    )
    benchmarks: tuple[str, ...] = Field(default=(), description="of an evaluation")
    attacks: tuple[str, ...] = Field(
        default=(),
        description="of an evaluation: attacks, combinations, sets such as zh-standard, or TOML files; the "
        "questions are asked as they are too",
    )
    flags: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="further flags, without their dashes"
    )
    set: tuple[str, ...] = Field(default=(), description="settings of the job, a.b=v")
    set_of: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="further settings of some variants"
    )
    hours: float | None = Field(
        default=None, gt=0, description="of one job, instead of the planner's estimate"
    )
    gpus: int | None = Field(
        default=None, ge=0, description="of one job, instead of the number that the variant needs"
    )

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Stages that come before: ``needs``, and the stage whose models it takes."""
        stages = [*self.needs, self.models_of] if self.models_of else self.needs
        return tuple(dict.fromkeys(stages))

    @property
    def attack_names(self) -> list[str]:
        """Names of the attacks, the plain questions first; none where nothing is attacked."""
        if not self.attacks:
            return []
        return list(dict.fromkeys([PLAIN.name, *attack_names(self.attacks)]))

    @property
    def asked(self) -> list[str]:
        """The benchmarks, each as often as it is asked: as it is, and under each attack."""
        times = max(1, len(self.attack_names))
        return [name for name in expand(self.benchmarks) for _ in range(times)]

    @property
    def runs(self) -> list[str]:
        """Names of the runs that a job of the stage writes, in the variant's folder."""
        names = [get_benchmark(name).name for name in expand(self.benchmarks)]
        attacks = self.attack_names
        return [f"{name}{SEPARATOR}{attack}" for name in names for attack in attacks] if attacks else names

    def settings(self, variant: str | None) -> tuple[str, ...]:
        """Of one variant's job; later ones take precedence."""
        return (*self.set, *self.set_of.get(variant or "", ()))

    def setting(self, name: str, variant: str | None, default: str | None = None) -> str | None:
        """The value of one setting, as it is written in the recipe."""
        # One without "=" is left to the job, which refuses it with its own message.
        pairs = (setting.split("=", 1) for setting in self.settings(variant) if "=" in setting)
        return dict(pairs).get(name, default)

    def judge(self, variant: str | None) -> JudgeConfig:
        """Kind and model of the judge of one variant's evaluation.

        Raises:
            ConfigError: The kind is malformed.
        """
        kind = self.flags.get("judge", self.setting("judge.kind", variant))
        return load_config(JudgeConfig, None, [], kind=kind, model=self.setting("judge.model", variant))

    def _check_judge(self, variant: str | None) -> None:
        check_kind(self.judge(variant).kind)

    @field_validator("variants")
    @classmethod
    def _known_variants(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            _as_value_error(get_variant, name)
        return names

    @field_validator("benchmarks")
    @classmethod
    def _known_benchmarks(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        # The names stay as they are written: the job expands all-paper by its own version.
        for name in expand(names):
            _as_value_error(get_benchmark, name)
        return names

    @field_validator("attacks")
    @classmethod
    def _known_attacks(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if names:
            _as_value_error(attack_names, names)
        return names

    @model_validator(mode="after")
    def _fits_its_job(self) -> Self:
        if self.attacks and self.job != "evaluate":
            raise ValueError(f"a {self.job} job takes no attacks; give them to an evaluate stage")
        if self.job in RUN_ONCE and (self.variants or self.models_of):
            raise ValueError(f"a {self.job} job runs once: it takes neither variants nor models_of")
        if self.job not in RUN_ONCE and bool(self.variants) == bool(self.models_of):
            raise ValueError(f"{self.job} jobs need either variants or models_of")
        if self.job == "evaluate":
            if not self.benchmarks:
                raise ValueError("evaluate jobs need benchmarks")
            # None stands for the variants without settings of their own.
            for variant in (None, *self.set_of):
                _as_value_error(self._check_judge, variant)
        if self.job == "compare" and "baseline" not in self.flags:
            raise ValueError("a compare job needs the flag baseline")
        return self


class CampaignRecipe(Settings):
    """The stages of a campaign and the node groups that they run on."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="name of the campaign")
    description: str = Field(default="", description="one sentence for the plan")
    groups: dict[str, NodeGroup] = Field(description="node groups by name")
    stages: dict[str, StageConfig] = Field(min_length=1, description="stages by name")
    secrets: tuple[str, ...] = Field(
        default=(), description="names, not values, of environment variables that must be set"
    )
    budget_gpu_hours: float | None = Field(
        default=None, gt=0, description="limit for all jobs, both as planned and as held"
    )
    budget_endpoint_cost: float | None = Field(
        default=None,
        gt=0,
        description="limit for what endpoints cost, both as planned and as reported; needs their prices",
    )
    max_attempts: int = Field(
        default=3, ge=1, description="of a job whose machine was lost; a user's error is final"
    )
    retry_minutes: float = Field(
        default=1.0, ge=0, description="before the second attempt; doubled for each further one"
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for name, stage in self.stages.items():
            self._check_stage(name, stage)
        try:
            # Sorting finds circles, which no check of a single stage can see.
            self.order()
        except graphlib.CycleError as error:
            raise ValueError(f"the stages wait for each other: {' → '.join(error.args[1])}") from None
        return self

    def _check_stage(self, name: str, stage: StageConfig) -> None:
        for group in (stage.group, *stage.group_of.values()):
            if group not in self.groups:
                raise ValueError(f"stages.{name}: no group {group!r}; there is: {', '.join(self.groups)}")
        for needed in stage.dependencies:
            if needed not in self.stages:
                raise ValueError(
                    f"stages.{name}: needs {needed!r}, which is no stage; there is: {', '.join(self.stages)}"
                )
        if stage.models_of and self.stages[stage.models_of].job != "finetune":
            raise ValueError(f"stages.{name}: models_of names {stage.models_of!r}, which does not fine-tune")
        known = self.variants_of(name)
        for variant in (*stage.group_of, *stage.set_of):
            if variant not in known:
                raise ValueError(
                    f"stages.{name}: {variant!r} is none of its variants: {', '.join(known) or 'it has none'}"
                )

    def variants_of(self, stage: str) -> tuple[str, ...]:
        """Variants of a stage, or of the stage whose models it takes."""
        config = self.stages[stage]
        return self.stages[config.models_of].variants if config.models_of else config.variants

    def order(self) -> list[str]:
        """The stages, each after those that it needs."""
        graph = {name: stage.dependencies for name, stage in self.stages.items()}
        return list(graphlib.TopologicalSorter(graph).static_order())


def load_recipe(name: str, budget_gpu_hours: float | None = None) -> CampaignRecipe:
    """A recipe of the package by its name, or a TOML file.

    Raises:
        ConfigError: There is none of that name, or it is not consistent.
    """
    if name.endswith(".toml"):
        return load_config(CampaignRecipe, name, [], budget_gpu_hours=budget_gpu_hours)
    folder = files("safe_r1.campaign").joinpath("recipes")
    known = sorted(Path(each.name).stem for each in folder.iterdir())
    if name not in known:
        raise ConfigError(f"no recipe {name!r}: known are {', '.join(known)}, or give a TOML file")
    with as_file(folder.joinpath(f"{name}.toml")) as file:
        return load_config(CampaignRecipe, str(file), [], budget_gpu_hours=budget_gpu_hours)


def _as_value_error(check: Callable[[T], object], value: T) -> None:
    """Run a check inside a validator, from which pydantic reports a ``ValueError`` with the field's name."""
    try:
        check(value)
    except SafeR1Error as error:
        raise ValueError(str(error)) from None
