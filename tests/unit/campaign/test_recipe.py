import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safe_r1.benchmarks import names, require_files
from safe_r1.campaign.estimate import Estimate
from safe_r1.campaign.graph import make_steps
from safe_r1.campaign.recipe import CampaignRecipe, load_recipe
from safe_r1.campaign.start import require_questions
from safe_r1.campaign.view import campaign_folder
from safe_r1.config import EngineConfig
from safe_r1.errors import ConfigError, DataError
from safe_r1.inference.engine import engine_arguments
from safe_r1.models.gpus import get_gpu
from safe_r1.models.registry import get_variant

SMALL: dict[str, Any] = {
    "name": "small",
    "groups": {
        "eval": {
            "gpu": "h100-80",
            "max_nodes": 2,
            "usd_per_gpu_hour": 2.0,
            "labels": {"safe-r1/group": "eval"},
        },
        "train": {"gpu": "h100-80", "max_nodes": 1},
        "cpu": {"max_nodes": 1},
    },
    "stages": {
        "corpus": {"job": "corpus", "group": "cpu", "flags": {"recipe": "seeds"}},
        "evaluate": {
            "job": "evaluate",
            "group": "eval",
            "variants": ["r1-distill-qwen-7b", "qwen2.5-math-7b"],
            "benchmarks": ["chisafetybench"],
            "flags": {"limit": 10, "swap-options": True},
            "set": ["engine.device=gpu"],
        },
        "finetune": {
            "job": "finetune",
            "group": "train",
            "needs": ["corpus"],
            "variants": ["r1-distill-qwen-7b"],
        },
        "evaluate-after": {
            "job": "evaluate",
            "group": "eval",
            "models_of": "finetune",
            "benchmarks": ["chisafetybench"],
        },
        "compare": {
            "job": "compare",
            "group": "cpu",
            "needs": ["evaluate", "evaluate-after"],
            "flags": {"baseline": "x"},
        },
    },
}


def small(**changes: Any) -> CampaignRecipe:
    """The recipe with some values of it changed, by their dotted names with ``__`` for the dot."""
    tree = tomllib.loads("")
    tree |= {name: _copy(value) for name, value in SMALL.items()}
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return CampaignRecipe.model_validate(tree)


def _copy(value: Any) -> Any:
    return {name: _copy(each) for name, each in value.items()} if isinstance(value, dict) else value


def test_one_step_for_each_stage_and_variant_with_its_command():
    steps = make_steps(small(), "/out")
    assert list(steps)[-1] == "compare"
    assert set(steps) == {
        "corpus",
        "evaluate/r1-distill-qwen-7b",
        "evaluate/qwen2.5-math-7b",
        "finetune/r1-distill-qwen-7b",
        "evaluate-after/r1-distill-qwen-7b",
        "compare",
    }
    assert " ".join(steps["evaluate/qwen2.5-math-7b"].argv) == (
        "ray_jobs/evaluate.py --variant qwen2.5-math-7b --benchmark chisafetybench --output /out/runs "
        "--limit 10 --swap-options --set engine.device=gpu"
    )
    after = steps["evaluate-after/r1-distill-qwen-7b"]
    assert after.argv[2] == "/out/finetuned/main/r1-distill-qwen-7b/r1-distill-qwen-7b-safe"
    assert after.needs == ("finetune/r1-distill-qwen-7b",)
    assert steps["finetune/r1-distill-qwen-7b"].needs == ("corpus",)
    assert len(steps["compare"].needs) == 3


def test_every_step_stands_after_what_it_needs():
    seen: set[str] = set()
    for step in make_steps(load_recipe("paper"), "/out").values():
        assert seen.issuperset(step.needs)
        seen.add(step.name)


def test_the_paper_is_56_jobs_and_two_that_run_once():
    steps = make_steps(load_recipe("paper"), "/out")
    assert len(steps) == 14 + 7 * 6 + 2
    assert steps["corpus"].estimate.gpus == 16
    assert steps["finetune/r1"].estimate.gpus == 64
    assert steps["evaluate/r1"].group == "gpu-eval-large"


