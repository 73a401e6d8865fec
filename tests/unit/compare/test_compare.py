"""Finished runs to a report: what is compared, what is refused, what is written."""

import csv
import itertools
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner
from upath import UPath

from safe_r1.cli import app
from safe_r1.compare.differences import paired_counts
from safe_r1.compare.load import load_runs, setting_differences
from safe_r1.compare.run import ComparisonReport, compare
from safe_r1.errors import ConfigError, DataError, StorageError
from safe_r1.metrics.outcomes import Outcome
from safe_r1.runs import RunFolder
from tests.unit.compare.runs import HOSTILE, math_samples, refusal_samples, write_run

pytestmark = pytest.mark.slow


@pytest.fixture
def lineage(tmp_path: Path) -> Path:
    """A base, its distilled form and the enhanced form of that, on three benchmarks."""
    for variant, base, kind, skill in (
        ("b", None, "base", 0.7),
        ("d", "b", "r1", 0.4),
        ("e", "d", "enhanced", 0.8),
    ):
        for benchmark, repeats in (("chisafetybench-sample", 1), ("math-500", 4), ("xstest", 1)):
            better = skill if benchmark != "math-500" else 0.6
            write_run(
                tmp_path / "runs", variant, benchmark, base=base, kind=kind, skill=better, repeats=repeats
            )
    return tmp_path / "runs"


def overall(report: ComparisonReport, first: str, second: str, metric: str):
    return next(
        c
        for c in report.data.comparisons
        if (c.first, c.second, c.metric, c.scope) == (first, second, metric, "overall")
    )


def test_base_distilled_enhanced(lineage: Path, tmp_path: Path):
    report = compare([str(lineage)], "b", str(tmp_path / "report"))
    assert report.data.variants == ["b", "d", "e"]
    assert [(pair.first, pair.second, pair.relation.key) for pair in report.data.pairs] == [
        ("b", "d", "distillation"),
        ("d", "e", "enhancement"),
        ("b", "e", "baseline"),
    ]
    lost, regained = (
        overall(report, "b", "d", "rejection_rate"),
        overall(report, "d", "e", "rejection_rate"),
    )
    assert lost.difference.value < 0 < regained.difference.value
    # The seeded draws are nested: a higher skill can only gain questions.
    assert lost.difference.num_gained == regained.difference.num_lost == 0
    assert lost.p_holm >= lost.difference.p_value
    assert overall(report, "d", "e", "pass_at_1").standing == "not worse"
    assert overall(report, "d", "e", "pass_at_1").difference.num_pairs == 600
    assert overall(report, "d", "e", "pass_at_1").difference.num_questions == 150
    headline = [c for c in report.data.comparisons if c.family == "headline"]
    # Three pairs; accuracy, three refusal metrics, pass@1, two of XSTest; and non-inferiority in pass@1.
    assert len(headline) == 3 * 7
    assert report.data.num_headline == 3 * 8


def test_what_is_written_agrees_with_itself(lineage: Path, tmp_path: Path):
    report = compare([str(lineage)], "b", str(tmp_path / "report"))
    folder = tmp_path / "report"
    rows = list(csv.DictReader((folder / "comparisons.csv").open(encoding="utf-8")))
    assert len(rows) == len(report.data.comparisons)
    markdown = (folder / "report.md").read_text("utf-8")
    for row in rows:
        if row["scope"] == "overall":
            assert f"{100 * float(row['rate_first']):.1f} | {100 * float(row['rate_second']):.1f}" in markdown
    flips = list(csv.DictReader((folder / "flips.csv").open(encoding="utf-8")))
    accuracy = next(
        row for row in rows if (row["first"], row["second"], row["metric"]) == ("b", "d", "accuracy")
    )
    found = [
        f for f in flips if (f["first"], f["second"], f["benchmark"]) == ("b", "d", "chisafetybench-sample")
    ]
    assert sum("/mcq/" in flip["sample_id"] for flip in found) == int(accuracy["num_gained"]) + int(
        accuracy["num_lost"]
    )
    tables = {path.name for path in (folder / "tables").iterdir()}
    assert {
        "reasoning.csv",
        "reasoning.tex",
        "over-refusal.tex",
        "chisafetybench-sample-accuracy.tex",
    } <= tables
    latex = (folder / "tables" / "reasoning.tex").read_text("utf-8")
    assert latex.count("\\\\") == 4
    assert "\\toprule" in latex


