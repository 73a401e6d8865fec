"""A recipe with some of its variants alone: what ``--only`` leaves of it."""

from collections.abc import Sequence

from safe_r1.campaign.recipe import ALONE, Recipe, StageConfig, needs_of
from safe_r1.errors import ConfigError
from safe_r1.models.registry import get_variant


def choose_variants(recipe: Recipe, only: Sequence[str]) -> Recipe:
    """The recipe with the jobs of these variants, and those that run once and still serve a purpose.

    Args:
        recipe: The recipe.
        only: Its variants, by the names that it gives them.

    Raises:
        ConfigError: ``only`` names what is not there.
    """
    every = {variant for name in recipe.stages for variant in recipe.variants_of(name)}
    if unknown := sorted(set(only) - every):
        raise ConfigError(
            f"--only {', '.join(unknown)}: not in recipe {recipe.name}; there is: {', '.join(sorted(every))}"
        )
    results = _results(recipe, only)
    kept: dict[str, StageConfig] = {}
    for name in reversed(recipe.order()):
        stage = recipe.stages[name]
        if stage.job == "compare":
            is_kept = len(results) > 1
        elif stage.job in ALONE:
            is_kept = any(name in needs_of(each) for each in kept.values())
        else:
            is_kept = not set(only).isdisjoint(recipe.variants_of(name))
        if is_kept:
            kept[name] = stage
    return recipe.model_copy(
        update={
            "stages": {
                name: _chosen(kept[name], only, kept, results) for name in recipe.stages if name in kept
            }
        }
    )


def _results(recipe: Recipe, only: Sequence[str]) -> list[str]:
    """What their evaluations will be called in a comparison; two benchmarks of one model are one result."""
    found: dict[str, None] = {}
    for name in recipe.order():
        stage = recipe.stages[name]
        if stage.job == "evaluate":
            names = (get_variant(each).name for each in recipe.variants_of(name) if each in only)
            found |= {f"{each}-safe" if stage.models_of else each: None for each in names}
    return list(found)


def _chosen(
    stage: StageConfig, only: Sequence[str], kept: dict[str, StageConfig], results: list[str]
) -> StageConfig:
    changes: dict[str, object] = {
        "variants": tuple(each for each in stage.variants if each in only),
        "needs": tuple(name for name in stage.needs if name in kept),
    }
    if stage.job == "compare":
        # The first that was run counts: one of the recipe's own may lie in the folder from another call.
        changes["flags"] = stage.flags | {
            "baseline": ",".join(dict.fromkeys([str(stage.flags["baseline"]), *results]))
        }
    return stage.model_copy(update=changes)