def test_a_fine_tuned_model_is_planned_as_it_is_exported():
    steps = make_steps(load_recipe("paper"), "/out")
    # Eight GPUs hold R1's FP8 weights, and two nodes its export in bf16.
    assert [steps[f"{stage}/r1"].estimate.gpus for stage in ("evaluate", "reasoning", "code")] == [8, 8, 8]
    after = ("evaluate-after", "reasoning-after", "code-after")
    assert [steps[f"{stage}/r1"].estimate.gpus for stage in after] == [16, 16, 16]
    dense = [name for name in steps if name.startswith("evaluate-after/") and not name.endswith("/r1")]
    assert len(dense) == 6
    assert all(steps[name].estimate.gpus == steps[name.replace("-after", "")].estimate.gpus for name in dense)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: small(stages__corpus__needs=["compare"]), "wait for each other: .*corpus → .*compare"),
        (lambda: small(stages__corpus__group="nowhere"), "no group 'nowhere'; there is: eval, train, cpu"),
        (lambda: small(stages__finetune__needs=["corpsu"]), "needs 'corpsu'"),
        (lambda: small(stages__evaluate__variants=["r1-distil-qwen-7b"]), "did you mean r1-distill-qwen-7b"),
        (lambda: small(stages__evaluate__benchmarks=["chisafety"]), "chisafetybench"),
        (lambda: small(groups__eval__gpu="h100"), "unknown GPU 'h100'"),
        (lambda: small(stages__corpus__variants=["demo"]), "runs once"),
        (lambda: small(stages__finetune__variants=[]), "need either variants or models_of"),
        (lambda: small(stages__compare__flags={}), "baseline"),
        (lambda: small(stages__evaluate__flags={"judge": "lexikon"}), "unknown judge 'lexikon'.*lexicon"),
        (lambda: small(stages__evaluate__set=["judge.kind=lexikon"]), "unknown judge 'lexikon'"),
        (lambda: small(stages__evaluate__set_of={"r1": ["a=1"]}), "evaluate: 'r1' is none of its variants: "),
        (
            lambda: small(stages__finetune__group_of={"r1": "eval"}),
            "finetune: 'r1' is none of its variants: ",
        ),
    ],
)
def test_a_recipe_that_does_not_hang_together_is_refused(change: Callable[[], Any], said: str):
    with pytest.raises(ValueError, match=said):
        change()


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (lambda: small(stages__evaluate__variants=["r1"]), "r1 needs 78 GiB of weights on each of 8 GPUs"),
        (
            lambda: small(stages__finetune__variants=["r1-distill-llama-70b"]),
            "takes 32 GPUs and group train has 8",
        ),
        (lambda: small(stages__finetune__variants=["r1"]), "too large for 1 nodes of h100-80"),
        (lambda: small(budget_gpu_hours=1), r"takes [0-9]+ GPU-hours and the budget is 1 "),
    ],
)
def test_what_can_never_run_is_refused_before_anything_is_submitted(
    recipe: Callable[[], CampaignRecipe], said: str
):
    with pytest.raises(ConfigError, match=said):
        make_steps(recipe(), "/out")


def test_every_benchmark_has_an_estimate_and_a_limit_makes_it_smaller():
    for name in names():
        estimate = make_steps(small(stages__evaluate__benchmarks=[name], stages__evaluate__flags={}), "/out")
        assert estimate["evaluate/qwen2.5-math-7b"].estimate.hours > 0
    whole, part = (
        make_steps(small(stages__evaluate__flags=flags), "/out")["evaluate/qwen2.5-math-7b"].estimate
        for flags in ({}, {"limit": 100})
    )
    assert part.basis == "70,000 tokens"
    assert whole.basis == "1,491,000 tokens"
    assert part.hours < whole.hours
    judged = make_steps(small(stages__evaluate__flags={"judge": "llm"}), "/out")[
        "evaluate/qwen2.5-math-7b"
    ].estimate
    assert (whole.gpus, judged.gpus) == (1, 4)
    small_judge = small(stages__evaluate__flags={"judge": "llm"}, stages__evaluate__set=["judge.model=demo"])
    assert make_steps(small_judge, "/out")["evaluate/qwen2.5-math-7b"].estimate.gpus == 1


