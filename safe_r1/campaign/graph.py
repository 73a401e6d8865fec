"""From a recipe to its jobs: one step for each stage and variant, with its command and the steps it needs."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safe_r1.attacks.choose import absolute_names
from safe_r1.benchmarks import absolute_name
from safe_r1.campaign.credentials import check_command
from safe_r1.campaign.endpoint_use import total
from safe_r1.campaign.estimate import Estimate, estimate
from safe_r1.campaign.recipe import RUN_ONCE, CampaignRecipe, JobKind, StageConfig
from safe_r1.campaign.selection import select_variants
from safe_r1.errors import ConfigError
from safe_r1.judge.factory import engine_model
from safe_r1.models.registry import get_variant

# The folder of the comparison's report in that of the campaign.
COMPARISON = "comparison"

_COMMANDS: dict[JobKind, tuple[str, ...]] = {
    "corpus": ("ray_jobs/build_corpus.py",),
    "evaluate": ("ray_jobs/evaluate.py",),
    "finetune": ("ray_jobs/finetune.py",),
    "compare": ("-m", "safe_r1.cli", "compare"),
}


@dataclass(frozen=True)
class Step:
    """One job.

    Attributes:
        name: ``STAGE`` or ``STAGE/VARIANT``.
        stage: Name of its stage.
        variant: The model that it is about, by its name in the recipe; None where it runs once.
        job: What runs.
        argv: Arguments of the interpreter.
        needs: Steps that come before.
        tolerates_failures: It also runs where some of them failed: a comparison of those that are left.
        group: Its node group.
        estimate: What it takes, as planned.
    """

    name: str
    stage: str
    variant: str | None
    job: JobKind
    argv: tuple[str, ...]
    needs: tuple[str, ...]
    tolerates_failures: bool
    group: str
    estimate: Estimate

    @property
    def gpu_hours(self) -> float:
        """GPU-hours, as planned."""
        return self.estimate.gpus * self.estimate.hours

    @property
    def units(self) -> int:
        """What it takes of its group's capacity: its GPUs, or one job."""
        return self.estimate.gpus or 1


def make_steps(recipe: CampaignRecipe, output: str, only: Sequence[str] = ()) -> dict[str, Step]:
    """All steps by name, each after those that it needs.

    Args:
        recipe: The recipe.
        output: Folder of the campaign.
        only: Variants; empty: all.

    Raises:
        ConfigError: A step is too large for its group, the budget can never be met, two models have one name,
            ``only`` names an unknown variant, or a command holds a credential.
    """
    if only:
        recipe = select_variants(recipe, only)
    steps: dict[str, Step] = {}
    for name, stage, variant in _iter_steps(recipe):
        step = _step(recipe, name, stage, variant, output)
        check_command(name, step.argv)
        steps[name] = dataclasses.replace(step, needs=_needs(step, recipe.stages[stage], steps))
    _check(recipe, steps)
    return steps


def commands(recipe: CampaignRecipe, output: str) -> dict[str, list[str]]:
    """Arguments of every step by its name, whichever variants are chosen; they identify a campaign's folder.

    Raises:
        ConfigError: Two models have one name.
    """
    return {
        name: _argv(recipe.stages[stage], variant, output) for name, stage, variant in _iter_steps(recipe)
    }


def _iter_steps(recipe: CampaignRecipe) -> Iterator[tuple[str, str, str | None]]:
    """Name, stage and variant of each step, after those that it needs."""
    # Results are filed under the variant's name: a second model of that name would overwrite the first one's.
    by_name: dict[str, str] = {}
    for stage in recipe.order():
        if recipe.stages[stage].job in RUN_ONCE:
            yield stage, stage, None
        for variant in dict.fromkeys(recipe.variants_of(stage)):
            name = get_variant(variant).name
            if (other := by_name.setdefault(name, variant)) != variant:
                raise ConfigError(
                    f"{other} and {variant} are both called {name}, the name of their results: "
                    "rename a folder"
                )
            yield f"{stage}/{name}", stage, variant


def _step(recipe: CampaignRecipe, name: str, stage: str, variant: str | None, output: str) -> Step:
    config = recipe.stages[stage]
    group = _group(recipe, config, variant)
    return Step(
        name=name,
        stage=stage,
        variant=variant,
        job=config.job,
        argv=tuple(_argv(config, variant, output)),
        needs=(),
        tolerates_failures=config.job == "compare",
        group=group,
        estimate=estimate(config, variant, recipe.groups[group]),
    )


