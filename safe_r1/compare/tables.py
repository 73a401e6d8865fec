"""Tables of a comparison as CSV and LaTeX."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from safe_r1.compare.attacks import Transfer
from safe_r1.compare.differences import Comparison
from safe_r1.compare.flips import Flip
from safe_r1.compare.rate_tables import RateCell, RateColumn, RateTable
from safe_r1.metrics.rates import Rate
from safe_r1.report.cells import csv_text
from safe_r1.report.text import one_line

_LATEX_ESCAPES = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    # After the end of a row a bracket or a star would be an argument of it; these three are others in OT1.
    | {char: f"{{{char}}}" for char in "[]*"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
)
_Item = TypeVar("_Item")

_COMPARISON_COLUMNS: dict[str, Callable[[Comparison], object]] = {
    "first": lambda each: each.first,
    "second": lambda each: each.second,
    "relation": lambda each: each.relation,
    "benchmark": lambda each: each.benchmark,
    "metric": lambda each: each.metric,
    "scope": lambda each: each.scope,
    "key": lambda each: each.key,
    "rate_first": lambda each: each.difference.first,
    "rate_second": lambda each: each.difference.second,
    "difference": lambda each: each.difference.value,
    "low": lambda each: each.difference.low,
    "high": lambda each: each.difference.high,
    "num_pairs": lambda each: each.difference.num_pairs,
    "num_questions": lambda each: each.difference.num_questions,
    "num_missing": lambda each: each.difference.num_missing,
    "bound_low": lambda each: each.difference.bound_low,
    "bound_high": lambda each: each.difference.bound_high,
    "bounds_low": lambda each: each.difference.bounds_low,
    "bounds_high": lambda each: each.difference.bounds_high,
    "num_gained": lambda each: each.difference.num_gained,
    "num_lost": lambda each: each.difference.num_lost,
    "p_value": lambda each: each.difference.p_value,
    "family": lambda each: each.family,
    "p_holm": lambda each: each.p_holm,
    "is_significant": lambda each: each.is_significant,
    "p_margin": lambda each: _or_empty(each.difference.p_margin),
    "p_margin_holm": lambda each: _or_empty(each.p_margin_holm),
    "standing": lambda each: each.standing or "",
}


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value


_FLIP_COLUMNS: dict[str, Callable[[Flip], object]] = {
    "first": lambda flip: flip.first,
    "second": lambda flip: flip.second,
    "benchmark": lambda flip: flip.benchmark,
    "sample_id": lambda flip: flip.before.completion.sample_id,
    "repeat": lambda flip: flip.before.completion.repeat,
    "direction": lambda flip: flip.direction,
    "label_first": lambda flip: flip.before.answer.label,
    "label_second": lambda flip: flip.after.answer.label,
}
_TransferRow = tuple[Transfer, str, Rate]
_TRANSFER_COLUMNS: dict[str, Callable[[_TransferRow], object]] = {
    "source": lambda row: row[0].source,
    "target": lambda row: row[0].target,
    "benchmark": lambda row: row[0].benchmark,
    "of": lambda row: row[1],
    "numerator": lambda row: row[2].numerator,
    "denominator": lambda row: row[2].denominator,
    "num_questions": lambda row: row[2].num_samples,
    "rate": lambda row: row[2].value,
    "low": lambda row: row[2].low,
    "high": lambda row: row[2].high,
    "num_missing": lambda row: row[2].num_missing,
    "bounds_low": lambda row: row[2].bounds_low,
    "bounds_high": lambda row: row[2].bounds_high,
}
_RateRow = tuple[str, str, RateColumn, Rate]
_RATE_COLUMNS: dict[str, Callable[[_RateRow], object]] = {
    "variant": lambda row: row[0],
    "compared_with": lambda row: row[1],
    "benchmark": lambda row: row[2].benchmark,
    "metric": lambda row: row[2].metric.key,
    "scope": lambda row: row[2].scope,
    "key": lambda row: row[2].key,
    "numerator": lambda row: row[3].numerator,
    "denominator": lambda row: row[3].denominator,
    "rate": lambda row: row[3].value,
    "low": lambda row: row[3].low,
    "high": lambda row: row[3].high,
    "num_missing": lambda row: row[3].num_missing,
    "bound_low": lambda row: row[3].bound_low,
    "bound_high": lambda row: row[3].bound_high,
    "bounds_low": lambda row: row[3].bounds_low,
    "bounds_high": lambda row: row[3].bounds_high,
}


def comparisons_csv(comparisons: Iterable[Comparison]) -> str:
    """``comparisons.csv``: one row for each comparison."""
    return _csv(_COMPARISON_COLUMNS, comparisons)


def flips_csv(flips: Iterable[Flip]) -> str:
    """``flips.csv``: one row for each flip."""
    return _csv(_FLIP_COLUMNS, flips)


def transfers_csv(transfers: Iterable[Transfer]) -> str:
    """``transfer.csv``: one row for each variant, each other one, and successes or failures."""
    rows = [
        (each, name, rate)
        for each in transfers
        for name, rate in (("successes", each.of_successes), ("failures", each.of_failures))
        if rate
    ]
    return _csv(_TRANSFER_COLUMNS, rows)


def rates_csv(table: RateTable) -> str:
    """One row for each rate of a table."""
    rows = [
        (variant, other, column, cell.rate)
        for variant, other, cells in table.rows
        for column, cell in zip(table.columns, cells, strict=True)
        if cell.rate
    ]
    return _csv(_RATE_COLUMNS, rows)


def rates_latex(table: RateTable) -> str:
    """A table for a paper, with ``booktabs``: rates with intervals, a star where the difference is
    significant, and in parentheses the bounds where rows are missing.
    """
    head = " & ".join(["Variant", *(_latex(column.name.en or column.name.zh) for column in table.columns)])
    lines = [
        f"% {one_line(table.title.en)}",
        r"\begin{tabular}{l" + "r" * len(table.columns) + "}",
        r"\toprule",
        head + r" \\",
        r"\midrule",
    ]
    for variant, _, cells in table.rows:
        lines.append(" & ".join([_latex(variant), *map(_latex_rate, cells)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_rate(cell: RateCell) -> str:
    if not cell.rate:
        return "--"
    rate = cell.rate
    star = "$^*$" if cell.comparison and cell.comparison.is_significant else ""
    text = f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]{star}"
    return f"{text} ({100 * rate.bound_low:.1f}--{100 * rate.bound_high:.1f})" if rate.num_missing else text


def _latex(text: str) -> str:
    return one_line(text).translate(_LATEX_ESCAPES)


def _csv(columns: Mapping[str, Callable[[_Item], object]], items: Iterable[_Item]) -> str:
    """CSV whose texts a spreadsheet takes for no formula, see ``csv_text``."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value(item)) for value in columns.values()] for item in items)
    return file.getvalue()


def _cell(value: object) -> object:
    return csv_text(value) if isinstance(value, str) else value