def test_two_engines_take_twice_the_gpus_and_half_the_time():
    name = "evaluate/qwen2.5-math-7b"
    # With fewer rows than slots, a second engine would have nothing to do.
    flags = {"limit": 2000}
    replicas = {"qwen2.5-math-7b": ["engine.replicas=2"]}
    one = make_steps(small(stages__evaluate__flags=flags), "/out")[name]
    two = make_steps(small(stages__evaluate__flags=flags, stages__evaluate__set_of=replicas), "/out")
    assert two[name].argv[-2:] == ("--set", "engine.replicas=2")
    assert "engine.replicas=2" not in two["evaluate/r1-distill-qwen-7b"].argv
    assert two[name].estimate.gpus == 2 * one.estimate.gpus
    assert one.estimate.hours / 2 < two[name].estimate.hours < one.estimate.hours
    assert one.estimate.tokens_per_s is not None
    assert two[name].estimate.tokens_per_s == pytest.approx(2 * one.estimate.tokens_per_s, rel=0.15)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"set": ["engine.replicas=0"]}, r"engine\.replicas '0': expected a whole number of at least 1"),
        ({"set": ["engine.replicas=two"]}, r"engine\.replicas 'two': "),
        ({"set": ["judge.engine.replicas="], "flags": {"judge": "llm"}}, r"judge\.engine\.replicas '': "),
        ({"flags": {"limit": "all"}}, "limit 'all': "),
        ({"flags": {"limit": True}}, "limit True: "),
        ({"flags": {"repeats": 0}}, "repeats 0: "),
    ],
)
def test_a_value_that_is_no_number_is_refused_in_one_line(changes: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=f"^{said}"):
        make_steps(small(**{f"stages__evaluate__{name}": value for name, value in changes.items()}), "/out")


def test_two_models_of_one_name_are_refused(tmp_path: Path):
    folders = [tmp_path / run / "checkpoint-500" for run in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}", "utf-8")
    a, b = map(str, folders)
    said = f"{a} and {b} are both called checkpoint-500, .*: rename a folder"
    with pytest.raises(ConfigError, match=said):
        make_steps(small(stages__evaluate__variants=[a, b], groups__eval__gpu=None), "/out")
    assert "evaluate/checkpoint-500" in make_steps(
        small(stages__evaluate__variants=[a, a], groups__eval__gpu=None), "/out"
    )


def test_recipes_by_name(tmp_path: Path):
    with pytest.raises(ConfigError, match="known are demo, paper"):
        load_recipe("papers")
    with pytest.raises(ConfigError, match="settings file"):
        load_recipe(str(tmp_path / "none.toml"))


def test_own_questions_are_a_benchmark_of_a_campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.csv").write_text("问题\n" + "".join(f"第{n}问？\n" for n in range(50)), "utf-8")
    changes = {"stages__evaluate__benchmarks": ["q.csv"], "stages__evaluate__set": ["benchmark.task=refusal"]}
    steps = make_steps(small(**changes), "out")
    step = steps["evaluate/r1-distill-qwen-7b"]
    # A job starts in another folder.
    assert str(tmp_path / "q.csv") in step.argv
    require_files(["q.csv"])
    # A campaign whose evaluations are finished needs the file no more.
    (tmp_path / "q.csv").unlink()
    with pytest.raises(DataError, match="no file at"):
        require_questions(small(**changes), str(tmp_path / "new"))
    campaign_folder(str(tmp_path / "out")).open({}, {}, name="campaign.json")
    require_questions(small(**changes), str(tmp_path / "out"))
    again = make_steps(small(**changes), "out")
    assert again["evaluate/r1-distill-qwen-7b"].argv == step.argv
    with pytest.raises(DataError, match="no file at"):
        require_files(["q.csv"])


def test_the_plan_has_the_engines_own_number_of_sequences():
    """It once knew neither an engine's settings nor the length of its sequences."""

    def seqs(*settings: str) -> int | None:
        recipe = small(stages__evaluate__set=settings)
        return make_steps(recipe, "/out")["evaluate/r1-distill-qwen-7b"].estimate.max_num_seqs

    variant = get_variant("r1-distill-qwen-7b")
    for tokens in (2000, 10_000):
        engine = EngineConfig(tokens_per_sequence=tokens, gpu_memory_gib=get_gpu("h100-80").memory_gib)
        expected = engine_arguments(variant, engine, "gpu")["max_num_seqs"]
        assert seqs(f"engine.tokens_per_sequence={tokens}") == expected
    assert seqs("engine.max_num_seqs=7") == 7
    two = make_steps(small(stages__evaluate__set=["engine.tensor_parallel_size=2"]), "/out")
    assert two["evaluate/r1-distill-qwen-7b"].estimate.gpus == 2
    with pytest.raises(ConfigError, match="cannot be divided evenly among 3 GPUs"):
        make_steps(small(stages__evaluate__set=["engine.tensor_parallel_size=3"]), "/out")