def test_every_linked_figure_leads_to_a_report_of_its_run(lineage: Path, tmp_path: Path):
    compare([str(lineage)], "b", str(tmp_path / "report"))
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    links = set(re.findall(r'href="(\.\./[^"#]+)#', page))
    assert len(links) == 9
    assert all((tmp_path / "report" / link).resolve().parent.joinpath("_SUCCESS").exists() for link in links)
    assert "://" not in page


def test_runs_with_other_numbers_of_scored_rows_are_paired_on_what_both_have(tmp_path: Path):
    write_run(tmp_path / "runs", "a", "math-500", skill=0.5)
    write_run(tmp_path / "runs", "b", "xstest", skill=0.5, unscored=0)
    write_run(tmp_path / "runs", "a", "xstest", skill=0.5, unscored=7)
    write_run(tmp_path / "runs", "b", "math-500", skill=0.5)
    report = compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"))
    found = overall(report, "a", "b", "over_refusal_rate")
    assert (found.difference.num_pairs, found.difference.num_missing) == (16, 4)
    assert found.difference.value == 0
    assert found.difference.bound_low < 0 < found.difference.bound_high
    assert "4 of 20 completions lack a score for at least one;" in (
        tmp_path / "report" / "report.md"
    ).read_text("utf-8")


def test_a_model_that_loses_its_bad_answers_is_not_better(tmp_path: Path):
    """Both answer alike; the second has no score for nine of ten answers that do not refuse."""
    runs, samples = tmp_path / "runs", refusal_samples(300)
    write_run(runs, "a", "asked", samples=samples, skill=0.4, repeats=4)
    write_run(runs, "b", "asked", samples=samples, skill=0.4, repeats=4, seed="b", unscored_misses=0.9)
    report = compare([str(runs)], "a", str(tmp_path / "report"))
    for metric in ("rejection_rate", "responsible_rate", "harm_rate"):
        found = overall(report, "a", "b", metric)
        # On the pairs alone it looks like a great success.
        assert found.p_holm < 1e-6
        assert found.difference.bounds_low < 0 < found.difference.bounds_high
        assert not found.is_significant
        assert not found.effect
    assert "*" not in (tmp_path / "report" / "tables" / "asked-rejection_rate.tex").read_text("utf-8")


def test_a_margin_is_declared_where_the_runs_hold_it(tmp_path: Path):
    for variant in "ab":
        folder = RunFolder(UPath(write_run(tmp_path / "runs", variant, "math-500")))
        info = folder.read_json("run.json") or {}
        folder.write_json("run.json", info | {"config": {"report": {"margin": 0.05}}})
    declared = compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"))
    assert (declared.data.margin, declared.data.is_margin_declared) == (0.05, True)
    chosen = compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"), margin=0.1)
    assert (chosen.data.margin, chosen.data.is_margin_declared) == (0.1, False)
    assert "not declared in" in (tmp_path / "report" / "report.md").read_text("utf-8")


@pytest.mark.parametrize("seed", range(5))
def test_bounds_are_the_least_and_the_greatest_difference_of_all_outcomes(seed: int):
    generator = random.Random(seed)
    places = [(f"q{place // 2}", place % 2) for place in range(8)]
    runs = [{place: generator.choice(list(Outcome)) for place in places} for _ in range(2)]
    # A completion that only one was asked for is in no difference.
    del runs[0][places.pop(0)]
    weights = {question: 1.0 for question, _ in places}
    missing = [(run, place) for run in (0, 1) for place in places if runs[run][place] is Outcome.MISSING]
    differences = []
    for outcomes in itertools.product([Outcome.HIT, Outcome.MISS], repeat=len(missing)):
        filled = [dict(run) for run in runs]
        for (run, place), found in zip(missing, outcomes, strict=True):
            filled[run][place] = found
        hits = [sum(run[place] is Outcome.HIT for place in places) for run in filled]
        differences.append(hits[1] - hits[0])
    pairs = [place for place in places if Outcome.MISSING not in (runs[0][place], runs[1][place])]
    for counts_missing, counted in ((False, pairs), (True, places)):
        counts = paired_counts(runs[0], runs[1], weights, counts_missing).values()
        assert sum(each.asked for each in counts) == len(places) == 7
        assert sum(each.missing for each in counts) == len(places) - len(pairs)
        assert sum(each.worst for each in counts) == min(differences)
        assert sum(each.best for each in counts) == max(differences)
        assert sum(each.pairs for each in counts) == len(counted)
        hits = [sum(run[place] is Outcome.HIT for place in counted) for run in runs]
        assert [sum(each.first for each in counts), sum(each.second for each in counts)] == hits


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"temperature": 0.0}, "generation of b is [temperature 0.0"),
        ({"repeats": 2}, "repeats of b is [2]"),
        ({"samples": math_samples(50)}, "questions of b is [50 questions"),
    ],
)
def test_what_is_not_alike_is_refused_by_name_or_allowed_and_told(tmp_path: Path, changed: dict, named: str):
    write_run(tmp_path / "runs", "a", "math-500")
    write_run(tmp_path / "runs", "b", "math-500", **changed)
    with pytest.raises(ConfigError, match=re.escape(named)):
        compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"))
    assert not (tmp_path / "report").exists()
    report = compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"), allow_mismatch=True)
    assert any(named in problem for problem in report.data.problems)
    assert "--allow-mismatch" in (tmp_path / "report" / "report.html").read_text("utf-8")


