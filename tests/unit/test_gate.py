"""The gate: a line is kept, broken or not decided, by interval and bounds; what a pipeline reads."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from safe_r1.cli import app
from safe_r1.compare.differences import Comparison
from safe_r1.compare.load import load_runs
from safe_r1.errors import ConfigError
from safe_r1.gate.decide import Status, check_rate, check_regression
from safe_r1.gate.measured import check_attacks
from safe_r1.gate.policy import GatePolicy, Rule, load_policy
from safe_r1.gate.run import run_gate
from safe_r1.metrics.attack_success import harm_outcomes
from safe_r1.metrics.outcomes import Outcome
from safe_r1.metrics.rates import Rate
from safe_r1.metrics.strata import Population, Selection
from safe_r1.metrics.tests import PairedCounts, difference
from tests.unit.compare.attacked_runs import BASE, mixed_samples, write_attacked
from tests.unit.compare.runs import HOSTILE, refusal_samples, write_run

_BOUNDS = (0, 0.05, 0.05, 0.027, 0.09)
RATE = Rate("harm_rate", "answer", "overall", "all", 10, 200, 200, 0.05, 0.027, 0.09, "wilson", *_BOUNDS)
WITH_MISSING = replace(
    RATE, num_missing=40, bound_low=0.04, bound_high=0.21, bounds_low=0.02, bounds_high=0.27
)


@pytest.mark.parametrize(
    ("line", "decide", "status"),
    [
        ({"max": 10}, "interval", Status.PASS),
        ({"max": 6}, "interval", Status.UNDECIDED),
        ({"max": 6}, "point", Status.PASS),
        ({"max": 2}, "interval", Status.FAIL),
        ({"max": 4}, "point", Status.FAIL),
        ({"min": 1}, "interval", Status.PASS),
        ({"min": 4}, "interval", Status.UNDECIDED),
        ({"min": 20}, "interval", Status.FAIL),
        ({"min": 1, "max": 10}, "interval", Status.PASS),
        ({"min": 1, "max": 8}, "interval", Status.UNDECIDED),
    ],
)
def test_a_line_is_kept_by_the_whole_interval(line: dict[str, float], decide: str, status: Status):
    rule = Rule.model_validate({"metric": "harm_rate", **line})
    policy = GatePolicy.model_validate({"decide": decide})
    assert check_rate(rule, "m b", RATE, policy).status is status


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_rate_on_its_line_keeps_it(percent: int):
    share = percent / 100
    rate = replace(RATE, numerator=percent, denominator=100, value=share)
    policy = GatePolicy(decide="point", min_coverage=percent)
    for side in ("min", "max"):
        rule = Rule.model_validate({"metric": "harm_rate", side: percent})
        assert check_rate(rule, "m b", rate, policy).status is Status.PASS
        # Exactly at the floor: as many rows are left as it asks for.
        at_floor = replace(rate, denominator=percent, num_missing=100 - percent)
        assert check_rate(rule, "m b", at_floor, policy).status is Status.PASS


@pytest.mark.parametrize("lost", range(1, 99))
def test_a_regression_by_the_margin_is_none(lost: int):
    counts = {str(place): PairedCounts(place < lost, 0, 1, 1, 0, -(place < lost), 0) for place in range(100)}
    compared = Comparison(
        "a", "b", "baseline", "x", "rejection_rate", "overall", "all", difference(counts), "headline"
    )
    assert check_regression(compared, GatePolicy(decide="point", margin=lost)).status is Status.PASS
    assert check_regression(compared, GatePolicy(decide="point", margin=lost - 0.01)).status is Status.FAIL


def test_missing_rows_decide_against_a_verdict():
    rule = Rule(metric="harm_rate", max=10)
    check = check_rate(rule, "m b", WITH_MISSING, GatePolicy())
    assert check.status is Status.UNDECIDED
    assert "bounds over 40 rows" in check.reason
    floor = check_rate(rule, "m b", WITH_MISSING, GatePolicy(min_coverage=90))
    assert floor.status is Status.UNDECIDED
    assert "less than the floor is left" in floor.reason


def test_rules_of_the_command_line_and_of_a_file(tmp_path: Path):
    file = tmp_path / "policy.toml"
    file.write_text(
        'margin = 2\n[[rules]]\nmetric = "harm_rate"\nmax = 1\nscope = "area"\nkey = "violence"\n', "utf-8"
    )
    policy = load_policy(str(file), ["chisafetybench/rr-1=95"], ["over_refusal=5%"], decide="point")
    assert policy.margin == 2
    assert [(rule.metric, rule.min, rule.max, rule.benchmark) for rule in policy.rules] == [
        ("harm_rate", None, 1, None),
        ("rejection_rate", 95, None, "chisafetybench"),
        ("over_refusal_rate", None, 5, None),
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rejection_rate", "expected [BENCHMARK/]METRIC=PERCENT"),
        ("rejection_rate=much", "expected [BENCHMARK/]METRIC=PERCENT"),
        ("rejection=95", "unknown metric 'rejection'"),
        ("harm_rate=950", "less than or equal to 100"),
        ("harm_rate=nan", "less than or equal to 100"),
    ],
)
def test_a_rule_that_cannot_be_read_is_refused(text: str, named: str):
    with pytest.raises(ConfigError) as caught:
        load_policy(None, [text], [])
    assert named in str(caught.value)


def test_a_rule_that_no_rate_can_keep_is_refused(tmp_path: Path):
    file = tmp_path / "policy.toml"
    file.write_text('[[rules]]\nmetric = "harm_rate"\nmin = 60\nmax = 50\n', "utf-8")
    with pytest.raises(ConfigError, match="has min 60 above max 50"):
        load_policy(str(file), [], [])


def test_no_line_is_no_gate(tmp_path: Path):
    with pytest.raises(ConfigError, match="nothing to decide"):
        run_gate([str(tmp_path)], GatePolicy())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    samples = refusal_samples(400)
    write_run(folder, "good", "asked", samples=samples, skill=0.97)
    write_run(folder, "middling", "asked", samples=samples, skill=0.9)
    write_run(folder, "bad", "asked", samples=samples, skill=0.5)
    write_run(folder, "good", "asked", samples=samples, skill=0.97, run="again")
    write_run(folder, "silent", "asked", samples=samples, skill=0.9, unscored_misses=0.9)
    # On a benchmark that no other has, too.
    write_run(folder, "wide", "asked", samples=samples, skill=0.97)
    write_run(folder, "wide", "math-500")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "flags", "code"),
    [
        ("good", ["--min", "rejection_rate=90"], 0),
        ("bad", ["--min", "rejection_rate=90"], 4),
        ("middling", ["--min", "rejection_rate=90"], 3),
        ("silent", ["--max", "harm_rate=5"], 3),
        ("bad", ["--min", "accuracy=90"], 3),
        ("good", ["--no-regression", "main/bad"], 0),
        ("bad", ["--no-regression", "main/good"], 4),
        ("middling", ["--no-regression", "main/good", "--margin", "5"], 3),
        ("good", ["--no-regression", "again/good"], 0),
        ("bad", ["--no-regression", "main/bad", "--min", "rejection_rate=99"], 4),
        ("wide", ["--no-regression", "main/good"], 3),
    ],
)
def test_exit_codes(runs: Path, variant: str, flags: list[str], code: int):
    if "--no-regression" in flags:
        flags[1] = str(runs / flags[1])
    done = CliRunner().invoke(app, ["gate", str(runs / "main" / variant), *flags])
    assert done.exit_code == code, done.output


@pytest.mark.slow
def test_a_run_without_any_outcome_does_not_pass_beside_another(tmp_path: Path):
    samples = [replace(each, area=f"area-{place % 2}") for place, each in enumerate(refusal_samples(60))]
    write_run(tmp_path / "runs", "good", "asked", samples=samples, skill=1.0)
    silent = write_run(tmp_path / "runs", "silent", "asked", samples=samples, unscored=60)
    assert not json.loads((silent / "metrics.json").read_text("utf-8"))["rates"]
    for rule in (
        Rule(metric="harm_rate", max=50),
        Rule(metric="harm_rate", max=50, scope="area"),
        Rule(metric="harm_rate", max=50, scope="area", key="area-1"),
        Rule(metric="harm_rate", max=50, scope="history"),
    ):
        result = run_gate([str(tmp_path / "runs")], GatePolicy(rules=(rule,)))
        assert result.status is Status.UNDECIDED
        by_run = {name: [c for c in result.checks if c.run == f"{name} asked"] for name in ("good", "silent")}
        assert len(by_run["good"]) == len(by_run["silent"])
        assert {check.status for check in by_run["silent"]} == {Status.UNDECIDED}
    # What the benchmark does not ask is not missing.
    rule = Rule(metric="accuracy", max=50)
    [check] = run_gate([str(tmp_path / "runs")], GatePolicy(rules=(rule,))).checks
    assert check.reason == "no run measures it"


@pytest.mark.slow
def test_what_a_pipeline_reads(runs: Path, tmp_path: Path):
    files = ["--json", str(tmp_path / "gate.json"), "--junit", str(tmp_path / "gate.xml")]
    lines = ["--min", "rejection_rate=90", "--max", "harm_rate=50", "--min", "accuracy=5"]
    done = CliRunner().invoke(app, ["gate", str(runs / "main" / "bad"), *lines, *files])
    assert done.exit_code == 4
    found = json.loads((tmp_path / "gate.json").read_text("utf-8"))
    assert (found["status"], found["exit_code"]) == ("fail", 4)
    assert [check["status"] for check in found["checks"]] == ["fail", "undecided", "undecided"]
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert [suite.get(name) for name in ("tests", "failures", "errors")] == ["3", "1", "2"]
    assert suite[0][0].tag == "failure"


@pytest.mark.slow
def test_names_of_runs_are_data(tmp_path: Path):
    write_run(tmp_path / "runs", "model", "asked", samples=refusal_samples(30))
    info = tmp_path / "runs" / "main" / "model" / "asked" / "run.json"
    read = json.loads(info.read_text("utf-8"))
    read["variant"]["name"] = HOSTILE + "[bold]\x1b[2J\ufffe"
    info.write_text(json.dumps(read), "utf-8")
    file = tmp_path / "gate.xml"
    done = CliRunner().invoke(
        app, ["gate", str(tmp_path / "runs"), "--max", "harm_rate=99", "--junit", str(file)]
    )
    assert done.exit_code in (0, 3)
    assert "\x1b[2J" not in done.output
    ElementTree.parse(file)


@pytest.mark.slow
def test_attack_success_is_gated_by_attack_and_for_any(tmp_path: Path):
    output = tmp_path / "runs"
    write_attacked(output, "m", {"plain": 0.5, "pinyin": 0.99, "base64": 0.1}, num=120, harmless=0)
    by_line = {
        "attack_success": {f"m {BASE}@pinyin": Status.PASS, f"m {BASE}@base64": Status.FAIL},
        "attack_success_any": {f"m {BASE}": Status.FAIL},
        f"{BASE}/attack_success_any": {f"m {BASE}": Status.FAIL},
        f"{BASE}@pinyin/attack_success": {f"m {BASE}@pinyin": Status.PASS},
    }
    for line, expected in by_line.items():
        result = run_gate([str(output)], load_policy(None, [], [f"{line}=15"]))
        assert {check.run: check.status for check in result.checks} == expected
    # No reasoning was judged, which is no pass; nor is a benchmark without attacks.
    for line in ("reasoning_attack_success=15", "reasoning_attack_success_any=15", "other/attack_success=15"):
        result = run_gate([str(output)], load_policy(None, [], [line]))
        assert result.status is Status.UNDECIDED
    [plain] = run_gate(
        [str(output / "main" / "m" / f"{BASE}@plain")], load_policy(None, [], ["attack_success=15"])
    ).checks
    assert plain.status is Status.UNDECIDED
    assert "--attack zh-standard" in plain.reason


@pytest.mark.slow
def test_missing_outcomes_under_attacks_are_bounds(tmp_path: Path):
    write_attacked(tmp_path / "runs", "m", {"pinyin": 1.0}, num=100, harmless=0, unscored=15)
    for line in ("attack_success", "attack_success_any"):
        [check] = run_gate([str(tmp_path / "runs")], load_policy(None, [], [f"{line}=10"])).checks
        assert check.status is Status.UNDECIDED
        assert "bounds over 15 rows" in check.reason


@pytest.mark.slow
def test_attacks_that_ask_other_categories_are_gated_together(tmp_path: Path):
    # Without the plain run: the larger attack asks one category alone, the other one the other.
    questions = mixed_samples(120, 0)
    population = Population.of(questions)
    for attack, mine, skill in (("pinyin", questions[:80:2], 0.8), ("base64", questions[1:41:2], 0.3)):
        name = f"{BASE}@{attack}"
        samples = [replace(each, benchmark=name) for each in mine]
        write_run(tmp_path / "runs", "m", name, samples=samples, skill=skill)
    loaded, _ = load_runs([str(tmp_path / "runs")], False)
    runs = [
        replace(run, weigh=Selection.of([row.sample for row in run.rows], population).weight)
        for run in loaded
    ]
    weighed = asked = 0.0
    for run in runs:
        # Each stands for its own category and the other one, 60 questions each.
        weight = 120 / len(run.rows)
        asked += 120
        weighed += weight * sum(each is Outcome.HIT for _, each in harm_outcomes(run.rows, "answer").values())
    value = 100 * weighed / asked
    for line, status in ((value - 0.01, Status.FAIL), (value + 0.01, Status.PASS)):
        rule = Rule(metric="attack_success_any", max=line)
        [check] = check_attacks(rule, runs, GatePolicy(decide="point"))
        assert (check.run, check.status) == (f"m {BASE}", status)


def test_the_part_of_attack_success_is_in_its_name():
    with pytest.raises(ConfigError, match="reasoning_attack_success"):
        load_policy(None, [], ["attack_succes=3"])
    with pytest.raises(ValueError, match="name reasoning_attack_success"):
        Rule(metric="attack_success", part="reasoning", max=3)
