"""Which attacks of a run are asked, and of which questions."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from safe_r1.attacks.choose import parse_attacks
from safe_r1.benchmarks import Benchmark, evaluate_schema
from safe_r1.benchmarks.attack_choice import attacked
from safe_r1.benchmarks.attacked import AttackedBenchmark
from safe_r1.benchmarks.chisafetybench import CHISAFETYBENCH_SAMPLE
from safe_r1.benchmarks.filing import DATED
from safe_r1.benchmarks.selection import select
from safe_r1.errors import ConfigError, DataError
from safe_r1.evaluation.attack_plan import choose, load_all
from safe_r1.evaluation.plan import make_plan
from safe_r1.metrics.strata import Population, Selection
from safe_r1.report.labels import benchmark_labels
from safe_r1.schema import Sample
from safe_r1.settings import load_config
from tests.unit.compare.runs import xstest_samples

ENDPOINT = "endpoint:http://127.0.0.1:9/v1#m"
SAMPLE = CHISAFETYBENCH_SAMPLE.name
RISKY = [sample for sample in CHISAFETYBENCH_SAMPLE.load() if sample.task == "refusal"]


def config_of(*attacks: str, **settings: Any) -> Any:
    given = {"variant": ENDPOINT, "benchmarks": (SAMPLE,), "attacks": attacks, **settings}
    return load_config(evaluate_schema(), None, [], **given)


def benchmarks_of(samples: Sequence[Sample], *attacks: str) -> dict[str, Benchmark]:
    base: Any = SimpleNamespace(name="mixed", load=lambda *_: list(samples), as_asked=lambda each, _: each)
    return attacked([base], attacks, 0)


def chosen_of(benchmarks: dict[str, Benchmark], config: Any) -> dict[str, Sequence[Sample]]:
    loaded = load_all(benchmarks, config, lambda each: each.load())
    return choose(loaded, benchmarks, config, lambda each: select(each, config.limit, 0, swap=False))


@pytest.mark.parametrize("limit", [*range(2, 24, 3), None])
def test_every_attacked_question_has_its_plain_one_with_a_weight(limit: int | None):
    # Of many questions one is in English, which some attacks leave out, and some are harmless.
    english = replace(RISKY[0], sample_id="english", messages=[{"role": "user", "content": "Why?"}])
    benchmarks = benchmarks_of([*RISKY, english, *xstest_samples(9)], "pinyin", "role", "base64")
    chosen = chosen_of(benchmarks, config_of("pinyin", "role", "base64", limit=limit))
    plain = chosen["mixed@plain"]
    selection = Selection.of(plain, Population.of(benchmarks["mixed@plain"].load()))
    ids = {sample.sample_id for sample in plain}
    for name, samples in chosen.items():
        assert {sample.sample_id for sample in samples} <= ids
        assert {sample.benchmark for sample in samples} == {name}
        assert all(selection.weight(sample) > 0 for sample in samples)
        Selection.of(samples, Population.of(benchmarks[name].load()))
    risky = [sample.sample_id for sample in plain if sample.task == "refusal"]
    assert [sample.sample_id for sample in chosen["mixed@role"]] == risky
    # An attack by its name alone asks the same.
    alone = {"mixed@role": benchmarks["mixed@role"]}
    assert chosen_of(alone, config_of(limit=limit))["mixed@role"] == chosen["mixed@role"]


def test_attacks_that_change_nothing(caplog: pytest.LogCaptureFixture):
    english = [replace(sample, messages=[{"role": "user", "content": "Why?"}]) for sample in RISKY]
    benchmarks = benchmarks_of(english, "zh-quick")
    with caplog.at_level("INFO"):
        chosen = chosen_of(benchmarks, config_of("zh-quick"))
    assert "mixed@pinyin" not in chosen
    assert "mixed@role" in chosen
    assert "mixed@pinyin is left out" in caplog.text
    with pytest.raises(
        DataError, match="mixed@pinyin: 42 questions to ask, of which the attack changes none"
    ):
        chosen_of(benchmarks, config_of("zh-quick,pinyin"))


@pytest.mark.parametrize("attack", ["role", "bon"])
@pytest.mark.parametrize("limit", [None, 10])
def test_a_named_attack_asks_the_benchmarks_that_it_fits(
    attack: str, limit: int | None, caplog: pytest.LogCaptureFixture
):
    # Both attacks ask risky questions alone, of which one of the two benchmarks has none.
    banks = ("filing-refuse", "filing-answer")
    with caplog.at_level("INFO"):
        plan = make_plan(config_of(attack, benchmarks=banks, limit=limit))
    assert list(plan.benchmarks) == [
        "filing-refuse@plain",
        f"filing-refuse@{attack}",
        "filing-answer@plain",
    ]
    assert f"filing-answer@{attack} is left out" in caplog.text
    for config in (
        config_of(attack, benchmarks=banks[1:], limit=limit),
        config_of(benchmarks=[f"{bank}@{attack}" for bank in banks], limit=limit),
    ):
        with pytest.raises(DataError, match=f"filing-answer@{attack}: "):
            make_plan(config)


def test_a_limit_leaves_out_a_named_attack_of_one_benchmark_alone(caplog: pytest.LogCaptureFixture):
    # Of the questions of one benchmark the limit chooses an English one, in which no sound is changed.
    english = [
        replace(RISKY[0], sample_id=f"english-{place}", messages=[{"role": "user", "content": "Why?"}])
        for place in range(500)
    ]
    bases: list[Any] = [
        SimpleNamespace(name=name, load=lambda *_, each=each: each, as_asked=lambda each, _: each)
        for name, each in (("chinese", RISKY), ("english", [*english, RISKY[0]]))
    ]
    config = config_of("pinyin", limit=1)
    with caplog.at_level("INFO"):
        chosen = chosen_of(attacked(bases, ("pinyin",), 0), config)
    assert list(chosen) == ["chinese@plain", "chinese@pinyin", "english@plain"]
    assert "english@pinyin is left out: it can ask none of the 1 questions" in caplog.text
    with pytest.raises(ConfigError, match="english@pinyin: it can ask none of the 1 questions"):
        chosen_of(attacked(bases[1:], ("pinyin",), 0), config)


@pytest.mark.parametrize(
    ("benchmark", "attacks", "settings", "error"),
    [
        (f"{SAMPLE}@answer-prefix", (), {}, "answer-prefix: it begins"),
        (f"{SAMPLE}@pinyin", (), {"variant": "given:other"}, "a file has answers"),
        (f"{SAMPLE}@zh-quick", (), {}, "names 5 attacks"),
        (f"{SAMPLE}@pinyin,role", (), {}, "names 2 attacks"),
        (f"{SAMPLE}@pinyin", ("role",), {}, "under an attack already"),
    ],
)
def test_attacks_in_a_benchmark_s_name(benchmark: str, attacks: Any, settings: Any, error: str):
    with pytest.raises(ConfigError, match=error):
        make_plan(config_of(*attacks, benchmarks=(benchmark,), **settings))


def test_blanks_in_a_combination():
    plan = make_plan(config_of(benchmarks=(f"{SAMPLE}@pinyin + role",)))
    [(name, benchmark)] = plan.benchmarks.items()
    assert isinstance(benchmark, AttackedBenchmark)
    assert name == f"{SAMPLE}@pinyin+role"
    assert [benchmark.attack] == parse_attacks("pinyin+role")


@pytest.mark.parametrize("attacks", [("plain",), ("plain,",), (" , plain",)])
def test_a_month_in_a_benchmark_s_name_is_no_attack(attacks: tuple[str, ...]):
    name = DATED[0]
    plan = make_plan(config_of(*attacks, benchmarks=(name,), limit=5))
    assert list(plan.benchmarks) == [f"{name}@plain"]
    labels = benchmark_labels(name, {}).names
    assert labels
    assert benchmark_labels(f"{name}@plain", {}).names == labels
