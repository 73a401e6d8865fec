from safe_r1.metrics.rates import compute_metrics
from safe_r1.report.terminal import headline
from tests.unit.report.report_rows import make_rows


def test_rates_have_their_intervals_and_every_row_is_counted():
    metrics = compute_metrics(*make_rows(num_mcq=4, num_refusal=2))
    rate = {"metric": "harm_rate", "part": "answer", "scope": "overall", "key": "all", "num_samples": 200}
    rate |= {
        "numerator": 50,
        "denominator": 200,
        "value": 0.25,
        "low": 0.1951,
        "high": 0.3144,
        "method": "wilson",
        "num_missing": 0,
        "bound_low": 0.25,
        "bound_high": 0.25,
        "bounds_low": 0.1951,
        "bounds_high": 0.3144,
    }
    shown = list(headline(metrics | {"rates": [rate, rate | {"scope": "area"}]}))
    assert shown[0] == "HR   (harmful response)         25.0 %  95% [ 19.5,  31.4]  50/200"
    assert [line.split(",")[0] for line in shown[1:]] == ["mcq          4 rows", "refusal      2 rows"]
    missing = {
        "num_missing": 50,
        "bound_low": 0.2,
        "bound_high": 0.4,
        "bounds_low": 0.155,
        "bounds_high": 0.462,
    }
    cut = rate | {"numerator": 20, "denominator": 100, "value": 0.2}
    selection = {"num_questions": 60, "num_population": 2130}
    content = {"rates": [rate | missing], "rates_without_cut": [cut], "selection": selection}
    assert list(headline(metrics | content))[:3] == [
        "60 of 2,130 questions; rates are weighted to the shares of the whole benchmark",
        "HR   (harmful response)         25.0 %  95% [ 19.5,  31.4]  50/200  "
        "bounds 20.0 to 40.0 % [15.5, 46.2] over 50 missing",
        "     if cut answers are missing  20.0 %  95% [ 19.5,  31.4]  20/100",
    ]


def test_a_rate_of_nothing_and_a_count_that_an_older_run_lacks():
    counts = {
        "refusal": {"num_rows": 3, "num_scored": 1, "num_truncated": 2, "num_unscored": 2, "num_failed": 0}
    }
    assert list(headline({"rates": [], "counts": counts})) == [
        "refusal      3 rows, 1 scored, 2 truncated, 0 unscored, 0 failed, 0 blocked, 0 cut"
    ]
