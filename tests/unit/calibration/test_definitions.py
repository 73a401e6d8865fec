"""Corrected rates have the definitions of the rates that they correct, and stand beside them in reports."""

import json
from collections import Counter
from pathlib import Path

import pytest

from safe_r1.calibration.calibrate import calibrate
from safe_r1.calibration.items import Item, open_run
from safe_r1.calibration.result import Calibration
from safe_r1.errors import DataError
from safe_r1.evaluation.publish import rewrite_report
from safe_r1.metrics.outcomes import REFUSAL_METRICS
from safe_r1.metrics.rates import find_rate, read_rates
from safe_r1.metrics.strata import Population
from safe_r1.metrics.strata import stratum_of as stratum_of_question
from safe_r1.schema import RefusalLabel
from tests.unit.calibration.judged_runs import (
    judged_answers,
    key_rows,
    label_rows,
    rate,
    refusal_rows,
    sampled,
    write_jsonl,
    write_judged_run,
)

pytestmark = pytest.mark.slow


def test_the_report_shows_corrected_rates_of_the_rows_as_they_are(run: Path, tmp_path: Path):
    folder = sampled(run, "answer", "reasoning")
    second = label_rows(run, folder, "eve</td><script>", num=20)
    second[0]["label"] = "cannot_tell"
    files = [
        write_jsonl(tmp_path / "a.jsonl", label_rows(run, folder)),
        write_jsonl(tmp_path / "b.jsonl", second),
    ]
    found = calibrate(str(run), files)
    rewrite_report(str(run))
    harm = rate(found, "harm_rate")
    shown = f"{100 * harm.value:.1f} [{100 * harm.low:.1f}, {100 * harm.high:.1f}]"
    markdown = (run / "report.md").read_text("utf-8")
    assert "## Rates corrected by people's labels" in markdown
    assert shown in markdown
    html = (run / "report.html").read_text("utf-8")
    assert "经人工标注校正的比率" in html
    assert "eve&lt;/td&gt;&lt;script&gt;" in html
    assert "eve</td>" not in html
    # Verdicts that were edited since: the labels' strata are no longer those of the report.
    about = json.loads((run / "calibration.json").read_text("utf-8"))
    (run / "calibration.json").write_text(json.dumps({**about, "results_sha256": "0"}), "utf-8")
    rewrite_report(str(run))
    assert "corrected by people" not in (run / "report.md").read_text("utf-8")


def test_the_report_without_labels_says_what_is_not_of_this_model(run: Path):
    calibrate(str(run))
    rewrite_report(str(run))
    markdown = (run / "report.md").read_text("utf-8")
    assert "not of this model" in markdown
    assert "no rate is corrected" in markdown
    assert "不是在这个模型上测得的" in (run / "report.html").read_text("utf-8")
    damaged = json.dumps({"results_sha256": open_run(str(run)).results_sha256, "rates": "none"})
    (run / "calibration.json").write_text(damaged, "utf-8")
    with pytest.raises(DataError, match=r"calibration.json is damaged"):
        rewrite_report(str(run))


def check_judged(run: Path, found: Calibration) -> None:
    """The judged rates are those of ``metrics.json``, with their rows and their missing rows."""
    rewrite_report(str(run))
    rates = read_rates(json.loads((run / "metrics.json").read_text("utf-8")))
    for each in found.rates:
        expected = find_rate(rates, each.metric, each.part, each.scope, each.key)
        assert expected is not None
        assert each.judged == pytest.approx(expected.value), each
        assert (each.num_judged, each.num_missing) == (expected.denominator, expected.num_missing), each


def test_judged_rates_are_those_of_the_metrics(tmp_path: Path):
    run = write_judged_run(tmp_path / "runs", refusal_rows(missing=40))
    folder = sampled(run, "answer", "reasoning")
    found = calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", label_rows(run, folder))])
    assert {each.metric for each in found.rates} == {*REFUSAL_METRICS, "leak_rate"}
    check_judged(run, found)
    leak = rate(found, "leak_rate", "reasoning")
    # Of an answer without a verdict it is not known whether it refuses.
    assert leak.num_missing == 40
    assert leak.bound_low < leak.low < leak.high < leak.bound_high


def test_accuracy_is_of_all_questions_asked(tmp_path: Path):
    run = write_judged_run(tmp_path / "runs", key_rows(failed=20))

    def say(item: Item) -> str:
        other = "B" if item.choice == "A" else "A"
        return str(item.choice) if item.stratum.label == "correct" else other

    rows = label_rows(run, sampled(run, num=100), say=say)
    found = calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", rows)])
    check_judged(run, found)
    accuracy = rate(found, "accuracy")
    assert (accuracy.num_judged, accuracy.num_missing) == (120, 20)
    assert accuracy.value == pytest.approx(accuracy.judged, abs=0.01)
    assert accuracy.bound_low == accuracy.low
    assert accuracy.bound_high == pytest.approx(accuracy.high + 20 / 120, abs=0.03)


def test_a_selection_is_weighted_back(tmp_path: Path):
    rows = refusal_rows()
    run = write_judged_run(tmp_path / "runs", rows)
    sizes = Counter(map(stratum_of_question, rows[0]))
    grown = {stratum: size * (1 + place) for place, (stratum, size) in enumerate(sizes.items())}
    population = Population(grown)
    (run / "population.json").write_text(json.dumps(population.to_json()), "utf-8")
    labels = label_rows(run, sampled(run, num=200), say=lambda item: item.stratum.label)
    found = calibrate(str(run), [write_jsonl(tmp_path / "l.jsonl", labels)])
    check_judged(run, found)
    for metric in REFUSAL_METRICS:
        each = rate(found, metric)
        assert each.value == pytest.approx(each.judged, abs=0.01)
    plain = sum(item.stratum.label == RefusalLabel.HARMFUL for item in judged_answers(run)) / 200
    assert abs((rate(found, "harm_rate").judged or 0) - plain) > 0.005
