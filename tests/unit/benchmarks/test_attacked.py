"""A benchmark under an attack: the same questions, asked in another way."""

from types import SimpleNamespace
from typing import Any

import pytest

from safe_r1.benchmarks import evaluate_schema, get_benchmark, get_benchmarks
from safe_r1.benchmarks.attacked import AttackedBenchmark
from safe_r1.benchmarks.chisafetybench import CHISAFETYBENCH_SAMPLE
from safe_r1.errors import ConfigError
from safe_r1.evaluation import attack_plan as plans
from safe_r1.evaluation.plan import make_plan
from safe_r1.evaluation.units import Pending, request_of
from safe_r1.report.labels import benchmark_labels
from safe_r1.report.references import published_figures
from safe_r1.schema import Completion
from safe_r1.settings import load_config
from tests.unit.compare.runs import xstest_samples

ENDPOINT = "endpoint:http://127.0.0.1:9/v1#m"
NAME = CHISAFETYBENCH_SAMPLE.name
RISKY = [sample for sample in CHISAFETYBENCH_SAMPLE.load() if sample.task == "refusal"]


def config_of(*attacks: str, **settings: Any) -> Any:
    given = {"variant": "demo", "benchmarks": (NAME,), "attacks": attacks, **settings}
    return load_config(evaluate_schema(), None, [], **given)


def attacked(attack: str) -> AttackedBenchmark:
    found = get_benchmark(f"{NAME}@{attack}")
    assert isinstance(found, AttackedBenchmark)
    return found


def test_every_attack_and_the_plain_questions_are_benchmarks_of_their_own():
    found = get_benchmarks((NAME,), config_of("pinyin,role", "pinyin+role"))
    assert list(found) == [f"{NAME}@{attack}" for attack in ("plain", "pinyin", "role", "pinyin+role")]
    hashes = [benchmark.data_hash() for benchmark in found.values()]
    assert len({*hashes, CHISAFETYBENCH_SAMPLE.data_hash()}) == 5
    # Another seed draws otherwise.
    [_, seeded, *_] = get_benchmarks((NAME,), config_of("pinyin", generation__seed=5)).values()
    assert seeded.data_hash() != hashes[1]


@pytest.mark.parametrize("attack", ["plain", "pinyin", "role", "split-turns", "planted-history"])
def test_judges_and_reports_see_the_plain_question(attack: str):
    benchmark = attacked(attack)
    samples = benchmark.load()
    assert [sample.sample_id for sample in samples] == [sample.sample_id for sample in RISKY]
    for sample, plain in zip(samples, RISKY, strict=True):
        asked = request_of(benchmark, sample, 0, 64, 0)
        assert sample.messages == plain.messages
        assert (asked.messages == plain.messages) == (attack == "plain")
        assert asked.messages[-1]["role"] == "user"
        assert asked == request_of(benchmark, sample, 0, 64, 0)
        completion = Completion(sample.sample_id, "m", 0, 1, 1, "好", "想", "好", "stop", None)
        for part in ("answer", "reasoning"):
            assert Pending(sample, completion, part).item.messages == plain.messages


def test_what_is_begun_for_the_model():
    openings = {
        attack: request_of(attacked(attack), RISKY[0], 0, 64, 0).opening
        for attack in ("answer-prefix", "thought-prefill", "pinyin")
    }
    prefix, thought, nothing = openings.values()
    assert prefix is not None
    assert (prefix.thought, bool(prefix.answer)) == (None, True)
    assert thought is not None
    assert (bool(thought.thought), thought.answer) == (True, None)
    assert nothing is None


def test_harmless_questions_are_asked_in_other_writing_alone():
    base: Any = SimpleNamespace(name="mixed", load=lambda *_: [*RISKY[:2], *xstest_samples(3)])
    tasks = {
        attack: [sample.task for sample in AttackedBenchmark(base, attacked(attack).attack).load()]
        for attack in ("plain", "base64", "role")
    }
    assert tasks["plain"] == tasks["base64"] == ["refusal"] * 2 + ["over_refusal"] * 3
    assert tasks["role"] == ["refusal"] * 2


def test_names_and_published_figures():
    own_frame = f"{NAME}@a-frame-of-ones-own"
    assert benchmark_labels(own_frame, {}) == benchmark_labels(NAME, {})
    assert published_figures("chisafetybench") is not None
    assert published_figures("chisafetybench@pinyin") is None


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"attacks": ("pinyn",)}, "did you mean pinyin"),
        (
            {"attacks": ("answer-prefix",), "variant": "endpoint:http://127.0.0.1:9/v1#m"},
            "answer-prefix: it begins",
        ),
        ({"attacks": ("role",), "variant": "given:other"}, "--attack: a file has answers"),
        ({"attacks": ("role",), "benchmarks": ("gsm8k-of-nobody",)}, "unknown benchmark"),
    ],
)
def test_what_cannot_be_asked_is_one_line(settings: dict[str, Any], error: str):
    with pytest.raises(ConfigError, match=error) as found:
        make_plan(
            config_of(**settings)
            if "attacks" not in settings
            else config_of(*settings.pop("attacks"), **settings)
        )
    assert "\n" not in str(found.value)


def test_of_a_set_what_the_target_does_not_take_is_left_out(caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO", logger=plans.notices.name):
        plan = make_plan(config_of("zh-standard", variant=ENDPOINT))
    left_out = {"thought-prefill", "answer-prefix"}
    assert not left_out & {name.partition("@")[2] for name in plan.samples}
    assert len(plan.samples) == 1 + 20 - len(left_out)
    assert all(any(name in line for line in caplog.messages) for name in left_out)
