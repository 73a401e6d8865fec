"""From a recipe to its jobs: one step for each stage and variant, with its command and what it waits for."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safe_r1.campaign.choice import choose_variants
from safe_r1.campaign.estimate import Estimate, estimate
from safe_r1.campaign.recipe import ALONE, JobKind, Recipe, StageConfig, needs_of
from safe_r1.errors import ConfigError
from safe_r1.models.registry import get_variant

# The folder of the comparison's report in that of the campaign.
COMPARISON = "comparison"


@dataclass(frozen=True)
class Step:
    """One job.

    Attributes:
        name: ``STAGE`` or ``STAGE/VARIANT``.
        stage: Name of its stage.
        variant: The model that it is about, by its name in the recipe; None where it runs once.
        job: What runs.
        words: The command's words after ``python``.
        needs: Steps that come before.
        takes_what_there_is: It also runs where some of them failed: a comparison of those that are left.
        group: Its node group.
        estimate: What it will take.
    """

    name: str
    stage: str
    variant: str | None
    job: JobKind
    words: tuple[str, ...]
    needs: tuple[str, ...]
    takes_what_there_is: bool
    group: str
    estimate: Estimate

    @property
    def gpu_hours(self) -> float:
        """Planned."""
        return self.estimate.gpus * self.estimate.hours

    @property
    def units(self) -> int:
        """Of its group's room: GPUs, or one job."""
        return self.estimate.gpus or 1


def make_steps(recipe: Recipe, output: str, only: Sequence[str] = ()) -> dict[str, Step]:
    """All steps by name, each after those that it needs.

    Args:
        recipe: The recipe.
        output: Folder or URI of the campaign.
        only: Variants; empty: all.

    Raises:
        ConfigError: A step is too large for its group, the budget can never be met, two models have one name,
            or ``only`` names what is not there.
    """
    if only:
        recipe = choose_variants(recipe, only)
    steps: dict[str, Step] = {}
    for name, stage, variant in _cells(recipe):
        step = _step(recipe, name, stage, variant, output)
        steps[name] = dataclasses.replace(step, needs=_needs(step, recipe.stages[stage], steps))
    _check(recipe, steps)
    return steps


def commands(recipe: Recipe, output: str) -> dict[str, list[str]]:
    """The words of every step by its name: what the folder of a campaign belongs to, whichever variants are
    chosen.

    Raises:
        ConfigError: Two models have one name.
    """
    return {
        name: _words(recipe, recipe.stages[stage], variant, output) for name, stage, variant in _cells(recipe)
    }


def _cells(recipe: Recipe) -> Iterator[tuple[str, str, str | None]]:
    """Name, stage and variant of each step, after those that it needs."""
    called: dict[str, str] = {}
    for stage in recipe.order():
        if recipe.stages[stage].job in ALONE:
            yield stage, stage, None
        for variant in dict.fromkeys(recipe.variants_of(stage)):
            short = _short(variant)
            if (other := called.setdefault(short, variant)) != variant:
                raise ConfigError(
                    f"{other} and {variant} are both called {short}, the name of their results: rename a folder"
                )
            yield f"{stage}/{short}", stage, variant


def _step(recipe: Recipe, name: str, stage: str, variant: str | None, output: str) -> Step:
    found = recipe.stages[stage]
    group, words = found.group_of.get(variant or "", found.group), _words(recipe, found, variant, output)
    return Step(
        name,
        stage,
        variant,
        found.job,
        tuple(words),
        (),
        found.job == "compare",
        group,
        estimate(found, variant, recipe.groups[group]),
    )


def _words(recipe: Recipe, stage: StageConfig, variant: str | None, output: str) -> list[str]:
    words = [*_COMMANDS[stage.job], *_own_words(recipe, stage, variant, output)]
    words += [word for flag, value in stage.flags.items() for word in _flag(flag, value)]
    return words + [word for setting in stage.settings(variant) for word in ("--set", setting)]


_COMMANDS: dict[JobKind, tuple[str, ...]] = {
    "corpus": ("ray_jobs/build_corpus.py",),
    "evaluate": ("ray_jobs/evaluate.py",),
    "finetune": ("ray_jobs/finetune.py",),
    "compare": ("-m", "safe_r1.cli", "compare"),
}


def _own_words(recipe: Recipe, stage: StageConfig, variant: str | None, output: str) -> list[str]:
    if stage.job == "corpus":
        return ["--output", f"{output}/corpus"]
    if stage.job == "compare":
        return [f"{output}/runs/main", "--output", f"{output}/{COMPARISON}"]
    assert variant is not None
    if Path(variant).is_dir():
        variant = str(Path(variant).resolve())  # a job starts elsewhere
    if stage.job == "finetune":
        return ["--variant", variant, "--corpus", f"{output}/corpus", "--output", f"{output}/finetuned"]
    name = get_variant(variant).name
    model = f"{output}/finetuned/main/{name}/{name}-safe" if stage.models_of else variant
    benchmarks = [word for benchmark in stage.benchmarks for word in ("--benchmark", benchmark)]
    return ["--variant", model, *benchmarks, "--output", f"{output}/runs"]


def _flag(name: str, value: str | int | bool) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    return [f"--{name}", str(value)]


def _short(variant: str) -> str:
    """A variant's name: a hub id or folder without its slashes."""
    return get_variant(variant).name


def _needs(step: Step, stage: StageConfig, steps: dict[str, Step]) -> tuple[str, ...]:
    """The needed stages' steps: of the same variant where both go by variants, else all of them."""
    found = []
    for needed in needs_of(stage):
        of_stage = [each for each in steps.values() if each.stage == needed]
        same = [each for each in of_stage if each.variant == step.variant]
        found += same if step.variant and any(each.variant for each in of_stage) else of_stage
    return tuple(each.name for each in found)


def _check(recipe: Recipe, steps: dict[str, Step]) -> None:
    for step in steps.values():
        room = recipe.groups[step.group].room
        if step.units > room:
            raise ConfigError(
                f"{step.name} takes {step.units} GPUs and group {step.group} has {room}: raise its max_nodes"
            )
    total = sum(step.gpu_hours for step in steps.values())
    if recipe.budget_gpu_hours is not None and total > recipe.budget_gpu_hours:
        least = min((step.gpu_hours for step in steps.values() if step.gpu_hours), default=0.0)
        raise ConfigError(
            f"the plan takes {total:,.0f} GPU-hours and the budget is {recipe.budget_gpu_hours:,.0f} (the smallest job alone "
            f"takes {least:,.1f}): raise --budget-gpu-hours, or choose variants with --only"
        )
