"""A recipe reduced to some of its variants: the flag ``--only``."""

from collections.abc import Sequence

from safe_r1.campaign.recipe import RUN_ONCE, CampaignRecipe, StageConfig
from safe_r1.errors import ConfigError
from safe_r1.models.registry import get_variant


def select_variants(recipe: CampaignRecipe, only: Sequence[str]) -> CampaignRecipe:
    """The recipe with the jobs of these variants, and those jobs that run once and still serve a purpose.

    Args:
        recipe: The recipe.
        only: Its variants, by the names that it gives them.

    Raises:
        ConfigError: ``only`` names an unknown variant.
    """
    known = {variant for name in recipe.stages for variant in recipe.variants_of(name)}
    if unknown := sorted(set(only) - known):
        raise ConfigError(
            f"--only {', '.join(unknown)}: not in recipe {recipe.name}; there is: {', '.join(sorted(known))}"
        )
    results = _result_names(recipe, only)
    kept: dict[str, StageConfig] = {}
    # From the last stage backwards: a corpus is built only for a stage that is kept.
    for name in reversed(recipe.order()):
        stage = recipe.stages[name]
        if stage.job == "compare":
            is_kept = len(results) > 1
        elif stage.job in RUN_ONCE:
            is_kept = any(name in each.dependencies for each in kept.values())
        else:
            is_kept = not set(only).isdisjoint(recipe.variants_of(name))
        if is_kept:
            kept[name] = stage
    stages = {name: _reduce(kept[name], only, kept, results) for name in recipe.stages if name in kept}
    return recipe.model_copy(update={"stages": stages})


def _result_names(recipe: CampaignRecipe, only: Sequence[str]) -> list[str]:
    """Names of their evaluations in a comparison; several benchmarks of one model are one result."""
    found: dict[str, None] = {}
    for name in recipe.order():
        stage = recipe.stages[name]
        if stage.job == "evaluate":
            names = (get_variant(each).name for each in recipe.variants_of(name) if each in only)
            found |= {f"{each}-safe" if stage.models_of else each: None for each in names}
    return list(found)


def _reduce(
    stage: StageConfig, only: Sequence[str], kept: dict[str, StageConfig], results: list[str]
) -> StageConfig:
    changes: dict[str, object] = {
        "variants": tuple(each for each in stage.variants if each in only),
        "needs": tuple(name for name in stage.needs if name in kept),
    }
    if stage.job == "compare":
        # The first baseline with a result is taken; the recipe's own may have been run by an earlier call.
        baselines = dict.fromkeys([str(stage.flags["baseline"]), *results])
        changes["flags"] = stage.flags | {"baseline": ",".join(baselines)}
    return stage.model_copy(update=changes)
