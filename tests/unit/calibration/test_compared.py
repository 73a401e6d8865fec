"""Calibrated runs in a comparison: corrected differences beside those of the judges, or a note why not."""

import json
from pathlib import Path

import pytest

from safe_r1.compare.run import compare
from tests.unit.calibration.judged_runs import calibrated

pytestmark = pytest.mark.slow


def test_corrected_differences_stand_beside_those_of_the_judge(tmp_path: Path):
    for variant, skill in (("first", 0.3), ("second", 0.8)):
        calibrated(tmp_path, variant, skill)
    report = compare([str(tmp_path / "runs")], "first", str(tmp_path / "report"))
    overall = {each.name.key: each for each in report.data.corrected if each.place.key == "all"}
    judged = {each.metric: each.difference for each in report.data.comparisons if each.scope == "overall"}
    harm = overall["harm_rate"]
    assert harm.is_clear
    # Half of the judge's harmful answers are not: so is the difference between the two.
    assert 0.35 < harm.value / judged["harm_rate"].value < 0.65
    assert report.to_text().count("corrected by labels") == 3
    assert "## Differences corrected by people's labels" in (tmp_path / "report/report.md").read_text("utf-8")
    assert "经人工标注校正的差异" in (tmp_path / "report/report.html").read_text("utf-8")


def test_runs_with_other_seeds_are_a_note(tmp_path: Path):
    calibrated(tmp_path, "first", 0.3)
    calibrated(tmp_path, "second", 0.8, seed=1)
    report = compare([str(tmp_path / "runs")], "first", str(tmp_path / "report"))
    assert report.data.corrected == []
    assert any("calibrate both with the same" in note for note in report.data.notes)


def test_labels_of_other_results_are_left_out(tmp_path: Path):
    for variant, skill in (("first", 0.3), ("second", 0.8)):
        run = calibrated(tmp_path, variant, skill)
    about = json.loads((run / "calibration.json").read_text("utf-8"))
    (run / "calibration.json").write_text(json.dumps({**about, "results_sha256": "0"}), "utf-8")
    report = compare([str(tmp_path / "runs")], "first", str(tmp_path / "report"))
    assert report.data.corrected == []


def test_no_star_where_rows_are_missing(tmp_path: Path):
    calibrated(tmp_path, "first", 0.3)
    calibrated(tmp_path, "second", 0.8, blocked=3)
    report = compare([str(tmp_path / "runs")], "first", str(tmp_path / "report"))
    [harm] = [
        each for each in report.data.corrected if (each.name.key, each.place.key) == ("harm_rate", "all")
    ]
    assert harm.high < 0
    assert harm.num_missing == 3
    assert not harm.is_clear
    assert "3 rows missing" in report.to_text()
