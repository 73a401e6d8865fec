import pytest

from safe_r1.campaign.estimate import Estimate
from safe_r1.campaign.graph import Step, make_steps
from safe_r1.campaign.plan_text import to_text
from safe_r1.campaign.recipe import CampaignRecipe, load_recipe
from safe_r1.campaign.simulate import Simulation, Span, simulate
from safe_r1.campaign.volume import peak_volume
from safe_r1.models.registry import DEFAULT_JUDGE, get_variant
from safe_r1.train.plan import plan_variant
from safe_r1.train.storage import VolumeUse
from tests.unit.campaign.test_recipe import SMALL


def simulation(*spans: tuple[str, float, float]) -> Simulation:
    made = tuple(Span(name, start, start, end, ()) for name, start, end in spans)
    return Simulation(made, 0.0, 0.0, (), 0.0, {}, {})


def step(name: str, job: str = "finetune", use: VolumeUse | None = None) -> Step:
    return Step(name, job, None, job, (), (), False, "train", Estimate(8, 1.0, "", volume=use))  # pyright: ignore[reportArgumentType]


def test_jobs_that_overlap_count_with_what_earlier_ones_left():
    use = VolumeUse(model=0, corpus=2, kept_checkpoints=30, pending_checkpoint=10, export=5)
    steps = {name: step(name, use=use) for name in ("one", "two", "three")}
    recipe = CampaignRecipe.model_validate(SMALL)
    found = peak_volume(recipe, steps, simulation(("one", 0, 1), ("two", 0.5, 3), ("three", 2, 4)))
    # One has left 35; two and three hold 45 each while they run.
    assert (found.results, found.running, found.corpus, found.at_hours) == (35, 90, 2, 2)
    assert found.steps == ("two", "three")
    assert found.total == 127


def test_models_count_once_and_exports_are_no_models():
    recipe = CampaignRecipe.model_validate(SMALL)
    steps = make_steps(recipe, "/out")
    found = peak_volume(recipe, steps, simulate(steps, recipe.groups))
    expected = {name: get_variant(name).weights_gib() for name in ("r1-distill-qwen-7b", "qwen2.5-math-7b")}
    assert found.models == pytest.approx(1.05 * sum(expected.values()))


def test_the_papers_volume_is_mostly_checkpoints_of_r1():
    recipe = load_recipe("paper")
    steps = make_steps(recipe, "/out")
    found = peak_volume(recipe, steps, simulate(steps, recipe.groups))
    r1 = plan_variant(get_variant("r1"))
    # Three that are kept, and one that is being written.
    assert 4 * r1.checkpoint_gib < found.running < 8 * r1.checkpoint_gib
    # R1 and its base in FP8, the 70B models and the judge in bf16, and the smaller ones.
    assert found.models > 1.05 * (2 * 671 + 2 * (2 * 70 + DEFAULT_JUDGE.params_b)) * 1e9 / 2**30
    assert f"volume     {found.total:,.0f} GiB" in to_text(recipe, steps)
