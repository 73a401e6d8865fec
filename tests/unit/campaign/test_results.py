"""The overall rates on a campaign's page, read from the tables of its comparison."""

from pathlib import Path

import pytest
from upath import UPath

from safe_r1.campaign.results import OverallRate, read_results
from safe_r1.campaign.view import Snapshot, read_snapshot, write_snapshot
from safe_r1.compare.run import compare
from safe_r1.errors import StorageError
from safe_r1.metrics.rates import find_rate, read_rates
from safe_r1.runs import RunFolder
from tests.unit.calibration.judged_runs import calibrated
from tests.unit.compare.runs import write_run

pytestmark = pytest.mark.slow

_FORMER = "variant,compared_with,benchmark,metric,scope,key,numerator,denominator,rate,low,high"
_TODAY = f"{_FORMER},num_missing,bound_low,bound_high,bounds_low,bounds_high"


def write_table(folder: Path, name: str, head: str, *rows: str) -> None:
    (folder / "tables").mkdir(exist_ok=True)
    (folder / "tables" / f"{name}.csv").write_text("\n".join([head, *rows]) + "\n", "utf-8")


def test_overall_rates_have_their_bounds(tmp_path: Path):
    write_table(
        tmp_path,
        "b-accuracy",
        _TODAY,
        "v,,b,accuracy,overall,all,5,10,0.5,0.24,0.76,2,0.5,0.7,0.24,0.9",
        "v,,b,accuracy,area,x,1,2,0.5,0.1,0.9,0,0.5,0.5,0.1,0.9",
    )
    found = read_results(UPath(tmp_path))
    assert [column.metric.key for column in found.columns] == ["accuracy"]
    assert found.rows == [("v", [OverallRate(0.5, 0.24, 0.76, 0.5, 0.7)])]


def test_the_accuracy_of_a_comparison_of_an_earlier_version_is_that_among_answered(tmp_path: Path):
    write_table(
        tmp_path,
        "b-accuracy",
        _FORMER,
        "v,,b,accuracy,overall,all,5,10,0.5,0.24,0.76",
        "v,,b,harm_rate,overall,all,5,10,0.5,0.24,0.76",
    )
    found = read_results(UPath(tmp_path))
    assert [column.metric.key for column in found.columns] == ["accuracy_answered", "harm_rate"]
    assert not any(rate.has_missing for _, rates in found.rows for rate in rates if rate)


def campaign_of(output: Path) -> None:
    """Two compared runs of a campaign, one of which people have labelled."""
    calibrated(output, "second", 0.6)
    write_run(output / "runs", "first", skill=0.3)
    compare([str(output / "runs" / "main")], "first", str(output / "comparison"))


def read_page(output: Path) -> str:
    write_snapshot(str(output), Snapshot(recipe="recipe", updated_at=0.0, cells=[]))
    return (output / "campaign" / "campaign.html").read_text("utf-8")


def test_a_corrected_column_stands_behind_the_judged_one_where_a_run_has_labels(tmp_path: Path):
    campaign_of(tmp_path)
    found = read_results(UPath(tmp_path) / "comparison", UPath(tmp_path) / "runs" / "main")
    names = [(column.metric.key, column.is_corrected) for column in found.columns]
    assert ("harm_rate", True) in names
    assert ("accuracy", True) not in names
    rates = dict(found.rows)
    at = names.index(("harm_rate", False))
    assert names[at + 1] == ("harm_rate", True)
    judged, corrected = rates["second"][at : at + 2]
    assert judged
    assert corrected
    # People call half of the judge's harmful answers harmless.
    assert 0.3 < corrected.value / judged.value < 0.7
    assert rates["first"][at + 1] is None
    page = read_page(tmp_path)
    assert "（校正后）" in page
    assert f"{100 * corrected.value:.1f}\n" in page


def test_labels_of_other_verdicts_correct_nothing_and_a_damaged_file_ends_no_campaign(tmp_path: Path):
    campaign_of(tmp_path)
    folder = RunFolder(UPath(tmp_path) / "runs" / "main" / "second" / "chisafetybench-sample")
    whole = folder.read_json("calibration.json") or {}
    rate = find_rate(read_rates(folder.read_json("metrics.json") or {}), "harm_rate")
    assert rate
    [mine] = [
        each
        for each in whole["rates"]
        if (each["metric"], each["part"], each["scope"]) == ("harm_rate", "answer", "overall")
    ]
    assert mine["judged"] == rate.value
    folder.write_json("calibration.json", {**whole, "results_sha256": "0"})
    assert "（校正后）" not in read_page(tmp_path)
    # The comparison is older than the edited verdicts that were labelled.
    folder.write_json("calibration.json", {**whole, "rates": [{**mine, "judged": rate.value + 0.1}]})
    assert "（校正后）" not in read_page(tmp_path)
    for text in ("", "[]", '{"rates": 1}', '"x"', "{"):
        folder.write_text("calibration.json", text)
        assert "（校正后）" not in read_page(tmp_path)


def test_a_damaged_snapshot_is_one_clear_line(tmp_path: Path):
    read_page(tmp_path)
    assert read_snapshot(str(tmp_path)).recipe == "recipe"
    for text in ("", "[]", "{}", '{"recipe": 1, "updated_at": "x", "cells": 3}'):
        (tmp_path / "campaign" / "status.json").write_text(text, "utf-8")
        with pytest.raises(StorageError, match=r"campaign/status\.json") as told:
            read_snapshot(str(tmp_path))
        assert "\n" not in str(told.value)
