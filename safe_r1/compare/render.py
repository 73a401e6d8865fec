"""A comparison as Markdown, HTML, CSV and LaTeX."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup
from upath import UPath

from safe_r1.compare.charts import dumbbells, heatmaps, plane
from safe_r1.compare.content import Content, Table
from safe_r1.compare.differences import Comparison
from safe_r1.compare.flips import Flip, page_rows
from safe_r1.compare.load import Run
from safe_r1.metrics.tests import Difference
from safe_r1.report.embed import pack
from safe_r1.report.html import asset, content_policy, html_environment, label_rows
from safe_r1.report.labels import LABELS, METRICS
from safe_r1.report.markdown import markdown_environment, percent, rate_with_interval
from safe_r1.report.text import one_line, script_json
from safe_r1.runs import write_bytes

_SCRIPTS = ("store.js", "detail.js", "compare.js")
_LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
)


def write_report(output: UPath, content: Content, runs: Sequence[Run], flips: Sequence[Flip]) -> UPath:
    """Write ``report.html``, ``report.md``, ``comparisons.csv``, ``flips.csv`` and ``tables/``; gives the
    page's place.

    Raises:
        StorageError: The folder cannot be written.
    """
    files = {
        "report.md": render_markdown(content),
        "report.html": render_page(content, runs, flips),
        "comparisons.csv": _csv(_COMPARISON_COLUMNS, (_comparison_row(one) for one in content.comparisons)),
        "flips.csv": _csv(_FLIP_COLUMNS, (_flip_row(flip) for flip in flips)),
    }
    for table in content.tables:
        files[f"tables/{table.key}.csv"] = _csv(*_table_rows(table))
        files[f"tables/{table.key}.tex"] = render_latex(table)
    for name, text in files.items():
        write_bytes(output / name, text.encode("utf-8", errors="replace"))
    return output / "report.html"


def render_markdown(content: Content) -> str:
    """``report.md``."""
    return markdown_environment().get_template("compare.md.jinja").render(c=content, **_helpers())


def render_page(content: Content, runs: Sequence[Run], flips: Sequence[Flip]) -> str:
    """``report.html``: one file, works offline."""
    script, style = "\n".join(map(asset, _SCRIPTS)), asset("report.css") + asset("compare.css")
    rows, num_left_out = page_rows(flips)
    return (
        html_environment()
        .get_template("compare.html.jinja")
        .render(
            c=content,
            dumbbells=dumbbells(content),
            heatmaps=heatmaps(runs, content.variants),
            points_of_plane=plane(content),
            flips=Markup(pack(rows)),
            num_flips=len(flips),
            num_left_out=num_left_out,
            names=script_json({"labels": label_rows(LABELS.values()), "statuses": []}),
            script=Markup(script),
            style=Markup(style),
            policy=content_policy(script, style),
            **_helpers(),
        )
    )


def render_latex(table: Table) -> str:
    """A table for a paper, with ``booktabs``: rates with intervals, a star where the difference is
    significant.
    """
    head = " & ".join(["Variant", *(_latex(column.name.en or column.name.zh) for column in table.columns)])
    lines = [r"\begin{tabular}{l" + "r" * len(table.columns) + "}", r"\toprule", head + r" \\", r"\midrule"]
    for variant, _, cells in table.rows:
        texts = [
            f"{100 * cell.rate.value:.1f} [{100 * cell.rate.low:.1f}, {100 * cell.rate.high:.1f}]"
            + ("$^*$" if cell.comparison and cell.comparison.is_significant else "")
            if cell.rate
            else "--"
            for cell in cells
        ]
        lines.append(" & ".join([_latex(variant), *texts]) + r" \\")
    return "\n".join([f"% {one_line(table.title.en)}", *lines, r"\bottomrule", r"\end{tabular}", ""])


def _helpers() -> dict[str, Any]:
    return {
        "percent": percent,
        "ci": rate_with_interval,
        "change": _change,
        "points": _points,
        "p_value": _p_value,
        "metrics": METRICS,
        "standing": _standing,
    }


def _points(value: float) -> Markup:
    return Markup(f"{100 * value:+.1f}".replace("-", "−"))


def _change(found: Difference) -> Markup:
    return Markup(f"{_points(found.value)} [{_points(found.low)}, {_points(found.high)}]")


def _p_value(value: float) -> Markup:
    return Markup("&lt;0.001" if value < 0.001 else f"{value:.3f}")


def _standing(one: Comparison, margin: float) -> str:
    words = {
        "not worse": f"{one.second} is not worse than {one.first} by {100 * margin:g} points or more",
        "worse": f"{one.second} is worse than {one.first} by more than {100 * margin:g} points",
        "undecided": f"whether {one.second} is worse than {one.first} by {100 * margin:g} points or more cannot be told",
    }
    found = one.found
    change = f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return f"{words[one.standing or 'undecided']} (pass@1 {change})"


def _latex(text: str) -> str:
    return one_line(text).translate(_LATEX)


_COMPARISON_COLUMNS = (
    "first",
    "second",
    "relation",
    "benchmark",
    "metric",
    "scope",
    "key",
    "rate_first",
    "rate_second",
    "difference",
    "low",
    "high",
    "num_pairs",
    "num_questions",
    "num_unpaired",
    "num_gained",
    "num_lost",
    "p_value",
    "family",
    "p_holm",
    "standing",
)
_FLIP_COLUMNS = (
    "first",
    "second",
    "benchmark",
    "sample_id",
    "repeat",
    "direction",
    "label_first",
    "label_second",
)


def _comparison_row(one: Comparison) -> list[Any]:
    found = one.found
    return [
        one.first,
        one.second,
        one.relation,
        one.benchmark,
        one.metric,
        one.scope,
        one.key,
        found.first,
        found.second,
        found.value,
        found.low,
        found.high,
        found.num_pairs,
        found.num_questions,
        one.num_unpaired,
        found.num_gained,
        found.num_lost,
        found.p_value,
        one.family,
        one.p_holm,
        one.standing or "",
    ]


def _flip_row(flip: Flip) -> list[Any]:
    completion = flip.before.completion
    return [
        flip.first,
        flip.second,
        flip.benchmark,
        completion.sample_id,
        completion.repeat,
        flip.direction,
        flip.before.answer.label,
        flip.after.answer.label,
    ]


def _table_rows(table: Table) -> tuple[list[str], Iterable[list[Any]]]:
    columns = [
        "variant",
        "compared_with",
        "benchmark",
        "metric",
        "scope",
        "key",
        "numerator",
        "denominator",
        "rate",
        "low",
        "high",
    ]
    rows = (
        [
            variant,
            against,
            column.benchmark,
            column.metric.key,
            column.scope,
            column.key,
            cell.rate.numerator,
            cell.rate.denominator,
            cell.rate.value,
            cell.rate.low,
            cell.rate.high,
        ]
        for variant, against, cells in table.rows
        for column, cell in zip(table.columns, cells, strict=True)
        if cell.rate
    )
    return columns, rows


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV that a spreadsheet opens as text: a cell that would begin a formula gets a quote before it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_harmless(value) for value in row] for row in rows)
    return file.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t")) else value