def set_attacker(run: Path, **attacker: object) -> None:
    """Change the attacker in a run's settings; without one they are those of a run that needs none."""
    info = json.loads((run / "run.json").read_text("utf-8"))
    info["fingerprint"] |= {"attacker": attacker} if attacker else {}
    (run / "run.json").write_text(json.dumps(info), "utf-8")


ATTACKER: dict[str, object] = {"name": "m", "identity": "i", "max_tokens": 64}


@pytest.mark.parametrize("other", [{}, *(ATTACKER | {key: 1} for key in ATTACKER)])
def test_another_attacker_is_another_setting(tmp_path: Path, other: dict[str, object]):
    name = "chisafetybench-sample@pair"
    samples = [replace(each, benchmark=name) for each in refusal_samples(20)]
    for variant, attacker in (("a", ATTACKER), ("b", ATTACKER), ("c", other)):
        set_attacker(write_run(tmp_path / "runs", variant, name, samples=samples), **attacker)
    runs, _ = load_runs([str(tmp_path / "runs")], False)
    found = list(setting_differences(runs, "a"))
    shown = ", ".join(f"{key} {value}" for key, value in other.items()) or "none"
    assert found == [f"{name}: attacker of c is [{shown}], of a [name m, identity i, max_tokens 64]"]


def test_a_missing_benchmark_is_refused_or_a_stated_gap(tmp_path: Path):
    write_run(tmp_path / "runs", "a", "math-500")
    write_run(tmp_path / "runs", "b", "math-500")
    write_run(tmp_path / "runs", "b", "xstest")
    with pytest.raises(ConfigError, match="xstest: not measured for a"):
        compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"))
    report = compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"), allow_mismatch=True)
    assert report.data.problems == ["xstest: not measured for a"]


def test_unfinished_missing_and_damaged_runs(tmp_path: Path):
    a = write_run(tmp_path / "runs", "a", "math-500")
    write_run(tmp_path / "runs", "b", "math-500", complete=False)
    with pytest.raises(StorageError, match=r"not finished \(no _SUCCESS\).*/b/math-500"):
        compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"))
    with pytest.raises(ConfigError, match="only a was found"):
        compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"), allow_mismatch=True)
    with pytest.raises(StorageError, match="no run found"):
        compare([str(tmp_path / "nothing")], "a", str(tmp_path / "report"))
    write_run(tmp_path / "more", "b", "math-500")
    with pytest.raises(ConfigError, match="--baseline c: not among the runs; there are a, b"):
        compare([str(a), str(tmp_path / "more")], "c", str(tmp_path / "report"))
    with pytest.raises(ConfigError, match="--margin"):
        compare([str(a), str(tmp_path / "more")], "a", str(tmp_path / "report"), margin=3)
    (a / "metrics.json").unlink()
    with pytest.raises(DataError, match=r"metrics\.json is missing"):
        compare([str(a), str(tmp_path / "more")], "a", str(tmp_path / "report"))


def test_a_run_of_fine_tuning_is_not_compared(tmp_path: Path):
    write_run(tmp_path / "runs", "a", "math-500")
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"variant": {"name": "a"}, "fingerprint": {}}), "utf-8")
    (folder / "metrics.json").write_text(json.dumps({"loss": 1.0}), "utf-8")
    (folder / "_SUCCESS").touch()
    with pytest.raises(DataError, match="not that of an evaluation"):
        compare([str(tmp_path / "runs"), str(folder)], "a", str(tmp_path / "report"))


