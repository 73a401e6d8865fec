from pathlib import Path

import pytest

from safe_r1.campaign import start
from safe_r1.campaign.graph import Step, make_steps
from safe_r1.campaign.recipe import CampaignRecipe, load_recipe
from safe_r1.errors import ConfigError, RunConflictError
from tests.unit.campaign.test_recipe import small

SEVEN, BASE = "r1-distill-qwen-7b", "qwen2.5-math-7b"
FOURTEEN = "r1-distill-qwen-14b"


def baselines(step: Step) -> list[str]:
    return step.argv[step.argv.index("--baseline") + 1].split(",")


def test_one_variant_of_the_paper_is_compared_with_what_it_was_before():
    steps = make_steps(load_recipe("paper"), "/out", [FOURTEEN])
    stages = ("evaluate", "reasoning", "code", "finetune", "evaluate-after", "reasoning-after", "code-after")
    assert set(steps) == {"corpus", "compare", *(f"{stage}/{FOURTEEN}" for stage in stages)}
    # The recipe's own come first: one of them may have been run before, into the same folder.
    assert baselines(steps["compare"]) == [
        "r1",
        "r1-distill-llama-70b",
        "r1-distill-qwen-32b",
        "r1-distill-qwen-7b",
        FOURTEEN,
        f"{FOURTEEN}-safe",
    ]
    assert steps[f"evaluate-after/{FOURTEEN}"].needs == (f"finetune/{FOURTEEN}",)
    assert steps[f"evaluate-after/{FOURTEEN}"].argv[2] == f"/out/finetuned/main/{FOURTEEN}/{FOURTEEN}-safe"


def test_no_corpus_is_built_for_nobody_and_one_result_is_not_compared():
    paper = load_recipe("paper")
    assert list(make_steps(paper, "/out", ["qwen2.5-14b"])) == ["evaluate/qwen2.5-14b"]
    two = make_steps(paper, "/out", ["qwen2.5-14b", "qwen2.5-32b"])
    assert set(two) == {"evaluate/qwen2.5-14b", "evaluate/qwen2.5-32b", "compare"}
    assert two["compare"].needs == ("evaluate/qwen2.5-14b", "evaluate/qwen2.5-32b")
    # What is measured twice of one model is one result.
    recipe = small(
        stages__reasoning={"job": "evaluate", "group": "eval", "variants": [BASE], "benchmarks": ["math-500"]}
    )
    assert set(make_steps(recipe, "/out", [BASE])) == {f"evaluate/{BASE}", f"reasoning/{BASE}"}


def test_all_variants_are_the_whole_recipe():
    paper = load_recipe("paper")
    every = {variant for stage in paper.stages for variant in paper.variants_of(stage)}
    assert make_steps(paper, "/out", sorted(every)).keys() == make_steps(paper, "/out").keys()


def test_a_variant_that_is_not_there():
    with pytest.raises(
        ConfigError, match=r"--only llama: not in recipe small; there is: qwen2.5-math-7b, r1-distill-qwen-7b"
    ):
        make_steps(small(), "/out", ["llama"])


def test_the_folder_goes_on_with_other_variants_and_belongs_to_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(start, "_find_server", lambda: start.JobsServer("http://nowhere", None, "python"))
    monkeypatch.setattr(start, "RayJobs", lambda *_: None)

    def begin(recipe: CampaignRecipe, *only: str) -> set[str]:
        return set(start.open_campaign(recipe, make_steps(recipe, str(tmp_path), only), str(tmp_path)).steps)

    recipe = small(groups__eval__max_nodes=1)
    assert begin(recipe, BASE) == {f"evaluate/{BASE}"}
    assert len(begin(recipe, SEVEN)) == 5
    assert len(begin(recipe.model_copy(update={"budget_gpu_hours": 900.0}))) == 6
    with pytest.raises(RunConflictError, match=f"evaluate/{SEVEN}"):
        begin(small(stages__evaluate__flags={"limit": 20}), BASE)
