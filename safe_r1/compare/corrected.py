"""Differences between calibrated runs: in rates that people's labels corrected, with both judges' errors."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from safe_r1.calibration.calibrate import compare_corrected
from safe_r1.compare.differences import Relation
from safe_r1.compare.load import Run
from safe_r1.errors import DataError
from safe_r1.report.corrected import FILE, read_calibration
from safe_r1.report.labels import METRICS, BilingualName, MetricName, benchmark_labels
from safe_r1.runs import RunFolder

_OVERALL = BilingualName("all", "总体", "Overall")


@dataclass(frozen=True)
class CorrectedComparison:
    """One corrected rate of two runs on the same questions.

    Attributes:
        first, second: The variants.
        benchmark: Name of the benchmark.
        name: The metric.
        part: ``answer`` or ``reasoning``.
        place: The area, or all.
        value: Second minus first, median of the draws.
        low, high: Ends of the 95% interval; it holds the errors of both runs' judges.
        num_missing: Rows of both runs without a verdict, which no difference speaks of.
    """

    first: str
    second: str
    benchmark: str
    name: MetricName
    part: str
    place: BilingualName
    value: float
    low: float
    high: float
    num_missing: int

    @property
    def is_clear(self) -> bool:
        """True where the interval excludes 0, and no missing row could bring it back."""
        return self.num_missing == 0 and (self.low > 0 or self.high < 0)

    def to_text(self) -> str:
        """One line for a terminal."""
        part = ", reasoning" if self.part == "reasoning" else ""
        change = f"{100 * self.value:+6.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        mark = " *" if self.is_clear else f"; {self.num_missing} rows missing" if self.num_missing else ""
        return f"  {self.benchmark:22} {self.name.en + part:32} corrected by labels  {change}{mark}"


def corrected_comparisons(
    runs: Sequence[Run], pairs: Sequence[tuple[str, str, Relation]]
) -> tuple[list[CorrectedComparison], list[str]]:
    """Differences of all pairs of which both runs are calibrated with labels, overall and by area.

    Returns:
        The differences, and a note for each pair that is calibrated and cannot be compared.
    """
    calibrated = {(run.variant, run.benchmark): run for run in runs if _is_calibrated(run)}
    found: list[CorrectedComparison] = []
    notes: list[str] = []
    for first, second, _ in pairs:
        for benchmark in dict.fromkeys(run.benchmark for run in runs):
            one = calibrated.get((first, benchmark))
            other = calibrated.get((second, benchmark))
            if one is None or other is None:
                continue
            try:
                found += _compare(one, other)
            except DataError as error:
                notes.append(str(error))
    return found, notes


def _is_calibrated(run: Run) -> bool:
    # Labels of verdicts that were edited since say nothing of the rates that are compared.
    calibration = read_calibration(RunFolder(run.path), run.results_sha256)
    return bool(calibration and calibration.get("rates"))


def _num_missing(run: Run) -> Counter[tuple[str, str, str, str]]:
    """Rows without a verdict of each corrected rate."""
    rates = (RunFolder(run.path).read_json(FILE) or {})["rates"]
    return Counter(
        {(each["metric"], each["part"], each["scope"], each["key"]): each["num_missing"] for each in rates}
    )


def _compare(first: Run, second: Run) -> list[CorrectedComparison]:
    labels = benchmark_labels(first.benchmark, first.info)
    missing = _num_missing(first) + _num_missing(second)
    order = {metric: place for place, metric in enumerate(METRICS)}
    differences = [
        each
        for each in compare_corrected(RunFolder(first.path), RunFolder(second.path))
        if each.scope in ("overall", "area")
    ]
    differences.sort(key=lambda each: (each.part, order[each.metric], each.scope == "area", each.key))
    return [
        CorrectedComparison(
            first.variant,
            second.variant,
            first.benchmark,
            METRICS[each.metric],
            each.part,
            labels.name(each.key) if each.scope == "area" else _OVERALL,
            each.value,
            each.low,
            each.high,
            missing[each.metric, each.part, each.scope, each.key],
        )
        for each in differences
    ]