def test_the_plan_is_the_simulations():
    """Hours once followed from the GPU's peak alone, not from the room for keys and values or the tail."""

    def planned(benchmark: str, *settings: str, **flags: Any) -> Estimate:
        recipe = small(
            stages__evaluate__benchmarks=[benchmark],
            stages__evaluate__flags=flags,
            stages__evaluate__set=settings,
            stages__evaluate__variants=["r1-distill-qwen-14b"],
        )
        return make_steps(recipe, "/out")["evaluate/r1-distill-qwen-14b"].estimate

    # With twice the GPUs, there is more than twice the room beside the weights.
    one, four = (planned("livecodebench", f"engine.tensor_parallel_size={size}") for size in (1, 4))
    assert one.tokens_per_s is not None
    assert four.tokens_per_s is not None
    assert four.tokens_per_s > 4.5 * one.tokens_per_s
    assert four.gpus * four.hours < one.gpus * one.hours
    # The same tokens in fewer, longer rows end later: the last ones are alone.
    long, short = planned("livecodebench", repeats=1, limit=40), planned("chisafetybench", limit=571)
    assert long.basis == "400,000 tokens"
    assert short.basis == "399,700 tokens"
    assert long.hours > short.hours


def test_attacks_are_asked_and_planned(tmp_path: Path):
    plain = CampaignRecipe.model_validate(SMALL)
    stage = SMALL["stages"]["evaluate"] | {"attacks": ["pinyin, role", "base64", "own.toml"]}
    (tmp_path / "own.toml").write_text('attacks = ["pinyin+role"]\n', "utf-8")
    stage["attacks"][-1] = str(tmp_path / "own.toml")
    attacked = CampaignRecipe.model_validate(SMALL | {"stages": SMALL["stages"] | {"evaluate": stage}})
    name = "evaluate/r1-distill-qwen-7b"
    before, after = (make_steps(recipe, "/out")[name] for recipe in (plain, attacked))
    given = [after.argv[place + 1] for place, each in enumerate(after.argv) if each == "--attack"]
    assert given == ["pinyin", "role", "base64", str(tmp_path / "own.toml")]
    # As they are, and under four attacks.
    tokens = [int(step.estimate.basis.split()[0].replace(",", "")) for step in (before, after)]
    assert tokens[1] == 5 * tokens[0]
    assert attacked.stages["evaluate"].runs == [
        f"chisafetybench@{attack}" for attack in ("plain", "pinyin", "role", "base64", "pinyin+role")
    ]
    assert plain.stages["evaluate"].runs == ["chisafetybench"]


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("evaluate", {"attacks": ["pinying"]}, "pinying"),
        ("finetune", {"attacks": ["pinyin"]}, "takes no attacks"),
    ],
)
def test_attacks_that_do_not_fit(stage: str, change: dict[str, Any], message: str):
    stages = SMALL["stages"] | {stage: SMALL["stages"][stage] | change}
    with pytest.raises(ValueError, match=message):
        CampaignRecipe.model_validate(SMALL | {"stages": stages})


def test_the_recipe_of_attacks_is_planned():
    steps = make_steps(load_recipe("attacks"), "/out")
    asked = [step for step in steps.values() if step.job == "evaluate"]
    assert len(asked) == 14
    assert all("zh-standard" in step.argv for step in asked)


def test_attacks_that_adapt_are_runs_of_their_own():
    stage = SMALL["stages"]["evaluate"] | {"attacks": ["pinyin,bon"]}
    recipe = CampaignRecipe.model_validate(SMALL | {"stages": SMALL["stages"] | {"evaluate": stage}})
    assert recipe.stages["evaluate"].runs == [f"chisafetybench@{name}" for name in ("plain", "pinyin", "bon")]
