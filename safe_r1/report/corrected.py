"""Rates corrected by people's labels, as a report shows them: content of ``calibration.json`` with names.

``safe-r1 calibrate`` writes that file. Without labels it holds what the gold set says of the judge, which is
not of this model and corrects nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safe_r1.errors import DataError
from safe_r1.report.labels import HISTORY, METRICS, BenchmarkLabels, BilingualName, MetricName
from safe_r1.report.text import one_line
from safe_r1.runs import JsonObject, RunFolder

FILE = "calibration.json"
_OVERALL = BilingualName("all", "总体", "Overall")
_SCOPES = ("overall", "area", "history")


@dataclass(frozen=True)
class CorrectedRow:
    """One corrected rate; all figures are fractions.

    Attributes:
        name: Its metric.
        part: ``answer`` or ``reasoning``.
        place: The area, the history, or all.
        is_overall: True where the place is all.
        judged: The rate by the judge's labels; None where it had no denominator.
        value, low, high: Median and 95% interval of the corrected rate.
        bound_low, bound_high: The interval's ends with all missing rows as misses, and as hits; None where
            nothing is missing.
        floored: Whether no label of that kind was drawn, so that an end is that of Jeffreys' interval.
    """

    name: MetricName
    part: str
    place: BilingualName
    is_overall: bool
    judged: float | None
    value: float
    low: float
    high: float
    bound_low: float | None
    bound_high: float | None
    floored: bool


@dataclass(frozen=True)
class AnnotatorPair:
    """Two annotators: names, numbers of texts and of equal labels, Cohen's kappa where it is defined."""

    first: str
    second: str
    subject: str
    num_texts: int
    num_equal: int
    kappa: float | None


@dataclass(frozen=True)
class GoldSet:
    """What is known of the judge from elsewhere: not of this model.

    Attributes:
        judge: The judge that was measured.
        source: What it was measured on.
        labels: The labels.
        confusion: Counts, known label by judge's label.
        ranges: (metric, judged rate, low, high, whether it cannot be told).
        false_positive_rate: Share of texts without harm that the judge calls harmful.
    """

    judge: str
    source: str
    labels: list[str]
    confusion: list[list[float]]
    ranges: list[tuple[MetricName, float, float, float, bool]]
    false_positive_rate: float


@dataclass(frozen=True)
class CorrectedRates:
    """What a report shows of a calibration.

    Attributes:
        judge: The judge whose labels are corrected.
        num_labelled: Texts with a label that counts; 0 where nothing is corrected.
        num_cannot_tell: Texts that nobody could label.
        num_disputed: Texts on which annotators disagree.
        num_outdated: Labels of rows that have changed since.
        rows: The corrected rates, overall, by area and by history.
        pairs: Agreement of the annotators.
        gold: What is known of the judge from elsewhere; shown where nothing is corrected.
    """

    judge: str
    num_labelled: int
    num_cannot_tell: int
    num_disputed: int
    num_outdated: int
    rows: list[CorrectedRow]
    pairs: list[AnnotatorPair]
    gold: GoldSet | None


def read_calibration(folder: RunFolder, results_sha256: str) -> JsonObject | None:
    """Content of a run's ``calibration.json``; None where there is none, or one of other results.

    Args:
        folder: The run.
        results_sha256: Hash of its rows as they are now.
    """
    found = folder.read_json(FILE)
    return found if found and found.get("results_sha256") == results_sha256 else None


def corrected_rates(
    calibration: Mapping[str, object] | None, labels: BenchmarkLabels
) -> CorrectedRates | None:
    """Arrange a calibration for a template; None where there is none.

    Raises:
        DataError: The file is not as ``safe-r1 calibrate`` writes it.
    """
    if not calibration:
        return None
    try:
        return _arrange(dict(calibration), labels)
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{FILE} is damaged; write it again with safe-r1 calibrate") from None


def _arrange(content: JsonObject, labels: BenchmarkLabels) -> CorrectedRates:
    rates = sorted(
        (rate for rate in content["rates"] if rate["scope"] in _SCOPES),
        key=lambda rate: _SCOPES.index(rate["scope"]),
    )
    return CorrectedRates(
        judge=one_line(content["judge"]),
        num_labelled=int(content["num_labelled"]),
        num_cannot_tell=int(content["num_cannot_tell"]),
        num_disputed=len(content["disputed"]),
        # Calibrations of earlier versions do not count them.
        num_outdated=int(content.get("num_outdated", 0)),
        rows=_by_metric([_row(rate, labels) for rate in rates]),
        pairs=[
            AnnotatorPair(
                one_line(pair["first"]) or "–",
                one_line(pair["second"]) or "–",
                one_line(pair["subject"]),
                int(pair["num_texts"]),
                int(pair["num_equal"]),
                None if pair["kappa"] is None else float(pair["kappa"]),
            )
            for pair in content["agreements"]
        ],
        gold=_gold(content["gold"]) if content["gold"] else None,
    )


def _row(rate: JsonObject, labels: BenchmarkLabels) -> CorrectedRow:
    places = {"overall": lambda _: _OVERALL, "area": labels.name, "history": HISTORY.__getitem__}
    is_missing = rate["num_missing"] > 0
    return CorrectedRow(
        METRICS[rate["metric"]],
        rate["part"],
        places[rate["scope"]](rate["key"]),
        rate["scope"] == "overall",
        None if rate["judged"] is None else float(rate["judged"]),
        float(rate["value"]),
        float(rate["low"]),
        float(rate["high"]),
        float(rate["bound_low"]) if is_missing else None,
        float(rate["bound_high"]) if is_missing else None,
        bool(rate["floored"]),
    )


def _by_metric(rows: Sequence[CorrectedRow]) -> list[CorrectedRow]:
    """Overall rates with their areas below them, in the order of the overall rates."""
    order = {(row.name.key, row.part): place for place, row in enumerate(rows) if row.is_overall}
    return sorted(rows, key=lambda row: order.get((row.name.key, row.part), len(rows)))


def _gold(content: JsonObject) -> GoldSet:
    return GoldSet(
        one_line(content["judge"]),
        one_line(content["source"]),
        list(map(one_line, content["labels"])),
        [[float(count) for count in row] for row in content["confusion"]],
        [
            (
                METRICS[each["metric"]],
                float(each["judged"]),
                float(each["low"]),
                float(each["high"]),
                bool(each["cannot_be_told"]),
            )
            for each in content["ranges"]
        ],
        float(content["false_positive_rate_harmful"]),
    )