def _group(recipe: CampaignRecipe, stage: StageConfig, variant: str | None) -> str:
    """Group of a job. A model behind a URL gets none with GPUs, which it would keep idle, if there is another
    and no engine judges it.
    """
    named = stage.group_of.get(variant or "", stage.group)
    if variant is None or variant in stage.group_of or recipe.groups[named].gpu is None:
        return named
    if get_variant(variant).endpoint is None or engine_model(stage.judge(variant)):
        return named
    return next((name for name, group in recipe.groups.items() if group.gpu is None), named)


def _argv(stage: StageConfig, variant: str | None, output: str) -> list[str]:
    argv = [*_COMMANDS[stage.job], *_job_arguments(stage, variant, output)]
    for flag, value in stage.flags.items():
        argv += _flag_arguments(flag, value)
    for setting in stage.settings(variant):
        argv += ["--set", setting]
    return argv


def _job_arguments(stage: StageConfig, variant: str | None, output: str) -> list[str]:
    """The arguments that place a job's inputs and results inside the campaign's folder."""
    if stage.job == "corpus":
        return ["--output", f"{output}/corpus"]
    if stage.job == "compare":
        return [f"{output}/runs/main", "--output", f"{output}/{COMPARISON}"]
    assert variant is not None
    if Path(variant).exists():
        # A job starts in another folder.
        variant = str(Path(variant).resolve())
    if stage.job == "finetune":
        return ["--variant", variant, "--corpus", f"{output}/corpus", "--output", f"{output}/finetuned"]
    name = get_variant(variant).name
    # The folder to which the fine-tuning job exports; it is not there yet while the campaign is planned.
    model = f"{output}/finetuned/main/{name}/{name}-safe" if stage.models_of else variant
    benchmarks = [each for name in stage.benchmarks for each in ("--benchmark", absolute_name(name))]
    attacks = [each for name in absolute_names(stage.attacks) for each in ("--attack", name)]
    return ["--variant", model, *benchmarks, *attacks, "--output", f"{output}/runs"]


def _flag_arguments(name: str, value: str | int | float | bool) -> list[str]:
    # A flag without a value; false leaves it out, so that a copied recipe can switch it off.
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    return [f"--{name}", str(value)]


def _needs(step: Step, stage: StageConfig, steps: dict[str, Step]) -> tuple[str, ...]:
    """The steps of the needed stages: of the same variant where both stages have variants, else all."""
    needs: list[str] = []
    for needed in stage.dependencies:
        of_stage = [each for each in steps.values() if each.stage == needed]
        # A stage that runs once, such as the corpus, is needed by all variants, and needs all of them.
        if step.variant and any(each.variant for each in of_stage):
            of_stage = [each for each in of_stage if each.variant == step.variant]
        needs += [each.name for each in of_stage]
    return tuple(needs)


def _check(recipe: CampaignRecipe, steps: dict[str, Step]) -> None:
    for step in steps.values():
        capacity = recipe.groups[step.group].capacity
        if step.units > capacity:
            raise ConfigError(
                f"{step.name} takes {step.units} GPUs and group {step.group} has {capacity}: "
                "raise its max_nodes"
            )
    _check_cost(recipe, steps)
    gpu_hours = sum(step.gpu_hours for step in steps.values())
    if recipe.budget_gpu_hours is not None and gpu_hours > recipe.budget_gpu_hours:
        # If even this is above the budget, no choice of variants helps.
        smallest = min((step.gpu_hours for step in steps.values() if step.gpu_hours), default=0.0)
        raise ConfigError(
            f"the plan takes {gpu_hours:,.0f} GPU-hours and the budget is {recipe.budget_gpu_hours:,.0f} "
            f"(the smallest job alone takes {smallest:,.1f}): raise --budget-gpu-hours, or choose variants "
            "with --only"
        )


def _check_cost(recipe: CampaignRecipe, steps: dict[str, Step]) -> None:
    budget = recipe.budget_endpoint_cost
    if budget is None:
        return
    uses = {step.name: step.estimate.endpoint for step in steps.values() if step.estimate.endpoint}
    unpriced = [name for name, use in uses.items() if use.cost is None]
    if unpriced:
        raise ConfigError(
            f"budget_endpoint_cost needs prices, and {unpriced[0]} has none: set endpoint.input_price and "
            "endpoint.output_price in its stage, or input_price and output_price in the endpoint's TOML file"
        )
    planned = total(uses.values()).cost or 0.0
    if planned > budget:
        raise ConfigError(
            f"the plan's endpoints cost about {planned:.4g} and budget_endpoint_cost is {budget:g}: raise "
            "it, or choose variants with --only"
        )
