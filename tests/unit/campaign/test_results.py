"""The overall rates on a campaign's page, read from the tables of its comparison."""

from pathlib import Path

from upath import UPath

from safe_r1.campaign.results import OverallRate, read_results

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
    assert [metric.key for _, metric in found.columns] == ["accuracy"]
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
    assert [metric.key for _, metric in found.columns] == ["accuracy_answered", "harm_rate"]
    assert not any(rate.has_missing for _, rates in found.rows for rate in rates if rate)
