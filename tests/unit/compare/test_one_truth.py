"""A comparison speaks of one set of rows, and says what it does not compare."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from safe_r1.compare.run import compare
from safe_r1.errors import DataError
from safe_r1.evaluation.publish import rewrite_report
from safe_r1.gate.decide import Status
from safe_r1.gate.policy import GatePolicy, load_policy
from safe_r1.gate.run import run_gate
from safe_r1.metrics.rates import find_rate, read_rates
from safe_r1.metrics.strata import Population
from safe_r1.report.cells import is_formula_like, text_of_csv
from tests.unit.compare.runs import label_all, math_samples, refusal_samples, write_run, xstest_samples

pytestmark = pytest.mark.slow


def compared(runs: Path) -> object:
    return compare([str(runs)], "a", str(runs.parent / "report")).data.comparisons


def gated(runs: Path) -> object:
    return run_gate([str(runs / "main" / "b")], load_policy(None, ["rr-1=50"], [])).checks


@pytest.mark.parametrize("call", [compared, gated])
def test_rates_of_rows_that_were_edited_since_are_refused(tmp_path: Path, call: Callable[[Path], object]):
    runs = tmp_path / "runs"
    for variant in ("a", "b"):
        run = write_run(runs, variant, "asked", samples=refusal_samples(40))
        rewrite_report(str(run))
    assert call(runs)
    label_all(run, "直接拒绝")
    with pytest.raises(DataError, match="run safe-r1 report on it first"):
        call(runs)
    rewrite_report(str(run))
    assert call(runs)


def test_what_a_judge_cannot_tell_is_not_compared_and_not_called_so(tmp_path: Path):
    runs = tmp_path / "runs"
    for variant, skill in (("a", 0.4), ("b", 0.9)):
        write_run(runs, variant, "xstest", skill=skill)
    report = compare([str(runs)], "a", str(tmp_path / "report"))
    # The lexicon cannot tell a refusal in part from one as a whole.
    metrics = {each.metric for each in report.data.comparisons}
    assert metrics == {"over_refusal_rate", "unsafe_refusal_rate", "unsafe_compliance_rate"}
    markdown = (tmp_path / "report" / "report.md").read_text("utf-8")
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    table = (tmp_path / "report" / "tables" / "over-refusal.tex").read_text("utf-8")
    for text in (report.to_text(), markdown, page, table):
        assert "Unsafe prompts refused, full or partial" in text
        assert "refused in part" not in text
    policy = load_policy(None, ["unsafe_partial_refusal_rate=0"], [])
    [check] = run_gate([str(runs / "main" / "b")], policy).checks
    assert check.status is Status.UNDECIDED
    result = run_gate([str(runs / "main" / "b")], GatePolicy(), str(runs / "main" / "a"))
    assert not any("partial" in each.name for each in result.checks)


def test_columns_of_several_benchmarks_name_theirs(tmp_path: Path):
    for variant in ("a", "b"):
        for benchmark in ("xstest", "asked"):
            write_run(tmp_path / "runs", variant, benchmark, samples=xstest_samples())
    report = compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"))
    [table] = report.data.tables
    names = [column.name.en for column in table.columns]
    assert len(set(names)) == len(names) == 6


@pytest.mark.parametrize("name", ["=1+1", " =1+1", "＝1+1", "[2ex]", "*", "a^b", "<x>|\\{}~%&#_$"])
def test_tables_take_names_as_texts(tmp_path: Path, name: str):
    before = refusal_samples(40)
    write_run(tmp_path / "runs", "a", "asked", samples=before, skill=0.1)
    run = write_run(tmp_path / "runs", "b", "asked", samples=before, skill=0.9, unscored=4)
    info = json.loads((run / "run.json").read_text("utf-8"))
    info["variant"]["name"] = name
    (run / "run.json").write_text(json.dumps(info), "utf-8")
    compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"))
    latex = (tmp_path / "report" / "tables" / "asked-rejection_rate.tex").read_text("utf-8")
    row = latex.splitlines()[6]
    shown = row.partition(" & ")[0]
    assert shown[0] not in "[*"
    assert not re.search(r"(?<!\\)[&%$#_^~<>|]", shown)
    [rate] = [
        each for each in csv.DictReader(_lines(tmp_path, "rejection_rate")) if each["scope"] == "overall"
    ][1:]
    low, high = (f"{100 * float(rate[end]):.1f}" for end in ("bound_low", "bound_high"))
    assert int(rate["num_missing"]) == 4
    assert f"$^*$ ({low}--{high}) &" in row
    assert text_of_csv(rate["variant"]) == name
    assert not is_formula_like(rate["variant"])


def _lines(folder: Path, metric: str) -> list[str]:
    return (folder / "report" / "tables" / f"asked-{metric}.csv").read_text("utf-8").splitlines()


def test_a_difference_from_a_selection_is_the_same_in_both_directions(tmp_path: Path):
    samples = [
        replace(each, category=("common", "rare")[place % 10 == 0])
        for place, each in enumerate(refusal_samples(200))
    ]
    chosen = samples[::10] + [each for each in samples[:33] if each.category == "common"]
    write_run(tmp_path / "runs", "whole", "asked", samples=samples, skill=0.3)
    some = write_run(tmp_path / "runs", "some", "asked", samples=chosen, skill=0.8)
    (some / "population.json").write_text(json.dumps(Population.of(samples).to_json()), "utf-8")
    found = {}
    for baseline in ("whole", "some"):
        report = compare([str(tmp_path / "runs")], baseline, str(tmp_path / "report"), allow_mismatch=True)
        [each] = [
            each.difference
            for each in report.data.comparisons
            if (each.metric, each.scope) == ("rejection_rate", "overall")
        ]
        found[baseline] = each
    there, back = found["whole"], found["some"]
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert there.p_value == back.p_value
    assert there.second == pytest.approx(_rate(some))


def _rate(run: Path) -> float:
    rewrite_report(str(run))
    rate = find_rate(read_rates(json.loads((run / "metrics.json").read_text("utf-8"))), "rejection_rate")
    assert rate
    return rate.value


def test_a_metric_without_any_pair_is_told_and_not_passed(tmp_path: Path):
    mixed = [*refusal_samples(40), *math_samples(40)]
    write_run(tmp_path / "runs", "a", "asked", samples=mixed, skill=0.5)
    write_run(tmp_path / "runs", "b", "asked", samples=mixed, skill=0.5, unscored=40)
    report = compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"))
    assert {each.metric for each in report.data.comparisons} == {"pass_at_1"}
    told = "a → b on asked: no completion has an outcome for both in Rejection rate RR-1"
    assert told in report.to_text()
    assert told in (tmp_path / "report" / "report.md").read_text("utf-8")
    assert told in (tmp_path / "report" / "report.html").read_text("utf-8")
    main = tmp_path / "runs" / "main"
    result = run_gate([str(main / "b")], GatePolicy(decide="point"), str(main / "a"))
    assert result.status is Status.UNDECIDED
    statuses = {each.name.partition(" ")[0]: each.status for each in result.checks}
    assert statuses == {
        "pass_at_1": Status.PASS,
        **dict.fromkeys(("rejection_rate", "responsible_rate", "harm_rate"), Status.UNDECIDED),
    }


def test_a_comparison_of_selections_says_so_first(tmp_path: Path):
    samples = refusal_samples(200)
    for variant, skill in (("a", 0.3), ("b", 0.8)):
        run = write_run(tmp_path / "runs", variant, "asked", samples=samples[:60], skill=skill)
        (run / "population.json").write_text(json.dumps(Population.of(samples).to_json()), "utf-8")
        rewrite_report(str(run))
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    metrics["counts"]["refusal"]["num_cut"] = 50
    (run / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    report = compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"))
    written = [(tmp_path / "report" / name).read_text("utf-8") for name in ("report.md", "report.html")]
    for text in (report.to_text(), *written):
        first = text.partition("Findings")[0]
        assert "a, b on asked: 60 of 200 questions; rates are weighted" in first
        assert "b on asked: 50 of 60 completions were cut by the token limit" in first


@pytest.mark.parametrize("call", [compared, gated])
@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("metrics.json", {"counts": None}),
        ("metrics.json", {"schema_version": "3"}),
        ("metrics.json", {"rates": [{"metric": "harm_rate"}]}),
        ("run.json", {"fingerprint": {}}),
        ("run.json", {"variant": "b"}),
        ("population.json", {}),
    ],
)
def test_a_damaged_file_is_one_line_with_its_folder(
    tmp_path: Path, call: Callable[[Path], object], name: str, changed: dict[str, object]
):
    runs = tmp_path / "runs"
    for variant in ("a", "b"):
        run = write_run(runs, variant, "asked", samples=refusal_samples(20))
    known = json.loads((run / name).read_text("utf-8")) if (run / name).exists() else {"other": 1}
    (run / name).write_text(json.dumps(known | changed), "utf-8")
    with pytest.raises(DataError, match=r"b/asked: run\.json, metrics\.json or population"):
        call(runs)