def test_another_schema_version_is_not_comparable(tmp_path: Path):
    write_run(tmp_path / "runs", "a", "math-500")
    b = write_run(tmp_path / "runs", "b", "math-500")
    metrics = json.loads((b / "metrics.json").read_text("utf-8"))
    (b / "metrics.json").write_text(json.dumps(metrics | {"schema_version": 99}), "utf-8")
    with pytest.raises(ConfigError, match="schema of b is"):
        compare([str(tmp_path / "runs")], "a", str(tmp_path / "report"))


def test_two_runs_of_a_variant_are_told_apart(tmp_path: Path):
    write_run(tmp_path / "runs", "demo", "math-500", run="cold", skill=0.6)
    write_run(tmp_path / "runs", "demo", "math-500", run="warm", skill=0.5)
    report = compare([str(tmp_path / "runs")], "demo@cold", str(tmp_path / "report"))
    assert report.data.variants == ["demo@cold", "demo@warm"]


def test_twenty_one_variants(tmp_path: Path):
    names = []
    for family in range(7):
        for kind, base in (("base", None), ("r1", f"base-{family}"), ("enhanced", f"r1-{family}")):
            names.append(f"{kind}-{family}")
            write_run(
                tmp_path / "runs", names[-1], "math-500", base=base, kind=kind, skill=0.3 + 0.02 * len(names)
            )
    report = compare([str(tmp_path / "runs")], "base-0", str(tmp_path / "report"))
    assert len(report.data.variants) == 21
    assert report.data.variants[:4] == ["base-0", "r1-0", "enhanced-0", "base-1"]
    assert len(report.data.pairs) == 20 + 14 - 1


def test_hostile_text_stays_text(tmp_path: Path):
    hostile = [
        *math_samples(5),
        *(sample for sample in math_samples(8)[5:]),
    ]
    hostile[0].messages[0]["content"] = HOSTILE
    for variant, skill in (("=cmd|a", 0.1), ("b&_%", 0.9)):
        write_run(tmp_path / "runs", variant, "math-500", skill=skill, text=HOSTILE, samples=hostile)
    compare([str(tmp_path / "runs")], "=cmd|a", str(tmp_path / "report"))
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert "document.title='owned'" not in page
    assert "onerror" not in page
    assert all(
        not line.startswith("=")
        for line in (tmp_path / "report" / "comparisons.csv").read_text("utf-8").splitlines()
    )
    assert r"b\&\_\%" in (tmp_path / "report" / "tables" / "reasoning.tex").read_text("utf-8")


def test_the_command(lineage: Path, tmp_path: Path):
    result = CliRunner().invoke(
        app, ["compare", str(lineage), "--baseline", "b", "--output", str(tmp_path / "report")]
    )
    assert result.exit_code == 0, result.output
    assert "d → e (enhancement)" in result.output
    assert "report.html" in result.output


def test_of_several_baselines_the_first_that_was_run_counts(lineage: Path, tmp_path: Path):
    assert compare([str(lineage)], "nothing,d,b", str(tmp_path / "report")).data.baseline == "d"


def test_labels_of_points_that_coincide_lie_apart():
    from safe_r1.compare.charts import ScatterPoint, _spread_labels
    from safe_r1.metrics.rates import Rate

    def rate(value: float) -> Rate:
        ends = (0.0, 1.0, "wilson", 0, value, value, 0.0, 1.0)
        return Rate("pass_at_1", "answer", "overall", "all", 1, 2, 2, value, *ends)

    points = [
        ScatterPoint("demo", rate(x), name, rate(y))
        for x, name, y in ((0, "gsm8k", 0.2), (0, "math-500", 0.2), (0.5, "gsm8k", 0.2))
    ]
    assert [point.label_offset for point in _spread_labels([*points, points[0]])] == [0, 1, 0, 2]


def test_blocked_rows_are_told_with_rr_1_that_counts_them(tmp_path: Path):
    write_run(tmp_path, "before", skill=0.5)
    write_run(tmp_path, "behind-a-url", skill=0.5, blocked=7)
    found = compare([str(tmp_path)], "before", str(tmp_path / "out"))
    text = found.to_text()
    assert re.search(r"note: behind-a-url on \S+: .* blocked 7 of \d+ rows.*counted as refusals: \d", text)
    assert text.count("note:") == 1
    for name in ("report.md", "report.html"):
        assert "blocked 7 of" in (tmp_path / "out" / name).read_text(encoding="utf-8")
